"""Splits: order, groups, filtering, parts."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from segue.artifacts import write_json
from segue.data.settings import SplitSettings
from segue.data.splits import SplitTables, k_core, make_splits, stable_uniform, user_groups
from segue.errors import ArtifactError, DataError
from segue.items import Items
from segue.steps import splits as step
from tests.data.examples import catalogue, context, interactions, random_interactions

NOBODY_ASIDE = {"new_user_share": 0.0, "replay_user_share": 0.0}


def split(
    events: pl.DataFrame, *, ordered: bool = False, timestamps: bool = True, **options: object
) -> SplitTables:
    items = catalogue(sorted({*events["item_id"], "unseen"}))
    return make_splits(
        events, items, SplitSettings.model_validate(options), has_timestamps=timestamps, ordered=ordered
    )


def items_of(tables: SplitTables, user: str) -> list[str]:
    ids = Items(tables.items).ids
    mine = tables.interactions.filter(pl.col("user_id") == user)
    assert mine["position"].to_list() == list(range(mine.height))
    return [ids[index] for index in mine["item_index"]]


events_strategy = st.lists(
    st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("pqrst"), st.integers(0, 6)),
    min_size=12,
    max_size=60,
)


@settings(max_examples=25, deadline=None)
@given(rows=events_strategy, shuffle=st.randoms(use_true_random=False), core=st.sampled_from([0, 2]))
def test_the_order_of_the_rows_changes_nothing(
    rows: list[tuple[str, str, int]], shuffle: object, core: int
) -> None:
    # Three events a user: somebody can always be evaluated, unless the core leaves nothing.
    rows = rows + [(user, item, 9) for user in "abcdefgh" for item in "pqr"]
    other = list(rows)
    shuffle.shuffle(other)  # type: ignore[attr-defined]
    first, second = (split(interactions(table), k_core=core, min_history=3) for table in (rows, other))
    assert first.interactions.equals(second.interactions, null_equal=True)
    assert first.items.equals(second.items, null_equal=True)
    assert first.summary == second.summary


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    protocol=st.sampled_from(["leave_one_out", "global_time"]),
    core=st.sampled_from([0, 3]),
)
def test_training_comes_first_and_groups_are_disjoint(seed: int, protocol: str, core: int) -> None:
    events = random_interactions(60, 12, 600, seed=seed, span=500)
    tables = split(events, primary=protocol, k_core=core, global_time_min_test_users=5)
    rank = {"train": 0, "validation": 1, "test": 2}
    groups: dict[str, set[str]] = {}
    for (user,), mine in tables.interactions.group_by("user_id", maintain_order=True):
        ranks = [rank[part] for part in mine["part"]]
        assert ranks == sorted(ranks)
        assert mine["timestamp"].is_sorted()
        groups.setdefault(mine["group"].unique().item(), set()).add(str(user))
        if mine["group"][0] == "replay":
            assert set(ranks) == {0}
        elif protocol == "leave_one_out" and mine.height >= 3:
            assert Counter(ranks)[1] == Counter(ranks)[2] == 1
    assert sum(map(len, groups.values())) == tables.summary["users"]
    if protocol == "global_time":  # nothing that training sees is later than anything evaluated, for any user
        visible = tables.interactions.filter(pl.col("group") != "replay")
        latest = visible.group_by("part").agg(
            pl.col("timestamp").min().alias("low"), pl.col("timestamp").max().alias("high")
        )
        times = {part: (low, high) for part, low, high in latest.iter_rows()}
        assert times["train"][1] < times["validation"][0] <= times["validation"][1] < times["test"][0]


@settings(max_examples=25, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=60),
    k=st.integers(0, 5),
)
def test_the_core_is_the_fixed_point(rows: list[tuple[int, int]], k: int) -> None:
    left = list(rows)
    while True:  # the oracle removes one event at a time
        users, items = Counter(user for user, _ in left), Counter(item for _, item in left)
        bad = next((row for row in left if users[row[0]] < k or items[row[1]] < k), None)
        if bad is None:
            break
        left.remove(bad)
    found = k_core(interactions([(str(user), str(item), 0) for user, item in rows]), k)
    assert Counter(zip(found["user_id"], found["item_id"], strict=True)) == Counter(
        (str(u), str(i)) for u, i in left
    )


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), old=st.integers(5, 60), more=st.integers(1, 60))
def test_appended_data_moves_nobody(seed: int, old: int, more: int) -> None:
    options = SplitSettings(seed=seed, new_user_share=0.2, replay_user_share=0.3)
    before, after = (
        user_groups(pl.Series([f"u{n}" for n in range(size)]), options) for size in (old, old + more)
    )
    assert before.equals(after.head(old))


def test_shares_hold_in_expectation_and_differ_by_seed() -> None:
    ids = [f"user {number}" for number in range(20_000)]
    assert np.histogram(stable_uniform(1, ids), bins=10, range=(0, 1))[0] == pytest.approx(2000, rel=0.1)
    assert not np.array_equal(stable_uniform(1, ids), stable_uniform(2, ids))
    groups = user_groups(pl.Series(ids), SplitSettings())["group"].value_counts()
    shares = {name: count / len(ids) for name, count in groups.iter_rows()}
    assert shares == pytest.approx({"regular": 0.8, "new": 0.1, "replay": 0.1}, abs=0.01)


def test_the_hash_never_changes() -> None:
    """Written down once: another value would move users set aside into the training."""
    assert stable_uniform(17, ["u1", "ü\n"]).tolist() == [0.6559349652584595, 0.9640072221148918]


def test_ties_follow_neither_file_nor_item_order() -> None:
    rows = [(f"u{user}", f"i{item:02}", 5) for user in range(40) for item in range(6)]
    tables = split(interactions(rows), **NOBODY_ASIDE)
    last = Counter(items_of(tables, f"u{user}")[-1] for user in range(40))
    assert len(last) == 6  # every item is somebody's last
    assert tables.summary["tied_last_steps"] == 40


def test_tied_last_steps_are_those_of_evaluated_users() -> None:
    rows = [
        *[("tied", item, time) for item, time in (("a", 1), ("b", 2), ("c", 2))],
        *[("clear", item, time) for item, time in (("a", 1), ("b", 1), ("c", 2))],
        *[("short", item, 3) for item in ("a", "b")],
    ]
    summary = split(interactions(rows), **NOBODY_ASIDE).summary
    assert summary["tied_last_steps"] == 1
    assert summary["evaluated_users"] == {"regular": 2, "new": 0}


def test_ordered_data_keeps_its_order() -> None:
    rows = [("u", item, None) for item in "cabd"] + [("v", item, None) for item in "dcba"]
    tables = split(interactions(rows).reverse(), ordered=True, timestamps=False, **NOBODY_ASIDE)
    assert items_of(tables, "u") == list("cabd")
    assert items_of(tables, "v") == list("dcba")
    assert tables.summary["tied_last_steps"] is None
    assert tables.summary["refused"] == {
        "leave_one_out": None,
        "global_time": "the events carry no timestamps",
    }


def test_ordered_data_with_times_breaks_ties_by_its_order() -> None:
    rows = [("u", item, time) for item, time in (("d", 1), ("c", 2), ("b", 2), ("a", 2), ("e", 0))]
    assert items_of(split(interactions(rows), ordered=True, **NOBODY_ASIDE), "u") == list("edcba")


def test_leave_one_out_parts_and_training_counts() -> None:
    rows = [("u", item, time) for time, item in enumerate("abcd")] + [("one", "a", 0)]
    tables = split(interactions(rows), min_history=4, **NOBODY_ASIDE)
    parts = tables.interactions.filter(pl.col("user_id") == "u")["part"].to_list()
    assert parts == ["train", "train", "validation", "test"]
    counts = dict(zip(tables.items["item_id"], tables.items["train_count"], strict=True))
    assert counts == {"a": 2, "b": 1, "c": 0, "d": 0, "unseen": 0}


def test_training_counts_are_of_regular_users_alone() -> None:
    events = random_interactions(80, 10, 800)
    tables = split(events, new_user_share=0.3, replay_user_share=0.3)
    assert {"regular", "new", "replay"} == set(tables.interactions["group"])
    regular = tables.interactions.filter((pl.col("group") == "regular") & (pl.col("part") == "train"))
    expected = np.bincount(regular["item_index"].to_numpy(), minlength=tables.items.height)
    assert tables.items["train_count"].to_list() == expected.tolist()
    new = tables.interactions.filter(pl.col("group") == "new")
    assert {"train", "validation", "test"} == set(new["part"])


def test_the_item_universe() -> None:
    rows = [(f"u{user}", item, user) for user in range(4) for item in "abc"] + [("u0", "rare", 9)]
    with_cold = split(interactions(rows), k_core=3, **NOBODY_ASIDE)
    assert with_cold.items["item_id"].to_list() == ["a", "b", "c", "rare", "unseen"]
    without = split(interactions(rows), k_core=3, cold_items=False, **NOBODY_ASIDE)
    assert without.items["item_id"].to_list() == ["a", "b", "c"]
    assert without.items["item_index"].to_list() == [0, 1, 2]
    assert without.summary["left_out"] == {"interactions": 1, "users": 0, "items": 2}


def test_by_time_the_core_does_not_look_into_the_test_part() -> None:
    old = [(f"u{user}", item, user) for user in range(10) for item in "abc"]
    late = [(f"u{user}", item, 100) for user in range(10) for item in ("a", "late")]
    rows = [*old, *late, ("u0", "rare", 1), ("u1", "rare", 99), ("u2", "rare", 100)]
    options = {"primary": "global_time", "k_core": 3, "global_time_train_share": 0.6, **NOBODY_ASIDE}
    tables = split(interactions(rows), global_time_min_test_users=5, **options)
    seen = {Items(tables.items).ids[index] for index in tables.interactions["item_index"]}
    assert seen == {"a", "b", "c", "late"}  # "rare" has one event before the cut and falls, "late" has none
    without = split(interactions(rows), global_time_min_test_users=1, cold_items=False, **options)
    assert without.items["item_id"].to_list() == ["a", "b", "c"]


def test_by_time_users_without_history_stay_but_are_not_evaluated() -> None:
    old = [(f"u{user}", item, time) for user in range(10) for time, item in enumerate("abcdefg")]
    late = [(f"u{user}", "z", 50) for user in range(5)] + [("fresh", item, 60) for item in "ab"]
    tables = split(
        interactions([*old, *late]), primary="global_time", global_time_min_test_users=5, **NOBODY_ASIDE
    )
    assert tables.summary["evaluated_users"]["regular"] == 10
    assert tables.interactions.filter(pl.col("user_id") == "fresh")["part"].to_list() == ["test", "test"]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([], {}, "no rows left"),
        ([("u", "a", 1)], {}, "no regular user has 3 events"),
        (
            [("u", "abc"[n], n) for n in range(3)],
            {"primary": "global_time"},
            r"only . regular users .* 200 are needed",
        ),
        ([("u", "abc"[n], 5) for n in range(3)], {"primary": "global_time"}, "timestamp of the cut"),
        ([("u", "a", 1), ("u", "b", None), ("u", "c", 3)], {}, "1 events have no timestamp"),
    ],
)
def test_what_cannot_be_split_is_refused_with_the_reason(
    rows: list[tuple[str, str, int | None]], options: dict[str, object], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        split(interactions(rows), **{**NOBODY_ASIDE, **options})


def test_without_order_no_protocol_is_possible() -> None:
    rows = [("u", item, None) for item in "abcd"]
    with pytest.raises(DataError, match=r"neither timestamps nor an order.*possible: none"):
        split(interactions(rows), timestamps=False, **NOBODY_ASIDE)


def test_unknown_and_doubled_items_are_named() -> None:
    events = interactions([("u", item, 1) for item in "abc"])
    for items, message in (
        (["a", "b"], "lacks, such as 'c'"),
        (["a", "b", "c", "c"], "'c' appears more than once"),
    ):
        with pytest.raises(DataError, match=message):
            make_splits(events, catalogue(items), SplitSettings(), has_timestamps=True, ordered=False)


def test_settings_reject_nonsense() -> None:
    with pytest.raises(ValidationError):
        SplitSettings(new_user_share=0.6)


def test_the_step_writes_the_same_bytes_twice(tmp_path: Path) -> None:
    source = tmp_path / "validation"
    source.mkdir()
    events = random_interactions(50, 20, 600)
    catalogue([f"i{n}" for n in range(20)]).write_parquet(source / "catalogue.parquet")
    write_json(source / "source.json", {"has_timestamps": True, "ordered": False})
    written = []
    for run, rows in enumerate((events, events.sample(fraction=1.0, shuffle=True, seed=3))):
        rows.write_parquet(source / "interactions.parquet")
        made = context(tmp_path / str(run), "splits", {"validation": source})
        step.run(made)
        written.append({path.name: path.read_bytes() for path in made.output.iterdir()})
    assert written[0] == written[1]
    assert set(written[0]) == {"items.parquet", "interactions.parquet", "splits.json"}
    summary = json.loads(written[0]["splits.json"])
    assert summary["interactions"] == 600 == made.metrics["interactions"]
    (source / "source.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"source\.json"):
        step.run(made)
