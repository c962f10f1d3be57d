"""The guardrail watcher over a real store and a real ledger."""

from __future__ import annotations

import random as randomness
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from segue import cli
from segue.deployed_params import remember
from segue.errors import ConfigurationError, StateError, UnavailableError
from segue.migration.decide import Target
from segue.migration.deployment import read_current
from segue.migration.gates import read_facts
from segue.migration.ledger import Ledger
from segue.migration.online import About
from segue.migration.online_experiment import Experiment, running_experiment
from segue.migration.settings import MigrationSettings, OnlineSettings, Policy, Requirement
from segue.migration.state_machine import StateMachine
from segue.migration.watch import Watcher
from segue.params import load_params
from segue.registry.bundle import publish
from segue.schema import PathName, Stage
from segue.serving.requests import RecommendRequest
from segue.serving.service import Service
from segue.serving.store import Exposure, Store
from segue.serving.watching import StoreReader, Watch
from segue.workspace import Workspace
from tests.migration.builders import SETTINGS, ledger, promote
from tests.migration.experiments import CONTENDER, at_pilot
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
    experiment = replace(experiment, began_at=1003.0)
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

    assert "every guardrail holds" in typed()
    store = Store.at(piloting.state("ml-100k") / "online.sqlite")
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

    def fails(self: Store, *, after: int) -> Any:
        if away.is_set():
            raise UnavailableError("the database is away")
        return keys(self, after=after)

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
