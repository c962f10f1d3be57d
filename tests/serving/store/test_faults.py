"""Killed writers, writers side by side, locks: what was acknowledged is there, what was not may be repeated."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from segue.database import checked_url
from segue.errors import UnavailableError
from segue.serving.store import Store
from tests.postgres import PostgresServer
from tests.serving.store.builders import click, event, exposure

WRITER = """
import sys
from segue.serving.store import Store
from tests.postgres import PostgresServer
from tests.serving.store.builders import click, event, exposure
store, who, rounds = Store(sys.argv[1]), sys.argv[2], int(sys.argv[3])
for number in range(rounds):
    name = f"{who}-{number}"
    store.log_exposures([exposure(name)])
    store.post([event(name, when=number), event(f"shared-{number}")])
    store.post_feedback([click(name, name)])
    print(name, flush=True)
"""


def writer(url: str, who: str, rounds: int, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, url, who, str(rounds)], cwd=folder, stdout=subprocess.PIPE, text=True
    )


def test_a_killed_writer_loses_nothing_that_it_acknowledged(database_url: str, repository: Path) -> None:
    killed = writer(database_url, "w", 10**6, repository)
    assert killed.stdout is not None
    acknowledged = [killed.stdout.readline().strip() for _ in range(25)]
    os.kill(killed.pid, signal.SIGKILL)
    acknowledged += killed.stdout.read().split("\n")[:-1]  # a half line at the end was not told
    assert killed.wait() == -signal.SIGKILL
    store = Store(database_url)
    shown = {row["exposure_id"] for row in store.exposures()}
    assert set(acknowledged) <= shown
    assert len(shown) <= len(acknowledged) + 1
    coverage = store.user_sums().coverage
    assert len(acknowledged) <= coverage.stated == coverage.feedback
    posted = store.post([event(name) for name in acknowledged])
    assert posted.new == 0
    # Who was not told sends it again: the rest of a half-done round is no duplicate of anything.
    store.log_exposures([exposure(name) for name in shown])
    assert len(store.exposures()) == len(shown)
    store.close()


def test_two_processes_write_at_once(database_url: str, repository: Path) -> None:
    writers = [writer(database_url, who, 20, repository) for who in "ab"]
    for one in writers:
        one.communicate(timeout=60)
        assert one.returncode == 0
    store = Store(database_url)
    counts = store.counts()
    assert (counts["exposures"], counts["feedback"], counts["events"]) == (40, 40, 60)
    assert store.user_sums().coverage.stated == 40
    store.close()


def test_a_lock_that_is_held_for_long_is_one_clear_error(database_url: str) -> None:
    store = Store(database_url, busy_seconds=0.2)
    engine = sa.create_engine(checked_url(database_url, "url"))
    with engine.connect() as other:
        if engine.dialect.name == "sqlite":
            other.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            other.exec_driver_sql("LOCK TABLE segue_events IN ACCESS EXCLUSIVE MODE")
        started = time.monotonic()
        with pytest.raises(UnavailableError, match="another process has held it for long"):
            store.post([event("a")])
        assert time.monotonic() - started < 3
    engine.dispose()
    assert store.post([event("a")]).new == 1
    store.close()


def test_a_database_that_takes_no_write_is_away(postgres: PostgresServer) -> None:
    url = postgres.new_database()
    store = Store(url)
    database = url.rpartition("/test_")[2].partition("?")[0]
    engine = sa.create_engine(checked_url(url, "url"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"ALTER DATABASE test_{database} SET default_transaction_read_only = on")
    store.ping()  # a connection keeps what it began with
    store.close()
    with pytest.raises(UnavailableError, match="read-only"):
        store.ping()
    assert store.exposures() == []
    with engine.connect() as connection:
        connection.exec_driver_sql(f"ALTER DATABASE test_{database} RESET default_transaction_read_only")
    engine.dispose()
    store.close()
    store.ping()
    store.close()


def test_a_short_lock_is_waited_for(database_url: str) -> None:
    store = Store(database_url, busy_seconds=10)
    engine = sa.create_engine(checked_url(database_url, "url"))
    with engine.connect() as other:
        other.exec_driver_sql(
            "BEGIN IMMEDIATE"
            if engine.dialect.name == "sqlite"
            else "LOCK TABLE segue_events IN ACCESS EXCLUSIVE MODE"
        )
        release = threading.Timer(0.3, other.rollback)
        release.start()
        assert store.post([event("a")]).new == 1
        release.join()
    engine.dispose()
    store.close()


def test_an_erasure_between_writers_leaves_nothing(database_url: str) -> None:
    """Writers that began before the erasure, and those that began after it."""
    store, other = Store(database_url), Store(database_url)
    stop = threading.Event()
    failures: list[BaseException] = []

    def write() -> None:
        number = 0
        try:
            while not stop.is_set():
                store.log_exposures([exposure(f"e{number}")])
                store.post([event(f"v{number}")])
                store.post_feedback([click(f"f{number}", None, "u00")])
                number += 1
        except BaseException as error:
            failures.append(error)
            raise

    thread = threading.Thread(target=write)
    thread.start()
    time.sleep(0.3)
    removed = other.erase_user("u00")
    time.sleep(0.2)
    stop.set()
    thread.join()
    assert not failures
    assert removed["events"] > 0
    assert store.history("u00") is None
    assert store.counts()["feedback"] == 0
    assert {row["user_hash"] for row in store.exposures()} <= {None}
    store.close()
    other.close()


@pytest.mark.parametrize("kind", ["exposures", "events", "feedback"])
def test_a_write_that_began_before_an_erasure_does_not_outlive_it(database_url: str, kind: str) -> None:
    """The writer has looked, has found nobody erased, and writes only then."""
    store, other = Store(database_url), Store(database_url)
    looked, go_on = threading.Event(), threading.Event()
    look = store._erased_among

    def look_and_wait(*arguments: Any) -> set[str]:
        found = look(*arguments)
        looked.set()
        assert go_on.wait(10)
        return found

    store._erased_among = look_and_wait  # type: ignore[method-assign]
    writes = {
        "exposures": lambda: store.log_exposures([exposure("e")]),
        "events": lambda: store.post([event("v")]),
        "feedback": lambda: store.post_feedback([click("f", None, "u00")]),
    }
    with ThreadPoolExecutor(2) as pool:
        written = pool.submit(writes[kind])
        assert looked.wait(10)
        erased = pool.submit(other.erase_user, "u00")
        time.sleep(0.3)
        assert not erased.done()
        go_on.set()
        written.result(timeout=10)
        assert erased.result(timeout=10)[kind] == 1
    assert other.counts()[kind] == 0
    store.close()
    other.close()


def test_a_database_that_is_nowhere_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="cannot be used right now") as raised:
        Store("postgresql://segue:secret@127.0.0.1:1/segue")
    assert "secret" not in str(raised.value)
    (tmp_path / "file").touch()
    with pytest.raises(UnavailableError, match="unable to open database file"):
        Store(f"sqlite:///{tmp_path / 'nowhere' / 'online.sqlite'}")
