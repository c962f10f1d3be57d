"""The watcher's own choices, with users made up: what guards, and what it keeps from look to look."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from segue.migration.decide import Target
from segue.migration.online import About
from segue.migration.online_experiment import Experiment, running_experiment
from segue.migration.online_users import CatalogueFacts, OnlineUsers
from segue.migration.settings import MigrationSettings, Policy, Requirement
from segue.migration.state_machine import StateMachine
from segue.migration.watch import Watcher, guarding_policy
from segue.schema import Stage
from tests.migration.builders import ONLINE, SETTINGS, bundle, promote
from tests.migration.experiments import CONTENDER, at_pilot, online, users

FALLBACKS = Requirement(
    metric="fallback_rate", kind="online", direction="at_most", margin=0.1, guardrail=True
)
UNKNOWN = FALLBACKS.model_copy(update={"metric": "invalid_rate"})


def at_full(folder: Path, settings: MigrationSettings) -> StateMachine:
    machine = at_pilot(folder, settings)
    for target in (Target.HYBRID, Target.FULL):
        machine.advance(promote(target, CONTENDER), CONTENDER)
    return machine


def running(machine: StateMachine) -> Experiment:
    experiment = running_experiment(machine.state)
    assert experiment is not None
    return experiment


def paths(policy: Policy) -> list[tuple[str, str]]:
    return [(one.metric, one.path) for one in policy.requirements]


def test_at_the_last_stage_the_cascade_is_asked_what_it_was_asked(tmp_path: Path) -> None:
    of_cascade = FALLBACKS.model_copy(update={"path": "cascade", "margin": 0.5})
    blended = [one.model_copy(update={"path": "blended"}) for one in (ONLINE, FALLBACKS)]
    settings = SETTINGS.model_copy(update={"full": Policy(requirements=(*blended, of_cascade))})
    experiment = running(at_full(tmp_path, settings))
    assert experiment.stage is Stage.FULL
    serves = experiment.on_trial.label
    asked = paths(guarding_policy(experiment, settings))
    assert asked == [("ctr", serves), ("fallback_rate", serves), ("fallback_rate", "cascade")]


def test_a_canary_at_the_last_stage_is_asked_what_the_policy_of_recipes_says(tmp_path: Path) -> None:
    recipe = Policy(requirements=(ONLINE, FALLBACKS.model_copy(update={"path": "rerank"})))
    settings = SETTINGS.model_copy(update={"refresh_recipe": recipe})
    machine, another = at_full(tmp_path, settings), bundle("D", model="M2", recipe="R2")
    machine.canary(promote(Target.REFRESH_RECIPE, another), another)
    experiment = running(machine)
    assert (experiment.stage, experiment.target) == (Stage.FULL, Target.REFRESH_RECIPE)
    assert guarding_policy(experiment, settings) == recipe


class Reader:
    """Everybody was counted before the first look."""

    def __init__(self, experiment: Experiment, everybody: OnlineUsers) -> None:
        self.experiment = experiment
        self.moment = 1e9
        self.everybody = everybody

    def users(self) -> OnlineUsers:
        return self.everybody

    def at(self, moment: float) -> OnlineUsers:
        del moment
        return self.everybody

    def moments(self, after: float) -> list[float]:
        return [one for one in (1000.0, 2000.0) if one > after]

    def continue_with(self, experiment: Experiment) -> None:
        self.experiment = experiment


@pytest.fixture
def piloting(tmp_path: Path) -> StateMachine:
    return at_pilot(tmp_path, SETTINGS.model_copy(update={"hybrid": Policy(requirements=(UNKNOWN,))}))


def watched(
    machine: StateMachine, everybody: OnlineUsers, catalogue: dict[str, frozenset[str]]
) -> tuple[Watcher, list[Reader]]:
    """``catalogue``: the known items of each bundle."""
    readers: list[Reader] = []

    def reader_for(experiment: Experiment) -> Reader:
        readers.append(Reader(experiment, everybody))
        return readers[-1]

    def facts(experiment: Experiment) -> CatalogueFacts:
        known = catalogue[experiment.on_trial.facts.bundle_id]
        return CatalogueFacts(items=known, known=known, long_tail=frozenset(), new=frozenset())

    made = Watcher(machine, reader_for, lambda _: About("toy", "s", "c"), catalogue=facts)
    return made, readers


def test_a_refresh_brings_its_own_items_and_keeps_the_reader(piloting: StateMachine) -> None:
    known, gone = frozenset({"a", "b"}), frozenset({"b"})
    watch, readers = watched(piloting, online(users(400, "treatment")), {"B": known, "C": gone})
    assert watch.look() is None
    newer = bundle("C", model="M2")
    piloting.refresh(promote(Target.REFRESH_RETRAIN, newer), newer)
    crossing = watch.look()  # half of what is shown is in no bundle by now
    assert crossing is not None
    assert "invalid_rate" in (crossing.decision.broken_guardrail or "")
    assert [one.experiment.revision for one in readers] == [3]


def test_another_experiment_has_another_reader(piloting: StateMachine) -> None:
    watch, readers = watched(piloting, online(users(10, "treatment")), {"B": frozenset({"a", "b"})})
    assert watch.look() is None
    piloting.advance(promote(Target.HYBRID, CONTENDER), CONTENDER)
    watch.look()
    piloting.rollback(actor="alice", reason="a drill")
    watch.look()
    entries = [one.experiment.entry for one in readers]
    assert entries == [2, 3, 2]


def test_a_crossing_lies_behind_the_last_sound_look(piloting: StateMachine) -> None:
    """Whoever was counted late (their lists waited in a spool) was in no earlier look."""
    settings: dict[str, Any] = {"hybrid": Policy(requirements=(FALLBACKS,))}
    piloting.settings = SETTINGS.model_copy(update=settings)
    watch, readers = watched(piloting, online(users(400, "treatment")), {})
    assert watch.look() is None
    readers[0].moment = 1e9 + 5
    readers[0].everybody = online(users(500, "treatment", fallback=1.0))
    crossing = watch.look()
    assert crossing is not None
    assert crossing.crossed_at == 1e9 + 5


def test_a_sound_look_at_one_experiment_says_nothing_of_another(piloting: StateMachine) -> None:
    """Gone back to, the pilot has users who counted long before the hybrid was found in order."""
    guarded = Policy(requirements=(FALLBACKS,))
    piloting.settings = SETTINGS.model_copy(update={"hybrid": guarded, "full": guarded})
    piloting.advance(promote(Target.HYBRID, CONTENDER), CONTENDER)
    came = {
        Stage.HYBRID: online(users(400, "treatment")),
        Stage.PILOT: online(users(400, "treatment", fallback=1.0)),
    }
    watch = Watcher(
        piloting,
        lambda experiment: Reader(experiment, came[experiment.stage]),
        lambda _: About("toy", "s", "c"),
        catalogue=lambda _: None,
    )
    assert watch.look() is None
    piloting.rollback(actor="alice", reason="a drill")
    crossing = watch.look()
    assert crossing is not None
    assert crossing.crossed_at == 1000.0
