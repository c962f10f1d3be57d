"""Serving while the store's database comes and goes: lists are made, no exposure is lost."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from segue.errors import StateError, UnavailableError
from segue.serving.guarded_store import GuardedStore
from segue.serving.requests import RecommendRequest
from segue.serving.service import Service
from segue.serving.spool import Spool
from segue.serving.store import Exposure, Store, StoredHistory
from segue.workspace import Workspace
from tests.postgres import PostgresServer
from tests.serving.store.builders import click, event, exposure
from tests.serving.test_following import Write, arm, deployment, first, workspace, write

__all__ = ["first", "workspace", "write"]  # fixtures


class Switch:
    """Opens a real store whose database is away while :attr:`off` is set."""

    def __init__(self, path: Path) -> None:
        self.off = False
        self.asked = 0
        self._path = path

    def __call__(self) -> Store:
        switch = self

        class Switched(Store):
            def ping(self) -> None:
                switch.check()
                super().ping()

            def history(self, user_id: str) -> StoredHistory | None:
                switch.check()
                return super().history(user_id)

            def log_exposures(self, shown: object) -> None:
                switch.check()
                super().log_exposures(shown)  # type: ignore[arg-type]

        self.check()
        return Switched.at(self._path)

    def check(self) -> None:
        self.asked += 1
        if self.off:
            raise UnavailableError("the database is away")


@pytest.fixture
def switch(tmp_path: Path) -> Switch:
    return Switch(tmp_path / "online.sqlite")


def guarded(switch: Switch, folder: Path) -> GuardedStore:
    return GuardedStore(switch, Spool(folder / "spool"), retry_seconds=0.02)


def wait_for(condition: Callable[[], bool], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


def stored(path: Path) -> list[str]:
    store = Store.at(path)
    found = [row["exposure_id"] for row in store.exposures()]
    store.close()
    return found


def test_exposures_wait_on_disk_and_follow(switch: Switch, tmp_path: Path) -> None:
    store = guarded(switch, tmp_path)
    assert store.expose([exposure("before")])
    switch.off = True
    assert store.expose([exposure("during")])
    assert store.problem == "the database is away"
    assert store.history("u00") == (None, "the user's history could not be read: the online store is away")
    for post in (lambda: store.post([event("a")]), lambda: store.post_feedback([click("f", "before")])):
        with pytest.raises(UnavailableError):
            post()
    (line,) = (path.read_text() for path in (tmp_path / "spool").iterdir())
    assert "u00" not in line  # hashed before it is written
    switch.off = False
    wait_for(lambda: store.problem is None)
    wait_for(lambda: not Spool(tmp_path / "spool").pending())
    assert store.expose([exposure("after")])
    assert (store.spooled, store.uncounted) == (1, 0)
    store.close()
    assert sorted(stored(tmp_path / "online.sqlite")) == ["after", "before", "during"]


def test_nobody_waits_for_what_is_known_to_be_away(switch: Switch, tmp_path: Path) -> None:
    store = GuardedStore(switch, Spool(tmp_path / "spool"), retry_seconds=3600)
    switch.off = True
    store.expose([exposure("e0")])
    wait_for(lambda: switch.asked == 3)  # the opening, the exposure, the watcher's first try
    for number in range(1, 50):
        assert store.expose([exposure(f"e{number}")])
    assert switch.asked == 3
    store.close()


def test_while_another_process_holds_the_lock_nobody_waits_for_it_twice(tmp_path: Path) -> None:
    path = tmp_path / "online.sqlite"
    store = GuardedStore(
        lambda: Store.at(path, busy_seconds=0.3), Spool(tmp_path / "spool"), retry_seconds=0.02
    )
    lock = sqlite3.connect(path, isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    with pytest.raises(UnavailableError, match="another process has held it for long"):
        store.post([event("a")])
    time.sleep(0.5)  # the watcher has tried again, in vain
    started = time.monotonic()
    for number in range(20):
        assert store.expose([exposure(f"e{number}")])
        assert "another process has held it for long" in str(store.problem)
    assert time.monotonic() - started < 0.3
    lock.rollback()
    lock.close()
    wait_for(lambda: store.problem is None)
    store.close()
    assert len(stored(path)) == 20


def test_a_server_starts_while_the_database_is_away(switch: Switch, tmp_path: Path) -> None:
    switch.off = True
    store = guarded(switch, tmp_path)
    assert store.expose([exposure("early")])
    done = threading.Event()
    store.when_there(lambda _: done.set())
    assert not done.is_set()
    switch.off = False
    assert done.wait(10)
    wait_for(lambda: store.problem is None)
    assert store.store is not None
    (row,) = store.store.exposures()
    assert row["user_hash"] == store.store.user_hash("u00")
    store.close()


def test_exposures_of_a_process_that_died_are_carried_over_at_the_next_start(
    switch: Switch, tmp_path: Path
) -> None:
    spool = Spool(tmp_path / "spool")
    spool.append([exposure("left behind")])
    spool.close()
    store = guarded(switch, tmp_path)
    wait_for(lambda: store.problem is None)
    store.close()
    assert stored(tmp_path / "online.sqlite") == ["left behind"]


def test_what_was_put_off_and_fails_keeps_nobody_from_the_store(switch: Switch, tmp_path: Path) -> None:
    switch.off = True
    guarded = GuardedStore(switch, Spool(tmp_path / "spool"), retry_seconds=0.02)

    def fails(store: Store) -> None:
        raise StateError("splits are incomplete")

    guarded.when_there(fails)
    switch.off = False
    deadline = time.monotonic() + 10
    while guarded.problem is not None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert guarded.problem is None
    assert guarded.put_off == "splits are incomplete"
    assert guarded.post([event("e1")]).new == 1
    guarded.when_there(lambda store: None)
    assert guarded.put_off is None
    guarded.close()


def test_an_erased_user_does_not_come_back_from_the_spool(switch: Switch, tmp_path: Path) -> None:
    store = guarded(switch, tmp_path)
    switch.off = True
    store.expose([exposure("e")])
    other = Store.at(tmp_path / "online.sqlite")
    other.erase_user("u00")
    switch.off = False
    wait_for(lambda: other.counts()["exposures"] == 1)
    assert [row["user_hash"] for row in other.exposures()] == [None]
    other.close()
    store.close()


def test_an_exposure_that_no_disk_takes_is_not_counted_and_that_is_said(
    switch: Switch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "spool").touch()
    store = guarded(switch, tmp_path)
    switch.off = True
    with caplog.at_level(logging.ERROR):
        assert not store.expose([exposure("a"), exposure("b")])
    assert "2 exposures could be logged nowhere" in caplog.text
    assert store.uncounted == 2
    store.close()


def test_a_mistaken_configuration_is_no_outage(tmp_path: Path) -> None:
    def refuse() -> Store:
        raise StateError("newer")

    with pytest.raises(StateError, match="newer"):
        GuardedStore(refuse, Spool(tmp_path))


def test_many_threads_through_many_outages_lose_nothing(switch: Switch, tmp_path: Path) -> None:
    store = guarded(switch, tmp_path)
    stop = threading.Event()
    logged: list[list[str]] = [[], [], []]

    def serve(who: int) -> None:
        number = 0
        while not stop.is_set():
            name = f"{who}-{number}"
            assert store.expose([exposure(name)])
            logged[who].append(name)
            number += 1

    threads = [threading.Thread(target=serve, args=(who,)) for who in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(8):
        time.sleep(0.05)
        switch.off = not switch.off
    stop.set()
    for thread in threads:
        thread.join()
    switch.off = False
    wait_for(lambda: store.problem is None and not Spool(tmp_path / "spool").pending())
    assert store.spooled > 0
    store.close()
    assert sorted(stored(tmp_path / "online.sqlite")) == sorted(name for some in logged for name in some)


class Interrupted(Spool):
    """A spool in which something happens just after a replay, or just before an append."""

    after_replay: Callable[[], object] | None = None
    before_append: Callable[[], object] | None = None

    def replay(self, write: Callable[[Sequence[Exposure]], None]) -> int:
        count = super().replay(write)
        todo, self.after_replay = self.after_replay, None
        if todo is not None:
            todo()
        return count

    def append(self, exposures: Sequence[Exposure]) -> None:
        todo, self.before_append = self.before_append, None
        if todo is not None:
            todo()
        super().append(exposures)


def test_what_is_spooled_between_the_replay_and_the_all_clear_is_carried_over(
    switch: Switch, tmp_path: Path
) -> None:
    spool = Interrupted(tmp_path / "spool")
    store = GuardedStore(switch, spool, retry_seconds=0.02)
    spool.after_replay = lambda: store.expose([exposure("between")])
    switch.off = True
    store.expose([exposure("during")])
    switch.off = False
    wait_for(lambda: store.problem is None and not spool.pending())
    store.close()
    assert sorted(stored(tmp_path / "online.sqlite")) == ["between", "during"]


def test_what_is_spooled_after_the_all_clear_is_carried_over(switch: Switch, tmp_path: Path) -> None:
    spool = Interrupted(tmp_path / "spool")
    store = GuardedStore(switch, spool, retry_seconds=0.02)

    def come_back() -> None:
        switch.off = False
        wait_for(lambda: store.problem is None and store._thread is None)

    spool.before_append = come_back
    switch.off = True
    assert store.expose([exposure("slow")])  # found the store away, and reaches the spool when it is back
    wait_for(lambda: store.problem is None and not spool.pending())
    store.close()
    assert stored(tmp_path / "online.sqlite") == ["slow"]


@pytest.fixture
def service(workspace: Workspace, write: Write, first: str, postgres: PostgresServer) -> Iterator[Service]:
    write(deployment(1, [arm("cascade", first)]))
    environment = {"SEGUE_DATABASE_URL": postgres.new_database()}
    made = Service.following(workspace, "tiny", environment=environment, poll_seconds=0.02)
    yield made
    made.close()


def test_a_postgres_that_goes_away_costs_neither_a_list_nor_an_exposure(
    service: Service, postgres: PostgresServer, write: Write, first: str
) -> None:
    known = service.recommend(RecommendRequest(user_id="u00", k=40))
    assert len(known.items) == 32  # of 40 items 8 are in the history
    answers = [known]
    postgres.stop()
    try:
        away = service.recommend(RecommendRequest(user_id="u00", k=40))
        assert len(away.items) == 40
        assert "history could not be read" in away.warnings[0]
        answers += [away, *service.recommend_batch([RecommendRequest(user_id=f"u0{n}") for n in range(3)])]
        with pytest.raises(UnavailableError, match="cannot be used right now"):
            service.feedback([click("f", away.exposure_id)])
        health = service.health()
        assert health["status"] == "degraded"
        assert "cannot be used right now" in health["store"]["problem"]
        assert health["store"]["spooled_exposures"] == 4
        write(deployment(2, [arm("cascade", first)]))  # a rollback must not wait for the database
        wait_for(lambda: service.health()["deployment"] == 2)
    finally:
        postgres.start()
    wait_for(lambda: service.health()["status"] == "ok")
    assert service.feedback([click("f", away.exposure_id, item_id=away.items[0].item_id)]).accepted == 1
    answers.append(service.recommend(RecommendRequest(user_id="u00", k=40)))
    assert len(answers[-1].items) == 32
    assert service._store is not None
    assert service._store.store is not None
    wait_for(lambda: len(service._store.store.exposures()) == len(answers))  # type: ignore[union-attr]
    assert {row["exposure_id"] for row in service._store.store.exposures()} == {
        answer.exposure_id for answer in answers
    }
    sums = service._store.store.user_sums()
    assert (sums.coverage.exposures, sums.coverage.stated) == (6, 1)
    assert sums.table["degraded"].sum() == 4
