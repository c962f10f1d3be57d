"""Context features: what gets a code, what is unknown, and that a model reads a request as it read the data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from segue.data.append import add_events
from segue.data.context import Vocabulary, pack
from segue.data.sequences import Sequences, from_events
from segue.data.settings import ContextFeature, DataSettings, SplitSettings, TableSource
from segue.data.sources import read_table
from segue.data.splits import make_splits
from segue.errors import ArtifactError, DataError
from segue.schema import UserGroup
from tests.data.examples import catalogue

FEATURES = {
    "device": ContextFeature(kind="category", column="Device", max_values=2),
    "plan": ContextFeature(kind="category", trait=True),
    "price": ContextFeature(kind="number", boundaries=(10, 20)),
    "hour": ContextFeature(kind="hour", utc_offset_hours=1),
    "weekday": ContextFeature(kind="weekday"),
    "gap": ContextFeature(kind="gap"),
}
MONDAY_NOON = 4 * 86_400 + 43_200  # 1970-01-05


def source() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "Device": ["tv", "phone", "tv", "phone", "watch", None],
            "plan": ["free", "free", "free", "paid", "paid", "paid"],
            "price": ["9.5", "10", "20", None, "12", "1e3"],
        }
    )


def events() -> pl.DataFrame:
    """Two users of three events each, an hour apart."""
    return pl.DataFrame(
        {
            "user_id": ["a"] * 3 + ["b"] * 3,
            "item_index": pl.Series([0, 1, 2, 0, 1, 2], dtype=pl.Int32),
            "timestamp": [MONDAY_NOON + 3600 * step for step in range(3)] + [MONDAY_NOON, MONDAY_NOON + 1, 0],
            "position": pl.Series([0, 1, 2] * 2, dtype=pl.Int32),
            "group": ["regular"] * 6,
            "part": ["train"] * 6,
            "context": pack(source(), FEATURES, "events.csv"),
        }
    )


VOCABULARY = Vocabulary.fit(FEATURES, events())


def test_values_get_codes_by_frequency_and_the_rest_is_unknown() -> None:
    assert VOCABULARY.values == {"device": ("phone", "tv"), "plan": ("free", "paid")}  # watch is the third
    assert VOCABULARY.sizes == (3, 33, 25, 3, 4, 8)
    assert list(VOCABULARY.features) == sorted(FEATURES)  # whatever order a profile has
    codes = VOCABULARY.events(events(), np.array([0, 3, 6]))
    assert codes[:, 0].tolist() == [2, 1, 2, 1, 0, 0]
    assert codes[:, 3].tolist() == [1, 1, 1, 2, 2, 2]
    assert codes[:, 4].tolist() == [1, 2, 3, 0, 2, 3]  # a boundary begins the next bucket
    assert codes[:, 2].tolist() == [14, 15, 16, 14, 14, 0]  # noon UTC is one o'clock there; no time: unknown
    assert codes[:, 5].tolist() == [1, 1, 1, 1, 1, 0]
    assert codes[:, 1].tolist() == [0, 12, 12, 0, 2, 0]  # a user's first event has no gap


def test_a_request_is_read_as_the_data_were() -> None:
    """Whatever an event's codes are, a request that says its values has them, too."""
    for row in VOCABULARY.events(events(), np.array([0, 3, 6])):
        assert VOCABULARY.request(VOCABULARY.values_of(row), None, 0).tolist() == row.tolist()
    said = VOCABULARY.request({"device": "tv"}, MONDAY_NOON + 3600, MONDAY_NOON)
    assert said.tolist() == [2, 12, 15, 0, 0, 1]  # the time by `now`, the gap since the newest event
    assert VOCABULARY.request({"hour": "3"}, MONDAY_NOON, 0).tolist() == [0, 0, 4, 0, 0, 1]  # said beats told


def test_of_a_history_only_what_serving_knows_is_read() -> None:
    times = np.array([MONDAY_NOON, 0])
    codes = VOCABULARY.history({"device": "tv", "plan": "paid", "price": "5"}, times)
    assert codes.tolist() == [[0, 0, 14, 2, 0, 1], [0, 0, 0, 2, 0, 0]]
    assert VOCABULARY.of_history == (2, 3, 5)


@given(
    name=st.sampled_from([*FEATURES, "colour"]),
    value=st.one_of(st.text(max_size=5), st.floats().map(str), st.integers().map(str)),
)
@settings(max_examples=150, deadline=None)
def test_any_text_is_a_code_or_a_complaint(name: str, value: str) -> None:
    codes = VOCABULARY.request({name: value}, None, 0)
    assert all(0 <= code < size for code, size in zip(codes.tolist(), VOCABULARY.sizes, strict=True))
    assert bool(VOCABULARY.complaints({name: value})) == (not codes.any())
    assert VOCABULARY.request(VOCABULARY.values_of(codes), None, 0).tolist() == codes.tolist()


def test_complaints_name_the_feature_and_spare_the_scenario() -> None:
    [undeclared, unknown] = VOCABULARY.complaints(
        {"colour": "red", "device": "radio", "scenario": "home"}, spared=("scenario",)
    )
    assert "'colour' is no declared feature" in undeclared
    assert "'radio', which the model does not know" in unknown
    assert VOCABULARY.complaints({"device": "tv", "hour": "23"}) == []
    assert len(VOCABULARY.complaints({"hour": "24", "gap": "-1", "price": "nan"})) == 3


def test_it_comes_back_as_it_was(tmp_path: Path) -> None:
    VOCABULARY.save(tmp_path)
    assert Vocabulary.load(tmp_path) == VOCABULARY
    (tmp_path / "context.json").write_text(json.dumps({"features": VOCABULARY.describe(), "values": {}}))
    with pytest.raises(ArtifactError, match="values are of other features"):
        Vocabulary.load(tmp_path)
    assert Vocabulary.load(tmp_path / "nowhere") is None


def test_sequences_carry_the_codes_memory_mapped(tmp_path: Path) -> None:
    made = from_events(events(), UserGroup.REGULAR, VOCABULARY)
    made.save(tmp_path / "with")
    found = Sequences.load(tmp_path / "with")
    assert isinstance(found.contexts, np.memmap)
    assert found.vocabulary == VOCABULARY
    assert found.contexts.tolist() == VOCABULARY.events(events(), np.array([0, 3, 6])).tolist()
    part = found.training_part()
    assert part.contexts is not None
    assert len(part.contexts) == len(part.items)
    from_events(events().drop("context"), UserGroup.REGULAR).save(tmp_path / "without")
    assert sorted(path.name for path in (tmp_path / "without").iterdir()) == [
        "items.npy", "offsets.npy", "test_at.npy", "timestamps.npy", "users.json", "validation_at.npy",
    ]  # fmt: skip
    assert Sequences.load(tmp_path / "without").contexts is None


def test_a_declared_column_goes_from_the_file_to_the_splits(tmp_path: Path) -> None:
    rows = [
        f"u{user},i{step},{100 * step + user},{'tv' if step % 2 else ''}"
        for user in range(9)
        for step in range(4)
    ]
    (tmp_path / "events.csv").write_text("user_id,item_id,timestamp,Device\n" + "\n".join(rows) + "\n")
    table = TableSource(path="events.csv")
    declared = {"device": FEATURES["device"]}
    read = read_table(table, "interactions", tmp_path, declared)
    appended = read_table(table, "interactions", tmp_path).head(1)
    grown = add_events(read, [appended], has_timestamps=True)
    assert grown["context"].to_list()[:3] == [None, '{"device": "tv"}', None]
    assert grown.height == 37
    assert grown["context"][-1] is None
    items = catalogue(sorted(set(read["item_id"])))
    tables = make_splits(read, items, SplitSettings(), has_timestamps=True, ordered=False)
    told = tables.interactions.select(tv=pl.col("context").is_not_null(), odd=pl.col("position") % 2 == 1)
    assert told["tv"].to_list() == told["odd"].to_list()
    plain = read_table(table, "interactions", tmp_path)
    assert "context" not in plain.columns
    assert "context" not in add_events(plain, [read], has_timestamps=True).columns


@pytest.mark.parametrize(
    ("feature", "told"),
    [
        ({"kind": "category", "column": "Gadget"}, "no column 'Gadget' for the context feature device"),
        (
            {"kind": "number", "column": "Device", "boundaries": (1,)},
            "data row 1: Device is 'tv', which is no number",
        ),
    ],
)
def test_a_wrong_declaration_is_one_clear_error(feature: dict[str, object], told: str) -> None:
    with pytest.raises(DataError, match=told):
        pack(source(), {"device": ContextFeature.model_validate(feature)}, "events.csv")
    assert (
        pack(source().select("plan"), {"device": ContextFeature(kind="category")}, "more.csv", lenient=True)[
            0
        ]
        is None
    )


@pytest.mark.parametrize(
    ("context", "told"),
    [
        ({"Device": {"kind": "category"}}, "must be named"),
        ({"price": {"kind": "number"}}, "a number needs them"),
        ({"price": {"kind": "number", "boundaries": [2, 1]}}, "must rise"),
        ({"hour": {"kind": "hour", "column": "h"}}, "read off the time"),
        ({"hour": {"kind": "minute"}}, "hour"),
    ],
)
def test_a_profile_that_makes_no_sense_is_refused(context: dict[str, object], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        DataSettings.model_validate({"reader": "ml-100k", "context": context})
    assert DataSettings(reader="ml-100k").context == {}


def test_a_column_that_is_no_json_is_told() -> None:
    with pytest.raises(DataError, match="no JSON object"):
        Vocabulary.fit(FEATURES, events().with_columns(context=pl.lit("tv")))
