"""The guardrail watcher over a real store and a real ledger."""

from __future__ import annotations

import random as randomness
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from segue import cli
from segue.deployed_params import remember
from segue.errors import ConfigurationError, StateError, UnavailableError
from segue.migration.decide import Target, newest
from segue.migration.deployment import read_current
from segue.migration.gates import read_facts
from segue.migration.ledger import Ledger
from segue.migration.online import About, online_evidence
from segue.migration.online_experiment import Experiment, Past, running_experiment
from segue.migration.online_users import OnlineUsers
from segue.migration.policy import Status, evaluate
from segue.migration.settings import MigrationSettings, OnlineSettings, Policy, Requirement
from segue.migration.state_machine import StateMachine
from segue.migration.watch import Watcher
from segue.params import load_params
from segue.registry.bundle import publish
from segue.schema import PathName, Stage
from segue.serving.requests import RecommendRequest
from segue.serving.service import Service
from segue.serving.store import Exposure, Retention, Store, tables
from segue.serving.watching import StoreReader, Watch
from segue.workspace import Workspace
from tests.migration.builders import SETTINGS, bundle, ledger, promote
from tests.migration.builders import machine as migration_machine
from tests.migration.experiments import CONTENDER, INCUMBENT_ALONE, at_pilot
from tests.postgres import PostgresServer
from tests.serving.store.builders import click, exposure
from tests.serving.worlds import FakePath

AT_ONCE = OnlineSettings(window_seconds=0, late_seconds=0, serving_window_seconds=0)
FALLBACKS = Requirement(
    metric="fallback_rate", kind="online", direction="at_most", margin=0.1, guardrail=True
)
GUARDED = SETTINGS.model_copy(update={"hybrid": Policy(requirements=(FALLBACKS,)), "online": AT_ONCE})


class Clock:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def time(self) -> float:
        return self.now


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store.at(tmp_path / "online.sqlite")
    yield made
    made.close()


def shown(number: int, arm: str = "treatment", **change: Any) -> Exposure:
    """A list of another user each, in the pilot that ``at_pilot`` makes."""
    fields: dict[str, Any] = {"arm": arm, "bundle": "B", "deployment": 2, "shown_at": time.time() - 5}
    return exposure(f"{arm}-{number}", f"{arm} user {number}", **(fields | change))


def watcher(machine: StateMachine, store: Store, **change: Any) -> Watcher:
    def reader(experiment: Experiment) -> StoreReader:
        return StoreReader(store, experiment, machine.settings.online)

    def no_facts(_: Experiment) -> Any:
        raise AssertionError("no guardrail is about items")

    fields: dict[str, Any] = {"catalogue": no_facts}
    return Watcher(machine, reader, lambda _: About("toy", "s", "c"), **(fields | change))


# -- the reader


@pytest.mark.parametrize("seed", range(4))
def test_what_is_counted_bit_by_bit_is_what_the_whole_store_says(
    seed: int, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Users come, come back and click, late and out of order, while the reader looks; one more begins half way."""
    clock, random = Clock(), randomness.Random(seed)
    monkeypatch.setattr("segue.serving.store.store.time", clock)
    experiment = running_experiment(at_pilot(tmp_path).state)
    assert experiment is not None
    experiment = replace(experiment, began_at=1003.0, past=Past(2, 1003.0))
    settings = OnlineSettings(window_seconds=4, late_seconds=2, serving_window_seconds=1)
    reader, second, ids = StoreReader(store, experiment, settings), None, []
    for number in range(120):
        clock.now += random.choice([0.0, 0.1, 0.5])
        others = [("treatment", 1), (None, None)]
        running = [("treatment", 2), ("control", 2)] if clock.now >= experiment.began_at else []
        arm, revision = random.choice(running + others)
        user = random.choice([f"u{random.randrange(25)}", None])
        ids.append(f"e{number}")
        store.log_exposures(
            [
                exposure(
                    ids[-1], user, arm=arm, deployment=revision, bundle=random.choice(["B", "B", "B", "Z"]),
                    fallback=random.choice([None, "slow"]), latency_ms=random.choice([1.0, 2.0]),
                    item_ids=random.sample(["i001", "i002", "i003"], random.randrange(4)),
                    sources=None, shown_at=clock.now,
                )
            ]
        )  # fmt: skip
        if random.random() < 0.7:
            # Of a list that was shown, of one that is yet to be logged, or of a user.
            named = random.choice([random.choice(ids), f"e{number + 2}", None])
            store.post_feedback(
                [
                    click(
                        f"f{number}", named, f"u{random.randrange(25)}" if named is None else None,
                        item_id=random.choice(["i001", "i002"]), timestamp=clock.now,
                    )
                ]
            )  # fmt: skip
        if number == 60:
            second = StoreReader(store, experiment, settings)  # a restart
        if random.random() < 0.15:
            for one in (reader, second):
                if one is None:
                    continue
                found, whole = one.users(clock.now), store.online_users(experiment, settings, now=clock.now)
                assert found.feedback.equals(whole.feedback)
                assert found.serving.equals(whole.serving)
                assert dict(found.assigned) == dict(whole.assigned)
                assert (found.first_exposed_at, found.last_exposed_at) == (
                    whole.first_exposed_at, whole.last_exposed_at,
                )  # fmt: skip
    assert reader.users(clock.now).feedback.height > 2


def test_a_look_reads_only_what_is_new(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = running_experiment(at_pilot(tmp_path).state)
    assert experiment is not None
    reader = StoreReader(store, experiment, AT_ONCE)
    read: list[set[str]] = []
    rows_of = store.rows_of
    monkeypatch.setattr(store, "rows_of", lambda users: (read.append(set(users)), rows_of(users))[1])
    store.log_exposures([shown(number) for number in range(50)])
    assert reader.users().serving.height == 50
    read.clear()
    assert reader.users().serving.height == 50
    assert read == []
    store.log_exposures([shown(50), shown(0, shown_at=time.time() - 1)])  # one is new, the other came back
    assert reader.users().serving.height == 51
    assert {user for users in read for user in users} == {store.user_hash("treatment user 50")}


def running(machine: StateMachine) -> Experiment:
    experiment = running_experiment(machine.state)
    assert experiment is not None
    return experiment


def equal(found: OnlineUsers, whole: OnlineUsers) -> bool:
    return (
        found.feedback.equals(whole.feedback)
        and found.serving.equals(whole.serving)
        and dict(found.assigned) == dict(whole.assigned)
    )


def test_a_user_whose_earlier_list_waited_in_a_spool_counts_once(store: Store, tmp_path: Path) -> None:
    settings = OnlineSettings(window_seconds=10, late_seconds=0, serving_window_seconds=1)
    reader = StoreReader(store, running(at_pilot(tmp_path)), settings)
    store.log_exposures([exposure("late", "u", bundle="B", deployment=2, shown_at=1000.0)])
    before = reader.users(1020.0)
    assert before.feedback["first_exposed_at"].to_list() == [1000.0]
    store.log_exposures([exposure("early", "u", bundle="B", deployment=2, shown_at=990.0)])
    after = reader.users(1030.0)
    assert after.feedback.equals(before.feedback)  # a user's figures never change after they have entered
    assert after.serving.equals(before.serving)
    assert dict(after.assigned) == {"treatment": 1}


def test_a_refresh_is_counted_on_without_reading_anybody_again(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = OnlineSettings(window_seconds=10, late_seconds=0, serving_window_seconds=1)
    machine = at_pilot(tmp_path)
    reader = StoreReader(store, running(machine), settings)
    rows = [exposure(f"e{n}", f"u{n}", bundle="B", deployment=2, shown_at=1000.0 + n) for n in range(20)]
    store.log_exposures(rows)
    assert reader.users(1015.5).feedback.height == 6
    newer = bundle("C", model="M2")
    machine.refresh(promote(Target.REFRESH_RETRAIN, newer), newer)
    refreshed = running(machine)
    reader.continue_with(refreshed)
    read: set[str] = set()
    rows_of = store.rows_of
    monkeypatch.setattr(store, "rows_of", lambda users: (read.update(users), rows_of(users))[1])
    # One whose window is open comes back, one is new, and what the old bundle shows by mistake does not count.
    store.log_exposures(
        [
            exposure("back", "u19", bundle="C", deployment=3, shown_at=1025.0),
            exposure("new", "u20", bundle="C", deployment=3, shown_at=1025.0),
            exposure("no", "u21", bundle="B", deployment=3, shown_at=1025.0),
        ]
    )
    found = reader.users(1040.0)
    assert equal(found, store.online_users(refreshed, settings, now=1040.0))
    assert found.feedback["exposures"].sum() == 22
    assert not read & {store.user_hash(f"u{n}") for n in range(6)}


def test_a_reading_asks_for_the_experiment_alone_and_for_what_is_new(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = StoreReader(store, running(at_pilot(tmp_path)), AT_ONCE)
    came: list[int | None] = []
    keys = store.exposure_keys

    def spied(**which: Any) -> Any:
        for row in keys(**which):
            came.append(row[2])
            yield row

    monkeypatch.setattr(store, "exposure_keys", spied)
    store.log_exposures([shown(n, deployment=deployment) for n, deployment in enumerate([1, None, 2, 3, 2])])
    assert reader.users().serving.height == 2
    assert came == [2, 2]
    assert reader.users().serving.height == 2
    assert came == [2, 2]


def test_who_was_due_when_the_store_failed_is_counted_by_the_next_call(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = StoreReader(store, running(at_pilot(tmp_path)), AT_ONCE)
    store.log_exposures([shown(number) for number in range(5)])

    def away(_: Any) -> Any:
        raise UnavailableError("the database is away")

    with monkeypatch.context() as broken:
        broken.setattr(store, "rows_of", away)
        with pytest.raises(UnavailableError):
            reader.users()
    assert reader.users().serving.height == 5


def test_an_erased_user_is_forgotten_at_the_next_look(store: Store, tmp_path: Path) -> None:
    settings = OnlineSettings(window_seconds=10, late_seconds=0, serving_window_seconds=1)
    experiment = running(at_pilot(tmp_path))
    reader = StoreReader(store, experiment, settings)
    rows = [exposure(f"e{n}", f"u{n}", bundle="B", deployment=2, shown_at=1000.0 + n) for n in range(8)]
    store.log_exposures(rows)
    assert reader.users(1014.5).feedback.height == 5
    # One who was counted, one whose window is open, and the newest, whose number SQLite gives out again.
    for name in ("u1", "u6", "u7"):
        store.erase_user(name)
    store.log_exposures(
        [exposure(f"f{n}", f"v{n}", bundle="B", deployment=2, shown_at=1010.0) for n in range(3)]
    )
    for now in (1014.6, 1030.0):
        assert equal(reader.users(now), store.online_users(experiment, settings, now=now))
    kept = {store.user_hash(name) for name in ("u1", "u6", "u7")}
    assert not kept & {user for _, user in reader._feedback._waiting + reader._serving._waiting}
    assert not kept & set(reader._first)


def test_another_store_in_its_place_is_counted_afresh(store: Store, tmp_path: Path) -> None:
    experiment = running(at_pilot(tmp_path))
    reader = StoreReader(store, experiment, AT_ONCE)
    store.log_exposures([shown(number) for number in range(5)])
    assert reader.users().serving.height == 5
    store.prune(Retention(exposures=0.0))  # everything: the next rows begin with number 1 again
    store.log_exposures([shown(number) for number in range(10, 13)])
    assert equal(reader.users(), store.online_users(experiment, AT_ONCE))


def test_an_exposure_that_becomes_visible_late_is_counted(postgres: PostgresServer, tmp_path: Path) -> None:
    """Postgres gives numbers out before it commits: number 1 may come after number 2."""
    url = postgres.new_database()
    clock, store, other = Clock(), Store(url), Store(url)
    reader = StoreReader(store, running(at_pilot(tmp_path)), AT_ONCE, clock=clock.time)

    def row(name: str) -> dict[str, Any]:
        return {
            "exposure_id": name, "user_hash": other.user_hash(name), "arm": "treatment", "path": "generative",
            "bundle": "B", "deployment": 2, "item_ids": "[]", "shown_at": time.time() - 5,
        }  # fmt: skip

    with other._database.write() as slow:
        slow.execute(sa.insert(tables.exposures).values(row("slow")))
        store.log_exposures([shown(1)])
        assert reader.users().serving.height == 1
        clock.now += 29.0
        assert reader.users().serving.height == 1
    clock.now += 5.0  # nobody looked for a while
    assert reader.users().serving.height == 2
    clock.now += 31.0
    reader.users()
    assert reader._settled == store.newest_sequence("exposures")
    for one in (store, other):
        one.close()


# -- the watcher


def test_a_broken_guardrail_is_rolled_back_and_stays_so(store: Store, tmp_path: Path) -> None:
    machine = at_pilot(tmp_path, GUARDED)
    watch = watcher(machine, store)
    assert watch.look() is None
    store.log_exposures([shown(number) for number in range(60)])
    assert watch.look() is None  # all is well
    store.log_exposures([shown(number, fallback="it broke") for number in range(60, 200)])
    crossing = watch.look()
    assert crossing is not None
    assert crossing.crossed_at <= crossing.noticed_at <= crossing.acted_at
    current = machine.state.current
    assert current is not None
    assert (current.revision, current.stage) == (3, Stage.CASCADE)
    assert current.decision_sha256 == crossing.decision.sha256
    assert "fallback_rate" in current.reason
    assert watch.look() is None
    assert watch.experiment is None
    # The decision that let the pilot in is revoked, and a new one about the same recipe is refused.
    change = machine.advance(promote(Target.PILOT, CONTENDER, "again"), CONTENDER)
    assert not change.changed
    machine.ledger.verify()


@pytest.mark.parametrize("looked_before", [False, True], ids=["one look", "a sound look before"])
def test_the_crossing_is_when_the_user_counted_with_whom_the_bound_crossed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looked_before: bool
) -> None:
    """Neither the newest user counted nor the newest list, which is of somebody who has not counted yet."""
    windows = OnlineSettings(window_seconds=40, late_seconds=0, serving_window_seconds=20)
    machine = at_pilot(tmp_path, GUARDED.model_copy(update={"online": windows}))
    experiment, clock, began = running(machine), Clock(), time.time() - 1000
    monkeypatch.setattr("segue.serving.watching.time", clock)
    store.log_exposures(
        [shown(number, shown_at=began + number) for number in range(60)]
        + [shown(number, fallback="it broke", shown_at=began + number) for number in range(60, 201)]
    )
    watch = watcher(machine, store)
    if looked_before:
        clock.now = began + 85.5
        assert watch.look() is None
    clock.now = began + 219.5  # the last has not counted yet
    crossing = watch.look()
    assert crossing is not None
    failed = []  # the reference: user by user, from the whole store
    for number in range(60, 200):
        users = store.online_users(experiment, windows, now=began + number + 20)
        found = online_evidence(
            experiment, users, machine.settings, About("toy", "s", "c"), only=[FALLBACKS]
        ).evidence
        assert found[0].n == number + 1
        failed.append(
            evaluate(
                FALLBACKS, found, newest(found), recipe="R1", bundle="B", target=experiment.target.value
            ).status
            is Status.FAILED
        )
    assert crossing.crossed_at == began + 60 + failed.index(True) + 20
    assert 0 < failed.index(True) < 120


def test_a_good_experiment_is_never_raised(store: Store, tmp_path: Path) -> None:
    machine = at_pilot(tmp_path, GUARDED)
    watch = watcher(machine, store)
    for start in range(0, 600, 100):
        store.log_exposures([shown(number) for number in range(start, start + 100)])
        assert watch.look() is None
    current = machine.state.current
    assert current is not None
    assert (current.revision, current.stage) == (2, Stage.PILOT)


@pytest.mark.parametrize(
    "change",
    [
        {"bundle": "another recipe's"},
        {"deployment": 1},
        {"arm": None, "deployment": None},
        {"arm": "control"},
    ],
    ids=["bundle", "revision", "no arm", "control"],
)
def test_what_another_experiment_showed_never_counts(
    store: Store, tmp_path: Path, change: dict[str, Any]
) -> None:
    watch = watcher(at_pilot(tmp_path, GUARDED), store)
    store.log_exposures([shown(number, **({"fallback": "it broke"} | change)) for number in range(300)])
    assert watch.look() is None


def test_at_the_last_stage_its_own_policy_guards_what_serves(store: Store, tmp_path: Path) -> None:
    blended = FALLBACKS.model_copy(update={"path": "blended"})
    settings = GUARDED.model_copy(update={"full": Policy(requirements=(blended,))})
    machine = at_pilot(tmp_path, settings)
    for target in ("hybrid", "full"):
        machine.advance(promote(Target(target), CONTENDER), CONTENDER)
    store.log_exposures([shown(number, deployment=4, fallback="it broke") for number in range(100)])
    crossing = watcher(machine, store).look()
    assert crossing is not None
    assert crossing.change.deployment is not None
    assert crossing.change.deployment.stage is Stage.HYBRID


def test_a_canary_of_another_incumbent_is_watched(store: Store, tmp_path: Path) -> None:
    of_canary = FALLBACKS.model_copy(update={"path": "canary"})
    machine = migration_machine(
        tmp_path, GUARDED.model_copy(update={"canary_incumbent": Policy(requirements=(of_canary,))})
    )
    machine.bootstrap(INCUMBENT_ALONE)
    other = bundle("S", model=None, incumbent="incumbent-2")
    assert machine.canary(promote(Target.CANARY_INCUMBENT, other), other).changed
    store.log_exposures([shown(number, "canary", bundle="S", fallback="it broke") for number in range(100)])
    crossing = watcher(machine, store).look()
    assert crossing is not None
    assert crossing.change.deployment is not None
    assert [(arm.name, arm.bundle) for arm in crossing.change.deployment.arms] == [("cascade", "A")]


def test_one_of_several_watchers_acts(store: Store, tmp_path: Path) -> None:
    """They all see the crossing before any of them writes."""
    machines = [at_pilot(tmp_path, GUARDED)] + [StateMachine(ledger(tmp_path), GUARDED) for _ in range(3)]
    store.log_exposures([shown(number, fallback="it broke") for number in range(100)])
    together = threading.Barrier(len(machines))

    def run(machine: StateMachine) -> Any:
        rollback = machine.rollback

        def after_all(**event: Any) -> Any:
            together.wait(30)
            return rollback(**event)

        machine.rollback = after_all  # type: ignore[method-assign]  # to make them collide
        return watcher(machine, store).look()

    with ThreadPoolExecutor(len(machines)) as pool:
        found = list(pool.map(run, machines))
    assert sum(crossing is not None and crossing.change.changed for crossing in found) == 1
    assert len(machines[0].state.revisions) == 3
    machines[0].ledger.verify()


def test_two_watchers_go_back_one_stage(store: Store, tmp_path: Path) -> None:
    """One more user has counted when the other looks: its decision is no repetition of the first."""
    blended = FALLBACKS.model_copy(update={"path": "blended"})
    settings = GUARDED.model_copy(
        update={"full": Policy(requirements=(blended,)), "hybrid_path": PathName.BLENDED}
    )
    mine, theirs = at_pilot(tmp_path, settings), StateMachine(ledger(tmp_path), settings)
    mine.advance(promote(Target.HYBRID, CONTENDER), CONTENDER)
    store.log_exposures([shown(number, deployment=3, fallback="it broke") for number in range(100)])
    rollback, crossings = mine.rollback, []

    def after_the_other(**event: Any) -> Any:
        store.log_exposures([shown(100, deployment=3, fallback="it broke")])
        crossings.append(watcher(theirs, store).look())
        return rollback(**event)

    mine.rollback = after_the_other  # type: ignore[method-assign]  # between its judgement and its act
    watch = watcher(mine, store)
    assert watch.look() is None
    assert crossings[0] is not None
    assert watch.look() is None  # the pilot that serves now is another experiment
    assert [one.deployment.stage for one in mine.state.revisions[2:]] == [Stage.HYBRID, Stage.PILOT]


def test_a_rollback_that_is_not_possible_is_said_each_time(store: Store, tmp_path: Path) -> None:
    machine = at_pilot(tmp_path, GUARDED)
    store.log_exposures([shown(number, fallback="it broke") for number in range(100)])

    def refuse(**_: Any) -> Any:
        raise StateError("revision 2 has no good revision before it to roll back to")

    machine.rollback = refuse  # type: ignore[method-assign]  # the fault
    watch = watcher(machine, store)
    for _ in range(2):
        with pytest.raises(StateError, match="no good revision"):
            watch.look()


# -- the life of a watcher


@pytest.fixture
def piloting(workspace_root: Path, full: Path, incumbent_only: Path) -> Workspace:
    """A workspace in whose pilot half of the users get the generative path, and every user counts at once."""
    text = (workspace_root / "params.yaml").read_text()
    text = text.replace("pilot_share: 0.05 ", "pilot_share: 0.5 ").replace(
        "online: {window_seconds: 86400.0, late_seconds: 3600.0, serving_window_seconds: 600.0,",
        "online: {window_seconds: 0.0, late_seconds: 0.0, serving_window_seconds: 0.0,",
    )
    (workspace_root / "params.yaml").write_text(text)
    workspace = Workspace(workspace_root)
    opened = Ledger.open(workspace, "ml-100k")
    machine = StateMachine(opened, MigrationSettings(pilot_share=0.5))
    for folder in (incumbent_only, full):
        publish(folder, workspace.bundles("ml-100k"))
    machine.bootstrap(read_facts(incumbent_only))
    facts = read_facts(full)
    machine.advance(promote(Target.PILOT, facts), facts)
    opened.close()
    return workspace


def stage_of(workspace: Workspace) -> Stage:
    return read_current(workspace.state("ml-100k") / "deployment" / "current.json").deployment.stage


def until(holds: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def test_a_server_alone_is_guarded(
    piloting: Workspace, full_id: str, record_property: Callable[[str, object], None]
) -> None:
    """Its generative path breaks: breaker and fallback go on serving, the watcher in the same process ends the pilot."""
    service = Service.following(piloting, "ml-100k", environment={"SEGUE_WATCH": "1"}, poll_seconds=0.05)
    try:
        engine = service._serving().engines[full_id]
        broken = FakePath(PathName.GENERATIVE, len(engine.items))
        broken.error = RuntimeError("the model is gone")
        engine._guarded[PathName.GENERATIVE] = engine._guard(broken, engine._pool)
        began = time.time()
        for number in range(120):
            answer = service.recommend(RecommendRequest(user_id=f"visitor {number}", k=5))
            assert len(answer.items) == 5
        until(lambda: stage_of(piloting) is Stage.CASCADE)
        record_property("seconds_from_first_failure_to_rollback", time.time() - began)
        until(lambda: service._serving().revision == 3)
        assert service.recommend(RecommendRequest(user_id="visitor 1", k=5)).fallback is None
        watched = service.health()["watch"]
        assert watched["problem"] is None
        assert watched["looked_at"] > began
    finally:
        service.close()


def test_the_command_looks_once_and_says_what_it_did(
    piloting: Workspace, full_id: str, record_property: Callable[[str, object], None]
) -> None:
    def typed() -> str:
        done = CliRunner().invoke(cli.app, ["watch", "--once"], catch_exceptions=False)
        assert done.exit_code == 0
        return done.output

    assert "no guardrail has evidence yet (0 users counted)" in typed()
    store = Store.at(piloting.state("ml-100k") / "online.sqlite")
    store.log_exposures([shown(0, bundle=full_id)])
    assert re.search(r"no guardrail is broken; 0 of [1-9] surely hold \(1 users counted\)", typed())
    store.log_exposures([shown(number, bundle=full_id, fallback="it broke") for number in range(100)])
    store.close()
    told = typed()
    assert "guardrail crossed at" in told
    assert "rolled back at" in told
    assert stage_of(piloting) is Stage.CASCADE
    assert "no experiment runs" in typed()


def test_a_store_that_was_away_is_watched_again(
    piloting: Workspace, full_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    crossings: list[Any] = []
    watch = Watch(piloting, "ml-100k", told=crossings.append)
    store = Store.at(piloting.state("ml-100k") / "online.sqlite")
    away = threading.Event()
    away.set()
    keys = Store.exposure_keys

    def fails(self: Store, **which: Any) -> Any:
        if away.is_set():
            raise UnavailableError("the database is away")
        return keys(self, **which)

    monkeypatch.setattr(Store, "exposure_keys", fails)
    watch.start(every=0.02)
    try:
        store.log_exposures([shown(number, bundle=full_id, fallback="it broke") for number in range(100)])
        until(lambda: watch.problem == "the database is away")
        assert stage_of(piloting) is Stage.PILOT
        away.clear()
        until(lambda: len(crossings) == 1)
        assert watch.problem is None
        assert stage_of(piloting) is Stage.CASCADE
    finally:
        watch.stop()
        store.close()


def change_params(workspace: Workspace, old: str, new: str) -> None:
    text = workspace.params_file.read_text()
    assert old in text
    workspace.params_file.write_text(text.replace(old, new))


def test_a_changed_margin_guards_from_the_next_look_on(piloting: Workspace, full_id: str) -> None:
    """A wrong one is refused, and what held before goes on holding."""
    margin = "metric: fallback_rate, kind: online, direction: at_most, margin: 0.02"
    change_params(piloting, margin, margin.replace("0.02", "0.99"))
    watch = Watch(piloting, "ml-100k")
    store = Store.at(piloting.state("ml-100k") / "online.sqlite")
    try:
        store.log_exposures([shown(number, bundle=full_id, fallback="it broke") for number in range(100)])
        assert watch.look() is None
        change_params(piloting, margin.replace("0.02", "0.99"), margin.replace("0.02", "'little'"))
        assert watch.look() is None
        assert watch.problem is not None
        assert "not heeded, those of before guard: params.yaml: migration.hybrid" in watch.problem
        change_params(piloting, margin.replace("0.02", "'little'"), margin)
        assert watch.look() is not None
        assert watch.problem is None
    finally:
        watch.stop()
        store.close()


def test_a_machine_without_the_bundle_guards_what_needs_none(piloting: Workspace, full_id: str) -> None:
    change_params(
        piloting,
        "      - {metric: fallback_rate, kind: online, direction: at_most, margin: 0.02",
        "      - {metric: invalid_rate, kind: online, direction: at_most, margin: 0.1, guardrail: true}\n"
        "      - {metric: fallback_rate, kind: online, direction: at_most, margin: 0.02",
    )
    shutil.rmtree(piloting.bundles("ml-100k"))
    watch = Watch(piloting, "ml-100k")
    store = Store.at(piloting.state("ml-100k") / "online.sqlite")
    try:
        store.log_exposures([shown(number, bundle=full_id) for number in range(5)])
        assert watch.look() is None
        assert watch.problem is not None
        assert "guardrails about items do not guard" in watch.problem
        store.log_exposures([shown(n, bundle=full_id, fallback="it broke") for n in range(5, 150)])
        crossing = watch.look()
        assert crossing is not None
        assert "fallback_rate" in (crossing.decision.broken_guardrail or "")
    finally:
        watch.stop()
        store.close()


def test_what_cannot_be_watched_is_refused(workspace_root: Path) -> None:
    with pytest.raises(ConfigurationError, match="no deployment of ml-100k to watch"):
        Watch(Workspace(workspace_root), "ml-100k")


def test_a_misspelt_profile_leaves_the_experiment_guarded(
    piloting: Workspace, full_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    """By the parameters of the last deployment: every user of theirs counts at once."""
    remember(piloting, "ml-100k", load_params(piloting, "ml-100k"))
    profile = piloting.profile_file("ml-100k")
    profile.write_text("migrashun: {}\n" + profile.read_text())
    store = Store.at(piloting.state("ml-100k") / "online.sqlite")
    store.log_exposures([shown(number, bundle=full_id, fallback="it broke") for number in range(100)])
    store.close()
    watch = Watch(piloting, "ml-100k")
    try:
        assert watch.look() is not None
    finally:
        watch.stop()
    assert stage_of(piloting) is Stage.CASCADE
    assert "there is no section 'migrashun'" in caplog.text


def test_a_wrong_setting_is_refused(piloting: Workspace) -> None:
    with pytest.raises(ConfigurationError, match="SEGUE_WATCH is 'yes'"):
        Service.following(piloting, "ml-100k", environment={"SEGUE_WATCH": "yes"})
