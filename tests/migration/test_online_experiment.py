"""Which exposures count, as the ledger goes on."""

from __future__ import annotations

from pathlib import Path

from segue.migration.decide import Target
from segue.migration.online_experiment import Experiment, running_experiment
from segue.migration.state_machine import StateMachine
from segue.schema import PathName, Stage
from tests.migration.builders import NOON, bundle, machine, promote
from tests.migration.experiments import CONTENDER, INCUMBENT_ALONE, at_pilot


def running(machine: StateMachine) -> Experiment:
    found = running_experiment(machine.state)
    assert found is not None
    return found


def test_nothing_is_an_experiment_before_the_pilot(tmp_path: Path) -> None:
    empty = machine(tmp_path)
    assert running_experiment(empty.state) is None
    empty.bootstrap(INCUMBENT_ALONE)
    assert running_experiment(empty.state) is None


def test_a_pilot_compares_its_treatment_with_the_cascade(tmp_path: Path) -> None:
    found = running(at_pilot(tmp_path))
    assert (found.entry, found.target, found.stage) == (2, Target.HYBRID, Stage.PILOT)
    assert found.began_at == NOON.timestamp()
    assert found.baseline is not None
    assert (found.baseline.name, found.baseline.label) == ("control", "cascade")
    assert [arm.label for arm in found.contenders] == ["generative"]
    assert found.on_trial.facts == CONTENDER
    served = {(revision, arm) for revision, arm, _ in found.served}
    assert {(2, "control"), (2, "treatment")} <= served
    assert {revision for revision, _ in served} == {2}


def test_refreshes_go_on_with_it_and_another_stage_does_not(tmp_path: Path) -> None:
    found = at_pilot(tmp_path)
    before = running(found)
    tomorrow = bundle("C")  # the same recipe and weights
    found.refresh(promote(Target.REFRESH_DATA, tomorrow), tomorrow)
    after = running(found)
    assert after.identity == before.identity
    assert after.served > before.served
    assert {(3, "treatment", "C"), (2, "treatment", "B")} <= after.served
    found.advance(promote(Target.HYBRID, tomorrow), tomorrow)
    hybrid = running(found)
    assert hybrid.identity != after.identity
    assert {revision for revision, *_ in hybrid.served} == {4}
    assert (hybrid.target, hybrid.on_trial.path) == (Target.FULL, PathName.BLENDED)
    found.advance(promote(Target.FULL, tomorrow), tomorrow)
    assert running(found).target is Target.FULL
    found.rollback(actor="segue", reason="a guardrail", experiment=True)
    back = running(found)
    assert back.stage is Stage.HYBRID
    # Back where it was: the stage's first revision counts on, the one in between never did.
    assert {revision for revision, *_ in back.served} == {4, 6}


def test_another_recipe_begins_anew(tmp_path: Path) -> None:
    found = at_pilot(tmp_path)
    before = running(found)
    found.abandon(actor="a person", reason="another idea")
    assert running_experiment(found.state) is None
    other = bundle("D", model="M2", recipe="R2")
    found.advance(promote(Target.PILOT, other), other)
    after = running(found)
    assert after.on_trial.facts.recipe == "R2"
    assert not before.served & after.served


def test_a_canary_of_another_incumbent_goes_by_its_name(tmp_path: Path) -> None:
    found = machine(tmp_path)
    found.bootstrap(INCUMBENT_ALONE)
    other = bundle("E", model=None, incumbent="incumbent-2")
    found.canary(promote(Target.CANARY_INCUMBENT, other), other)
    canary = running(found)
    assert [arm.label for arm in canary.contenders] == ["canary"]
    assert canary.baseline is not None
    assert canary.baseline.label == "cascade"
    assert canary.on_trial.facts == other
