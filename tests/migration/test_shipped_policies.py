"""The policies that params.yaml ships: what runs is guarded, and every gate can pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from segue.migration.decide import Outcome, Target
from segue.migration.deployment import BundleFacts
from segue.migration.gates import gate, guarding_policy_of
from segue.migration.online_experiment import running_experiment
from segue.migration.policy import lint_policies
from segue.migration.settings import MigrationSettings, Policy
from segue.migration.state_machine import StateMachine
from segue.migration.watch import guarding_policy
from segue.params import load_params
from segue.workspace import Workspace
from tests.migration.builders import SETTINGS, VALID, body, bundle, machine, promote, requirement, serving

A, B, D = bundle("A", model=None), bundle("B"), bundle("D", model="M3", recipe="R2")
S = bundle("S", incumbent="incumbent-2")
STAGES = (Target.PILOT, Target.HYBRID, Target.FULL)


@pytest.fixture
def shipped(workspace_root: Path) -> MigrationSettings:
    return load_params(Workspace(workspace_root), "ml-100k").migration


def guarded(moves: StateMachine, facts: BundleFacts) -> dict[tuple[str, str | None], float]:
    """The guardrails about what is on trial, by metric and what it is compared with."""
    experiment = running_experiment(moves.state)
    assert experiment is not None
    assert experiment.on_trial.facts == facts
    policy = guarding_policy(experiment, moves.settings)
    return {
        (one.metric, one.against): one.margin
        for one in policy.requirements
        if one.guardrail and one.path == experiment.on_trial.label
    }


def test_they_are_sound(shipped: MigrationSettings) -> None:
    assert lint_policies(shipped) == []


@pytest.mark.parametrize("stages", [1, 2, 3, 4, 0])
def test_whatever_is_on_trial_is_guarded_in_clicks_errors_fallbacks_and_latency(
    shipped: MigrationSettings, tmp_path: Path, stages: int
) -> None:
    """Pilot, hybrid, full, a canary of another recipe, and one of another incumbent."""
    moves = machine(tmp_path, shipped)
    moves.bootstrap(A)
    on_trial = B
    for target in STAGES[:stages]:
        assert moves.advance(promote(target, B), B).changed
    if stages == 4:
        assert moves.canary(promote(Target.CANARY, D), D).changed
        on_trial = D
    elif stages == 0:
        assert moves.canary(promote(Target.CANARY_INCUMBENT, S), S).changed
        on_trial = S
    found = guarded(moves, on_trial)
    assert found[("ctr", "cascade")] < 0  # a loss that is tolerated, and no more
    assert {("error_rate", None), ("fallback_rate", None), ("latency_p99_ms", None)} <= set(found)


def test_what_guards_a_canary_of_another_incumbent_does_not_stand_in_its_way(tmp_path: Path) -> None:
    clicks = requirement(metric="ctr", kind="online", path="canary", margin=-0.005, guardrail=True)
    rules = SETTINGS.model_copy(update={"canary_incumbent": Policy(requirements=(VALID, clicks))})
    assert gate(Target.CANARY_INCUMBENT, body(S), S, rules).outcome is Outcome.PROMOTE
    assert gate(Target.CANARY_INCUMBENT, [serving("S", value=0.1)], S, rules).outcome is Outcome.HOLD
    assert clicks in guarding_policy_of(rules, Target.CANARY_INCUMBENT).requirements
