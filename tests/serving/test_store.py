"""The online store."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import polars as pl
import pytest

from segue.errors import ArtifactError, StateError
from segue.serving.requests import Answer, Event, RecommendedItem
from segue.serving.store import Store
from tests.serving.worlds import USERS, write_splits


@pytest.fixture
def splits(tmp_path: Path) -> Path:
    return write_splits(tmp_path / "splits")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.at(tmp_path / "online.sqlite")


def event(name: str, item: str = "i039", when: int | None = 2_000_000, user: str = "u00") -> Event:
    return Event(event_id=name, user_id=user, item_id=item, timestamp=when)


def answer(**change: object) -> Answer:
    values = {
        "items": [RecommendedItem(item_id="i001", title=None, score=1.0, source="beam")],
        "path": "generative",
        "bundle": "b" * 64,
        "deployment": 3,
        "arm": "treatment",
        "preview": False,
        "fallback": None,
        "unknown_items": [],
        "latency_ms": 1.0,
    }
    return Answer.model_validate(values | change)


def test_a_snapshot_is_imported_once_without_replay_users(store: Store, splits: Path) -> None:
    assert store.import_snapshot(splits) == store.import_snapshot(splits) == USERS - 3
    history = store.history("u00")
    assert history is not None
    assert len(history.item_ids) == 8
    assert history.timestamps == sorted(history.timestamps)
    assert store.history(f"u{USERS - 1:02d}") is None


def test_posted_events_follow_the_snapshot_and_count_once(store: Store, splits: Path) -> None:
    store.import_snapshot(splits)
    assert store.post([event("a"), event("a"), event("b", "i038", 2_000_001)]) == 2
    assert store.post([event("a", "i000")]) == 0
    history = store.history("u00")
    assert history is not None
    assert history.item_ids[-2:] == ["i039", "i038"]


def test_a_newer_snapshot_that_holds_a_posted_event_does_not_repeat_it(store: Store, splits: Path) -> None:
    store.post([event("a", "i039", 2_000_000)])
    file = splits / "interactions.parquet"
    table = pl.read_parquet(file)
    extra = table.filter(pl.col("user_id") == "u00").tail(1)
    extra = extra.with_columns(
        pl.lit(39, dtype=pl.Int32).alias("item_index"),
        pl.lit(2_000_000, dtype=pl.Int64).alias("timestamp"),
        pl.lit(8, dtype=pl.Int32).alias("position"),
    )
    pl.concat([table, extra]).write_parquet(file)
    store.import_snapshot(splits)
    history = store.history("u00")
    assert history is not None
    assert history.item_ids.count("i039") == 1


def test_data_without_times_keeps_its_order(store: Store, splits: Path) -> None:
    file = splits / "interactions.parquet"
    table = pl.read_parquet(file).with_columns(pl.lit(None, dtype=pl.Int64).alias("timestamp"))
    table.write_parquet(file)
    store.import_snapshot(splits)
    store.post([event("a")])
    history = store.history("u00")
    assert history is not None
    expected = table.filter(pl.col("user_id") == "u00").sort("position")["item_index"].to_list()
    assert history.item_ids == [*(f"i{index:03d}" for index in expected), "i039"]


def test_exposures_are_durable_and_name_nobody(store: Store, tmp_path: Path) -> None:
    store.log_exposures([("u00", answer()), (None, answer(arm=None))])
    with sqlite3.connect(tmp_path / "online.sqlite") as other:  # another process sees them at once
        assert other.execute("select count(*) from segue_exposures").fetchone() == (2,)
    first, second = store.exposures()
    assert first["user_hash"] == store.user_hash("u00") != "u00"
    assert (first["item_ids"], first["arm"], first["deployment"]) == (["i001"], "treatment", 3)
    assert second["user_hash"] is None
    assert [row["sequence"] for row in store.exposures(after=first["sequence"])] == [second["sequence"]]


def test_a_preview_is_no_exposure(store: Store) -> None:
    with pytest.raises(StateError, match="preview"):
        store.log_exposures([("u00", answer(preview=True))])
    assert store.exposures() == []


def test_an_erased_user_stays_erased(store: Store, splits: Path) -> None:
    store.import_snapshot(splits)
    store.post([event("a")])
    store.log_exposures([("u00", answer()), ("u01", answer())])
    store.erase_user("u00")
    assert store.history("u00") is None
    assert [row["user_hash"] for row in store.exposures()] == [store.user_hash("u01")]
    table = pl.read_parquet(splits / "interactions.parquet").with_columns(pl.col("timestamp") + 1)
    table.write_parquet(splits / "interactions.parquet")
    store.import_snapshot(splits)
    assert store.history("u00") is None
    assert store.history("u01") is not None


def test_hashes_survive_reopening_and_differ_between_stores(store: Store, tmp_path: Path) -> None:
    again, other = Store.at(tmp_path / "online.sqlite"), Store.at(tmp_path / "other.sqlite")
    assert store.user_hash("u") == again.user_hash("u") != other.user_hash("u")


def test_another_schema_version_is_refused(store: Store, tmp_path: Path) -> None:
    store.close()
    with sqlite3.connect(tmp_path / "online.sqlite") as raw:
        raw.execute("update segue_store set value = '9' where key = 'schema_version'")
    with pytest.raises(StateError, match="schema version 9"):
        Store.at(tmp_path / "online.sqlite")


def test_a_missing_snapshot_is_named(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"interactions\.parquet is missing"):
        store.import_snapshot(tmp_path / "nowhere")
