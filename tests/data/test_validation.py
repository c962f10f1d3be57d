"""Bad rows are set aside with their reason; bad tables stop the run. Great Expectations and polars must
agree."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from segue.artifacts import read_json
from segue.data.expectations import RowRule, TableToJudge, judge
from segue.data.settings import TableSource, ValidationSettings
from segue.data.sources import read_table
from segue.data.validation import Validated, validate
from segue.errors import DataError, SegueError
from segue.params import SECTIONS, Params
from segue.steps.runner import run_step
from segue.workspace import Workspace

from .examples import INTERACTIONS, catalogue

NOW = 1_000_000_000
SMALL: dict[str, Any] = {"min_interactions": 1, "min_users": 1, "min_items": 1, "max_quarantined_share": 1.0}


def events(rows: list[tuple[str | None, str | None, int | None, float | None]]) -> pl.DataFrame:
    return pl.DataFrame(
        [(user, item, time, order, None, weight) for order, (user, item, time, weight) in enumerate(rows)],
        schema=INTERACTIONS,
        orient="row",
    )


def run(
    folder: Path,
    rows: pl.DataFrame,
    items: pl.DataFrame | None = None,
    *,
    timestamps: bool = True,
    **settings: Any,
) -> Validated:
    return validate(
        rows,
        catalogue([]) if items is None else items,
        ValidationSettings(**(SMALL | settings)),
        has_timestamps=timestamps,
        has_catalogue=items is not None,
        now=NOW,
        pages=folder / "pages",
    )


BAD: dict[str, tuple[str | None, str | None, int | None, float | None]] = {
    "user_id is missing": (None, "a", 1, 1.0),
    "item_id is missing": ("u", None, 2, 1.0),
    "user_id is empty or holds a line break or another control character": ("u\nv", "a", 3, 1.0),
    "item_id is empty or holds a line break or another control character": ("u", "", 4, 1.0),
    "user_id begins or ends with a blank": (" u", "a", 3, 1.0),
    "item_id begins or ends with a blank": ("u", "a\u00a0", 4, 1.0),
    "timestamp is missing": ("u", "a", None, 1.0),
    "timestamp lies before 1970": ("u", "a", -1, 1.0),
    "timestamp lies in the future": ("u", "a", NOW + 86_401, 1.0),
    "weight is NaN or infinite": ("u", "a", 5, math.nan),
    "weight lies outside 0.0…5.0": ("u", "a", 6, 5.5),
    "the same event stands in an earlier row": ("u", "a", 100, 3.0),
    "the catalogue has no such item": ("u", "zz", 7, 1.0),
}


def test_every_bad_row_gets_its_reason(tmp_path: Path) -> None:
    good = [("u", "a", 100, 3.0), ("u", "b", 100, None), ("w", "a", NOW + 86_400, 0.0)]
    table = events([*good, *BAD.values()])
    found = run(tmp_path, table, catalogue(["a", "b"]), min_weight=0, max_weight=5)
    assert found.interactions.rows() == table.head(3).rows()
    assert found.quarantine["row"].to_list() == list(range(4, 17))  # counted from 1
    for reason, expected in zip(found.quarantine["reason"], BAD, strict=True):
        assert reason.split("; ")[0] == expected
    records = [json.loads(record) for record in found.quarantine["record"]]
    assert records[9] == {"user_id": "u", "item_id": "a", "timestamp": 5, "weight": "nan"}
    assert found.results["rows"]["interactions"] == {"read": 16, "kept": 3, "set_aside": 13}
    assert found.results["users_left_without_events"] == {"count": 2, "first": [" u", "u\nv"]}
    counted = {
        one["name"]: one["unexpected"]
        for one in found.results["expectations"]
        if one["table"] == "interactions"
    }
    assert sum(counted.values()) == len(BAD) + 2  # the empty item_id and the blank one are unknown besides
    found.raise_for_failures(tmp_path)  # a share of 1 was allowed
    assert (tmp_path / "pages" / "index.html").is_file()


def test_bad_items_and_emptied_fields(tmp_path: Path) -> None:
    items = catalogue(
        ["a", None, "a", "c\t", "d", "e"],
        title=["A", "B", "again", "C", "D", "E"],
        price=[1.0, None, None, None, -1.0, math.inf],
        year=[1999, None, None, None, 0, 2000],
        created_at=[5, None, None, None, None, NOW * 2],
    )
    found = run(tmp_path, events([("u", "a", 1, None), ("u", "d", 2, None), ("u", "c\t", 3, None)]), items)
    assert found.catalogue["item_id"].to_list() == ["a", "d", "e"]
    assert found.catalogue["title"].to_list() == ["A", "D", "E"]
    assert found.catalogue.select("price", "year", "created_at").rows() == [
        (1.0, 1999, 5),
        (None, None, None),
        (None, 2000, None),
    ]
    bad = found.quarantine.filter(pl.col("table") == "catalogue")
    assert bad["row"].to_list() == [2, 3, 4, 5, 6]
    assert bad["reason"][3].startswith(
        "price is negative, NaN or infinite (field emptied, row kept); year lies"
    )
    assert found.interactions["item_id"].to_list() == ["a", "d"]  # the item that was set aside is unknown


def test_ids_with_blanks_around_them_are_set_aside_and_never_stripped(tmp_path: Path) -> None:
    rows = events([("u", "a", 1, None), ("u ", "a", 2, None), ("u", "a b", 3, None), ("u \n", "a", 4, None)])
    found = run(tmp_path, rows, catalogue(["a", " a", "a b", " "]))
    assert found.interactions["item_id"].to_list() == ["a", "a b"]
    assert found.catalogue["item_id"].to_list() == ["a", "a b"]
    assert found.quarantine["reason"].to_list() == [
        "item_id begins or ends with a blank",
        "item_id begins or ends with a blank",
        "user_id begins or ends with a blank",
        "user_id is empty or holds a line break or another control character",
    ]


def test_ingestion_and_quarantine_count_rows_alike(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    source = TableSource(path="a.csv")
    path.write_text("user_id,item_id,timestamp,weight\nu,a,1,1\nu,b,2,bad\n")
    with pytest.raises(DataError, match="data row 2: 'bad' is no number"):
        read_table(source, "interactions", tmp_path)
    path.write_text("user_id,item_id,timestamp,weight\nu,a,1,1\nu,b,2,nan\n")
    assert run(tmp_path, read_table(source, "interactions", tmp_path)).quarantine["row"].to_list() == [2]


def test_without_a_catalogue_the_items_are_those_of_the_events(tmp_path: Path) -> None:
    found = run(
        tmp_path,
        events([("u", "b", None, None), ("u", "b", None, None), ("u", "a", None, 1)]),
        timestamps=False,
    )
    assert found.catalogue["item_id"].to_list() == ["a", "b"]
    assert found.interactions.height == 3  # without timestamps a repetition is no duplicate
    assert found.quarantine.is_empty()


def test_volume_freshness_and_share_stop_the_run_and_the_pages_show_it(tmp_path: Path) -> None:
    rows = events([("u", "a", NOW - 10 * 86_400, 1.0), ("u", "b", 1, 1.0), (None, "b", 2, 1.0)])
    found = run(tmp_path, rows, min_users=3, max_age_days=5, max_quarantined_share=0.2)
    failed = {one.name for one in found.findings if not one.success}
    assert failed == {
        "usable_users",
        "newest_event_age_days",
        "interactions_set_aside_share",
        "user_id_is_given",
    }
    with pytest.raises(DataError) as caught:
        found.raise_for_failures(tmp_path / "pages")
    message = str(caught.value)
    assert "At least 3 users are left (here 1; validation.min_users)" in message
    assert "The newest event is at most 5 days old" in message
    assert "1 × interactions: user_id is missing" in message
    assert "pages/index.html" in message
    assert (
        "set_aside_share"
        in next((tmp_path / "pages" / "validations" / "dataset").rglob("*.html")).read_text()
    )


def test_one_bad_row_stops_the_run_where_the_policy_says_stop(tmp_path: Path) -> None:
    rows = events([*(("u", "a", time, 1.0) for time in range(50)), ("u", None, 1, 1.0)])
    assert run(tmp_path, rows, max_quarantined_share=0.05).results["success"]
    stopped = run(tmp_path, rows, max_quarantined_share=0.05, on_bad_rows="stop")
    with pytest.raises(DataError, match=r"item_id is missing \(1 of 51 rows\)"):
        stopped.raise_for_failures(tmp_path)


def test_nothing_left_is_a_failure_and_no_crash(tmp_path: Path) -> None:
    found = run(tmp_path, events([(None, "a", 1, 1.0)]), max_age_days=1)
    assert found.interactions.is_empty()
    with pytest.raises(DataError, match="At least 1 interactions are left"):
        found.raise_for_failures(tmp_path)


def test_two_counts_that_differ_are_an_error(tmp_path: Path) -> None:
    wrong = RowRule(
        name="wrong",
        column="user_id",
        reason="never",
        bad=pl.lit(True),
        expectation="ExpectColumnValuesToNotBeNull",
    )
    table = TableToJudge(
        name="interactions", rows=events([("u", "a", 1, 1.0)]), rules=[wrong], types={}, tolerated_rows=0
    )
    with pytest.raises(SegueError, match="finds 1 rows in polars and 0 in Great Expectations"):
        judge([table], [], tmp_path / "pages")


def test_the_step_is_deterministic_and_leaves_the_old_artifact_when_it_stops(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    rows = [f"u{n % 7},i{n % 5},{n}" for n in range(70)]
    (tmp_path / "a.csv").write_text("\n".join(["user_id,item_id,timestamp", *rows, ",i1,5"]) + "\n")

    def params(**validation: Any) -> Params:
        sections = {name: {} for name in SECTIONS} | {"data": {"interactions": {"path": "a.csv"}}}
        return Params.model_validate(sections | {"validation": SMALL | validation})

    run_step(workspace, "t", "ingest", params())
    first = run_step(workspace, "t", "validation", params())
    again = run_step(workspace, "t", "validation", params(), force=True)
    assert first.manifest is not None
    assert again.manifest is not None
    assert first.manifest.content_sha256 == again.manifest.content_sha256
    folder = workspace.step("t", "validation")
    assert pl.read_parquet(folder / "interactions.parquet").height == 70
    assert pl.read_parquet(folder / "quarantine.parquet")["reason"].to_list() == ["user_id is missing"]
    assert (folder / "source.json").read_bytes() == (
        workspace.step("t", "ingest") / "source.json"
    ).read_bytes()
    with pytest.raises(DataError, match="At least 100 users"):
        run_step(workspace, "t", "validation", params(min_users=100))
    report: Any = read_json(workspace.reports("t") / "validation.json")
    assert not report["success"]
    assert (folder / "manifest.json").is_file()
