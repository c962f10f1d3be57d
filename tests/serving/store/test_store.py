"""The contract of the online store, on SQLite and on Postgres."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import ValidationError

from segue.database import namespace_of
from segue.errors import ArtifactError, ConfigurationError, StateError
from segue.serving.requests import Answer, Event, Feedback, RecommendedItem
from segue.serving.store import Exposure, Retention, Store, open_store
from segue.serving.store.records import REPLAYED
from segue.workspace import Workspace
from tests.postgres import PostgresServer
from tests.serving.store.builders import click, event, exposure
from tests.serving.worlds import USERS, write_splits

DAY = 86_400


@pytest.fixture
def splits(tmp_path: Path) -> Path:
    return write_splits(tmp_path / "splits")


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    made = Store(database_url)
    yield made
    made.close()


def items_of(store: Store, user: str) -> list[str]:
    found = store.history(user)
    assert found is not None
    return found.item_ids


def test_a_snapshot_is_imported_once_without_replay_users(store: Store, splits: Path) -> None:
    assert store.import_snapshot(splits) == store.import_snapshot(splits) == USERS - 3
    history = store.history("u00")
    assert history is not None
    assert len(history.item_ids) == 8
    assert history.timestamps == sorted(history.timestamps)
    assert store.history(f"u{USERS - 1:02d}") is None
    assert len(store.users()) == USERS - 3


def test_posted_events_follow_the_snapshot_and_count_once(store: Store, splits: Path) -> None:
    store.import_snapshot(splits)
    first = store.post([event("a"), event("a"), event("b", "i038", 2_000_001)])
    assert (first.new, first.duplicates) == (2, 1)
    again = store.post([event("a", "i000")])
    assert (again.new, again.duplicates) == (0, 1)
    assert items_of(store, "u00")[-2:] == ["i039", "i038"]


def test_events_of_one_second_keep_the_order_in_which_they_were_posted(store: Store) -> None:
    names = [f"i{number:03d}" for number in (5, 1, 9, 3, 7)]
    store.post([event(name, name, 7) for name in names])
    assert items_of(store, "u00") == names


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
    assert items_of(store, "u00").count("i039") == 1


def test_data_without_times_keeps_its_order(store: Store, splits: Path) -> None:
    file = splits / "interactions.parquet"
    table = pl.read_parquet(file).with_columns(pl.lit(None, dtype=pl.Int64).alias("timestamp"))
    table.write_parquet(file)
    store.import_snapshot(splits)
    store.post([event("a")])
    expected = table.filter(pl.col("user_id") == "u00").sort("position")["item_index"].to_list()
    assert items_of(store, "u00") == [*(f"i{index:03d}" for index in expected), "i039"]


def test_exposures_are_there_for_others_at_once_and_name_nobody(store: Store, database_url: str) -> None:
    store.log_exposures([exposure("e1"), exposure("e2", None, arm=None, warnings=["slow"])])
    store.log_exposures([exposure("e1", "u05", item_ids=["i009"])])  # a known id changes nothing
    other = Store(database_url)
    first, second = other.exposures()
    other.close()
    assert first["user_hash"] == store.user_hash("u00") != "u00"
    assert (first["item_ids"], first["arm"], first["deployment"]) == (["i001", "i002"], "treatment", 3)
    assert (first["shown_at"], first["latency_ms"], first["warnings"]) == (1000.5, 2.0, [])
    assert (second["user_hash"], second["warnings"]) == (None, ["slow"])
    assert (first["sources"], second["sources"]) == (["beam", "dense"], ["beam", "dense"])
    assert [row["exposure_id"] for row in store.exposures(after=first["sequence"])] == ["e2"]


def test_a_preview_is_no_exposure() -> None:
    answer = Answer(
        items=[RecommendedItem(item_id="i001", title=None, score=1.0, source="beam")],
        path="generative", bundle="b", deployment=3, arm=None, preview=True, fallback=None, unknown_items=[],
        latency_ms=1.0,
    )  # fmt: skip
    with pytest.raises(StateError, match="preview"):
        Exposure.of("u00", answer, 1.0)
    shown = Exposure.of("u00", answer.model_copy(update={"preview": False}), 1.0)
    assert (shown.item_ids, shown.user_id, shown.shown_at) == (["i001"], "u00", 1.0)
    assert shown.sources == ["beam"]
    assert shown.exposure_id


def sums(store: Store, **arguments: Any) -> dict[str, Any]:
    (row,) = store.user_sums(**arguments).table.to_dicts()
    return row


def test_feedback_joins_in_whatever_order_it_comes_and_however_often(database_url: str) -> None:
    """Orders of the same four calls, each made twice, that begin with every one of them: the same sums."""
    calls = {
        "shown": lambda store: store.log_exposures([exposure("e1"), exposure("e2", shown_at=2000.0)]),
        "early": lambda store: store.post_feedback([click("f1", "e1"), click("f1", "e1")]),
        "late": lambda store: store.post_feedback([click("f2", "e2", "u00", timestamp=2000 + 30 * DAY)]),
        "unnamed": lambda store: store.post_feedback(
            [click("f3", None, "u00", kind="purchase", value=9.5, timestamp=2001)]
        ),
    }
    found = []
    for number, order in enumerate(list(itertools.permutations(calls))[::4]):
        if database_url.startswith("sqlite"):
            store = Store(f"{database_url}-{number}")
        else:
            store = Store(database_url, namespace=f"order {number}")
        for name in (*order, *order[::-1]):
            calls[name](store)
        both = store.user_sums()
        assert both.coverage.stated == 2
        assert both.coverage.inferred == 1
        found.append(both.table.drop("user_hash").to_dicts())
        store.close()
    assert all(one == found[0] for one in found)
    (row,) = found[0]
    assert (row["exposures"], row["impressions"], row["clicks"], row["exposures_clicked"]) == (2, 4, 2, 2)
    assert (row["purchases"], row["revenue"]) == (1, 9.5)
    assert (row["first_exposed_at"], row["last_exposed_at"]) == (1000.5, 2000.0)


def test_feedback_that_belongs_nowhere_is_counted_with_its_reason(store: Store) -> None:
    store.log_exposures([exposure("e1"), exposure("e2", "u01"), exposure("e3", None)])
    posted = store.post_feedback(
        [
            click("ok", "e1"),
            click("nameless", "e3"),
            click("gone", "e9", "u00"),
            click("elsewhere", "e1", item_id="i777"),
            click("theirs", "e2", "u00"),
            click("old", None, "u00", timestamp=1000 + DAY + 1),
            click("before", None, "u00", timestamp=999),
            click("stranger", None, "u77"),
        ]
    )
    assert posted.new == 8
    coverage = store.user_sums().coverage
    assert (coverage.exposures, coverage.anonymous_exposures, coverage.feedback) == (3, 1, 8)
    assert (coverage.stated, coverage.inferred) == (2, 0)
    assert (coverage.unknown_exposure, coverage.not_shown, coverage.another_user) == (1, 1, 1)
    assert (coverage.no_exposure, coverage.unattributed) == (3, 6)
    assert store.user_sums(window_seconds=2 * DAY).coverage.inferred == 1


def test_sums_count_shown_items_once_and_keep_to_what_is_asked(store: Store) -> None:
    store.log_exposures(
        [
            exposure("a", deployment=1, arm="control", path="cascade", fallback="generative: slow"),
            exposure("b", deployment=2, shown_at=5000.0, warnings=["w"], latency_ms=8.0),
            exposure("c", deployment=2, shown_at=6000.0, item_ids=[]),
        ]
    )
    rate = {"kind": "rating", "item_id": "i002"}
    store.post_feedback(
        [
            *(click(f"click {number}", "b") for number in range(5)),  # one shown item, however often
            click("low", "b", **rate, value=1, timestamp=5001),
            click("high", "b", **rate, value=5, timestamp=5002),
            click("p1", "a", kind="purchase", value=2.0),
            click("p2", "a", kind="purchase", value=3.0),
            click("no", "a", kind="dismiss", item_id="i002"),
        ]
    )
    control, treatment = store.user_sums().table.to_dicts()
    assert (control["arm"], control["deployment"], control["fallbacks"], control["degraded"]) == (
        "control", 1, 1, 0,
    )  # fmt: skip
    assert (control["purchases"], control["revenue"], control["dismissals"], control["clicks"]) == (
        1, 5.0, 1, 0,
    )  # fmt: skip
    assert (treatment["exposures"], treatment["impressions"], treatment["clicks"]) == (2, 2, 1)
    assert (treatment["ratings"], treatment["rating_sum"]) == (1, 5.0)
    assert (treatment["degraded"], treatment["latency_ms_max"], treatment["latency_ms_sum"]) == (1, 8.0, 10.0)
    assert sums(store, deployments=[1]) == control
    assert sums(store, since=2000.0) == treatment
    assert sums(store, until=2000.0) == control
    assert sums(store, since=5500.0)["clicks"] == 0


def test_sums_are_the_same_however_users_are_grouped(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(40):
        store.log_exposures([exposure(f"e{number}", f"u{number % 13}", shown_at=1000.0 + number)])
    store.log_exposures([exposure("nameless", None)])
    store.post_feedback([click(f"f{number}", f"e{number}") for number in range(0, 45, 3)])
    store.post_feedback([click("n", "nameless"), click("x", "e1", "u0"), click("y", "nowhere", "u3")])
    store.post_feedback(
        [click(f"g{number}", None, f"u{number}", timestamp=1500) for number in range(0, 15, 2)]
    )
    whole = store.user_sums()
    monkeypatch.setattr("segue.serving.store.store._ROWS_A_BUCKET", 4)
    grouped = store.user_sums()
    assert grouped.coverage == whole.coverage
    assert grouped.table.equals(whole.table)
    assert whole.table.height == 13


def test_an_empty_store_has_empty_sums(store: Store) -> None:
    found = store.user_sums()
    assert found.table.is_empty()
    assert found.table.columns[:4] == ["user_hash", "arm", "deployment", "bundle"]
    assert found.coverage.exposures == 0


def test_tables_are_exported_whole(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segue.serving.store.store._ROWS_A_READ", 2)
    store.log_exposures([exposure(f"e{number}", item_ids=[f"i{number}"]) for number in range(5)])
    store.post([event("a"), event("b", user="u01")])
    for table, rows in (("exposures", 5), ("events", 2), ("feedback", 0)):
        assert store.export(table, tmp_path / "out" / f"{table}.parquet") == rows  # type: ignore[arg-type]
    shown = pl.read_parquet(tmp_path / "out" / "exposures.parquet")
    assert shown["item_ids"].to_list() == [[f"i{number}"] for number in range(5)]
    events = pl.read_parquet(tmp_path / "out" / "events.parquet")
    assert events["user_id"].to_list() == ["u00", "u01"]
    assert events["timestamp"].dtype == pl.Int64
    assert pl.read_parquet(tmp_path / "out" / "feedback.parquet").is_empty()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "events.parquet", "exposures.parquet", "feedback.parquet",
    ]  # fmt: skip
    (tmp_path / "taken").mkdir()
    with pytest.raises(IsADirectoryError):
        store.export("events", tmp_path / "taken")

    def away(*_: object) -> None:
        raise OSError("the database went away")

    monkeypatch.setattr(store, "_read_all", away)
    with pytest.raises(OSError, match="went away"):
        store.export("events", tmp_path / "taken" / "e.parquet")
    assert not list((tmp_path / "taken").iterdir())


def test_retention_removes_what_is_older_from_each_table(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segue.serving.store.store._ROWS_A_DELETE", 3)
    now = time.time()
    store.log_exposures([exposure(f"old{number}", shown_at=now - 10 * DAY) for number in range(8)])
    store.log_exposures([exposure("new", shown_at=now - 8 * DAY)])
    store.post([event("a")])
    store.post_feedback([click("f", "new")])
    retention = Retention(exposures=9, events=30)
    assert store.prune(retention, dry_run=True) == {"events": 0, "exposures": 8}
    assert len(store.exposures()) == 9
    assert store.prune(retention) == {"events": 0, "exposures": 8}
    assert [row["exposure_id"] for row in store.exposures()] == ["new"]
    assert store.prune(Retention()) == {}
    assert store.prune(Retention(events=1, feedback=1), now=now + 2 * DAY) == {"events": 1, "feedback": 1}
    assert store.counts()["exposures"] == 1


def test_an_erased_user_stays_erased(store: Store, splits: Path) -> None:
    store.import_snapshot(splits)
    store.post([event("a")])
    store.log_exposures([exposure("e0"), exposure("e1", "u01")])
    store.post_feedback([click("by exposure", "e0"), click("by name", None, "u00"), click("theirs", "e1")])
    removed = store.erase_user("u00")
    assert removed == {"histories": 1, "events": 1, "feedback": 2, "exposures": 1}
    assert store.history("u00") is None
    assert [row["user_hash"] for row in store.exposures()] == [store.user_hash("u01")]
    assert store.counts()["feedback"] == 1
    table = pl.read_parquet(splits / "interactions.parquet").with_columns(pl.col("timestamp") + 1)
    table.write_parquet(splits / "interactions.parquet")
    store.import_snapshot(splits)
    assert store.history("u00") is None
    assert store.history("u01") is not None


def test_nothing_about_an_erased_user_is_kept_until_they_are_readmitted(store: Store) -> None:
    store.erase_user("u00")
    posted = store.post([event("a"), event("b", user="u01")])
    assert (posted.new, posted.erased) == (1, 1)
    assert store.post_feedback([click("f", None, "u00")]).erased == 1
    store.log_exposures([exposure("e"), exposure("f", None, user_hash=store.user_hash("u00"))])
    assert [row["user_hash"] for row in store.exposures()] == [None, None]
    assert store.erased() == {store.user_hash("u00")}
    assert store.readmit_user("u00")
    assert not store.readmit_user("u00")
    assert store.post([event("a")]).new == 1


def test_what_was_erased_is_not_left_in_sqlite_s_files(tmp_path: Path) -> None:
    store = Store.at(tmp_path / "online.sqlite")
    store.post([event(f"event {number}", user="somebody@example.org") for number in range(50)])
    assert b"somebody@example.org" in b"".join(path.read_bytes() for path in tmp_path.glob("online*"))
    store.erase_user("somebody@example.org")
    assert b"somebody@example.org" not in b"".join(path.read_bytes() for path in tmp_path.glob("online*"))
    store.close()


def test_hashes_survive_reopening_and_differ_between_stores(
    store: Store, database_url: str, tmp_path: Path
) -> None:
    again, other = Store(database_url), Store.at(tmp_path / "other.sqlite")
    assert store.user_hash("u") == again.user_hash("u") != other.user_hash("u")
    again.close()


def test_datasets_share_a_database_without_seeing_each_other(
    postgres: PostgresServer, splits: Path, tmp_path: Path
) -> None:
    environment = {"SEGUE_DATABASE_URL": postgres.new_database()}
    workspace = Workspace(tmp_path)
    names = ("shop", 'sh"op', "shop" * 30, "shop" * 31)
    stores = [open_store(workspace, name, environment) for name in names]
    stores[0].import_snapshot(splits)
    stores[1].post([event("a")])
    assert [store.counts()["histories"] for store in stores] == [USERS - 3, 0, 0, 0]
    assert [store.counts()["events"] for store in stores] == [0, 1, 0, 0]
    assert len({store.salt for store in stores}) == 4
    assert all(len(namespace_of(name).encode()) <= 63 for name in names)
    again = open_store(workspace, "shop", environment)
    assert again.history("u00") is not None
    for store in (*stores, again):
        store.close()


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"SEGUE_DATABASE_URL": "sqlite:///x"}, "SEGUE_DATABASE_URL must be postgresql://"),
        ({"SEGUE_DATABASE_URL": "secret"}, "SEGUE_DATABASE_URL is no database URL"),
        ({"SEGUE_STORE": "mysql://u:secret@h/d"}, "SEGUE_STORE asks for 'mysql'"),
    ],
)
def test_a_wrong_setting_is_named_without_its_password(
    tmp_path: Path, environment: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message) as raised:
        open_store(Workspace(tmp_path), "shop", environment)
    assert "secret" not in str(raised.value)


def test_a_missing_snapshot_is_named(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"interactions\.parquet is missing"):
        store.import_snapshot(tmp_path / "nowhere")


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "online.sqlite").write_bytes(b"not a database " * 100)
    with pytest.raises(StateError, match="damaged or no SQLite database"):
        Store.at(tmp_path / "online.sqlite")


@pytest.mark.parametrize(
    "values",
    [
        {"feedback_id": "f", "kind": "click", "item_id": "i"},
        {"feedback_id": "f", "kind": "rating", "item_id": "i", "user_id": "u"},
        {"feedback_id": "f", "kind": "stare", "item_id": "i", "user_id": "u"},
        {"feedback_id": "f", "kind": "click", "item_id": "i\0", "user_id": "u"},
        {"feedback_id": "f", "kind": "purchase", "item_id": "i", "user_id": "u", "value": float("nan")},
        {"feedback_id": "f", "kind": "purchase", "item_id": "i", "user_id": "u"},
        {"feedback_id": "f", "kind": "purchase", "item_id": "i", "user_id": "u", "value": -3},
        {"feedback_id": "f", "kind": "click", "item_id": "i", "user_id": "u", "timestamp": 1e300},
    ],
)
def test_feedback_that_says_nothing_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Feedback.model_validate(values)


def test_ids_that_a_database_cannot_hold_are_refused() -> None:
    for change in ({"user_id": "a\0"}, {"event_id": "\0"}, {"timestamp": 2**63}, {"action": "x" * 201}):
        with pytest.raises(ValidationError):
            Event.model_validate({"event_id": "e", "user_id": "u", "item_id": "i"} | change)


def test_what_a_replay_left_is_no_part_of_the_genuine_counts(store: Store) -> None:
    replayed = f"{REPLAYED}e2"
    store.log_exposures([exposure("e1"), exposure(replayed)])
    store.post_feedback([click("f1", "e1"), click("f2", replayed), click("f3", None, "u00")])
    assert (store.counts()["exposures"], store.counts()["feedback"]) == (2, 3)
    assert store.genuine_counts() == {
        "exposures": 1,
        "feedback": 2,
    }  # feedback that names no list is no replay's
