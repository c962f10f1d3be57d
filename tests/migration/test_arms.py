from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from segue.errors import ConfigurationError
from segue.migration.arms import stage_of, with_canary, without_canary
from segue.migration.decide import Target
from segue.migration.deployment import Deployment
from segue.migration.settings import MigrationSettings
from segue.migration.state_machine import StateMachine
from segue.params import load_params
from segue.schema import PathName, Stage
from segue.workspace import Workspace
from tests.migration.builders import NOON, SETTINGS, bundle, decision, machine, online, promote

A, B, B2, C = bundle("A", model=None), bundle("B"), bundle("B2"), bundle("C", model="M2")
D = bundle("D", model="M3", recipe="R2")
S = bundle("S", incumbent="incumbent-2")
LAYERED = MigrationSettings.model_validate(
    {**SETTINGS.model_dump(), "holdback_share": 0.1, "interleaved_share": 0.05}
)


@pytest.fixture
def moves(tmp_path: Path) -> StateMachine:
    found = machine(tmp_path, LAYERED)
    found.bootstrap(A)
    return found


def now(moves: StateMachine) -> Deployment:
    current = moves.state.current
    assert current is not None
    return current


def shares(document: Deployment) -> dict[str, float]:
    return {arm.name: arm.share for arm in document.arms}


def test_every_stage_has_its_arms(moves: StateMachine) -> None:
    assert shares(now(moves)) == {"cascade": 1.0}
    moves.advance(decision(Target.PILOT, B), B)
    # The trial's shares are of the users who are not held back.
    assert shares(now(moves)) == {"holdback": 0.1, "interleaved": 0.045, "control": 0.81, "treatment": 0.045}
    assert {arm.name: arm.path for arm in now(moves).arms} == {
        "holdback": PathName.CASCADE,
        "interleaved": PathName.INTERLEAVED,
        "control": PathName.CASCADE,
        "treatment": PathName.GENERATIVE,
    }
    moves.advance(decision(Target.HYBRID, B, online()), B)
    assert shares(now(moves)) == {"holdback": 0.1, "interleaved": 0.045, "control": 0.045, "treatment": 0.81}
    control = now(moves).control
    assert control is not None
    assert control.name == "control"
    moves.advance(decision(Target.FULL, B, online()), B)
    assert shares(now(moves)) == {"holdback": 0.1, "treatment": 0.9}
    assert now(moves).control == now(moves).holdback  # nobody else is left to compare with


def test_a_canary_takes_nothing_from_the_holdback(moves: StateMachine) -> None:
    moves.canary(decision(Target.CANARY_INCUMBENT, S), S)
    assert shares(now(moves)) == {"holdback": 0.1, "cascade": 0.855, "canary": 0.045}
    assert {arm.name: arm.bundle for arm in now(moves).arms} == {
        "holdback": "A",
        "cascade": "A",
        "canary": "S",
    }
    moves.abandon(actor="ann", reason="clicks fell")
    assert shares(now(moves)) == {"cascade": 1.0}
    for target in (Target.PILOT, Target.HYBRID, Target.FULL):
        moves.advance(decision(target, B, online()), B)
    moves.canary(promote(Target.CANARY, D), D)
    assert shares(now(moves)) == {"holdback": 0.1, "treatment": 0.855, "canary": 0.045}
    moves.refresh(promote(Target.REFRESH_RECIPE, D), D)
    assert shares(now(moves)) == {"holdback": 0.1, "treatment": 0.9}
    assert now(moves).bundles == ("D",)


def test_an_experiment_has_one_salt_and_the_next_another(moves: StateMachine) -> None:
    first = now(moves)
    moves.advance(decision(Target.PILOT, B), B)
    salt = now(moves).salt
    assert salt != first.salt
    moves.refresh(decision(Target.REFRESH_DATA, B2), B2)
    moves.refresh(decision(Target.REFRESH_RETRAIN, C), C)
    for target in (Target.HYBRID, Target.FULL):
        moves.advance(decision(target, C, online()), C)
        assert now(moves).salt == salt
    moves.canary(promote(Target.CANARY, D), D)
    other = now(moves).salt
    assert other not in (first.salt, salt)
    moves.rollback(actor="ann", reason="slower")
    assert now(moves).salt == salt  # everybody gets the arm they had
    moves.demote(actor="ann", reason="season")
    assert (now(moves).stage, now(moves).salt) == (Stage.HYBRID, salt)
    # The same recipe again, from the cascade: its users are drawn anew.
    moves.rollback(actor="ann", reason="worse", to=1)
    moves.override(C, Target.PILOT, actor="ann", reason="the fault was elsewhere")
    assert now(moves).salt not in (first.salt, salt, other)
    assert {revision.deployment.lasting_salt for revision in moves.state.revisions} == {first.lasting_salt}


def test_the_lasting_salt_outlives_its_setting(tmp_path: Path) -> None:
    machine(tmp_path, LAYERED).bootstrap(A)
    renamed = machine(tmp_path, MigrationSettings.model_validate({**LAYERED.model_dump(), "salt": "another"}))
    before = now(renamed).lasting_salt
    renamed.advance(decision(Target.PILOT, B), B)
    assert now(renamed).lasting_salt == before
    assert now(renamed).salt.startswith("another:")


@given(
    st.floats(0, 0.49),
    st.floats(0.01, 0.9),
    st.floats(0, 0.9),
    st.sampled_from([Stage.PILOT, Stage.HYBRID, Stage.FULL]),
)
def test_shares_add_up_and_a_canary_leaves_no_trace(
    held: float, treated: float, interleaved: float, stage: Stage
) -> None:
    assume(treated + interleaved < 0.99)
    settings = MigrationSettings(
        pilot_share=treated, hybrid_share=treated, interleaved_share=interleaved, holdback_share=held
    )
    fields = {
        "revision": 2, "parent": 1, "salt": "s", "lasting_salt": "l", "actor": "a", "reason": "", "at": NOON.isoformat()
    }  # fmt: skip
    arms = {name: value for name, value in stage_of(stage, B, settings).items() if name != "shadow"}
    document = Deployment.model_validate({**fields, **arms})  # refuses shares that do not add up to 1
    assert [arm.name for arm in document.arms if arm.name != "holdback"] in (
        ["interleaved", "control", "treatment"],
        ["control", "treatment"],
        ["treatment"],
    )
    if stage is Stage.FULL:
        tried = document.model_copy(update={"arms": with_canary(document, D, settings)})
        assert sum(arm.share for arm in tried.arms) == pytest.approx(1, abs=1e-9)
        assert tried.holdback == document.holdback
        back = {arm.name: arm.share for arm in without_canary(tried)}
        assert back == pytest.approx(shares(document), abs=1e-8)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["migration.scenario=homepage"], "scenario 'homepage' is not declared .declared: none.: add it to scenarios"),
        (["migration.pilot_share=0.97"], "pilot_share and interleaved_share take 1.02 of the users"),
        (["migration.holdback_share=0.5"], "holdback_share"),
    ],
)  # fmt: skip
def test_shares_and_scenarios_that_cannot_be_routed_are_refused(
    workspace_root: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load_params(Workspace(workspace_root), "ml-100k", overrides)


def test_a_pilot_may_be_confined_to_a_declared_scenario(tmp_path: Path) -> None:
    rules = MigrationSettings.model_validate(
        {**LAYERED.model_dump(), "scenarios": ["homepage", "basket"], "scenario": "basket"}
    )
    moves = machine(tmp_path, rules)
    moves.bootstrap(A)
    moves.advance(decision(Target.PILOT, B), B)
    assert now(moves).scenario == "basket"
    moves.refresh(decision(Target.REFRESH_DATA, B2), B2)
    assert now(moves).scenario == "basket"
    moves.advance(decision(Target.HYBRID, B2, online()), B2)
    assert now(moves).scenario is None  # most users: every request


def test_full_serves_what_hybrid_measured_whatever_the_settings_say_by_then(tmp_path: Path) -> None:
    def rules(**changes: Any) -> MigrationSettings:
        return MigrationSettings.model_validate({**LAYERED.model_dump(), **changes})

    def treated(document: Deployment) -> tuple[PathName, dict[str, float] | None]:
        assert document.treatment is not None
        return document.treatment.path, document.blend

    weights = {"cascade": 0.4, "generative": 0.6}
    moves = machine(tmp_path, rules(hybrid_path="blended", blend=weights))
    moves.bootstrap(A)
    moves.advance(decision(Target.PILOT, B), B)
    moves.advance(decision(Target.HYBRID, B, online()), B)
    measured = treated(now(moves))
    assert measured == (PathName.BLENDED, weights)
    later = machine(tmp_path, rules(hybrid_path="generative", blend={"cascade": 1.0, "generative": 1.0}))
    later.advance(decision(Target.FULL, B, online()), B)
    assert (now(later).stage, treated(now(later))) == (Stage.FULL, measured)
    # Another path is tried on most users first, by hand, and only then on everybody.
    later.override(B, Target.HYBRID, actor="ann", reason="generation end to end")
    assert treated(now(later)) == (PathName.GENERATIVE, None)
    moves.override(B2, Target.FULL, actor="ann", reason="it has been measured")
    assert (now(moves).stage, treated(now(moves))) == (Stage.FULL, (PathName.GENERATIVE, None))
    moves.demote(actor="ann", reason="the season")
    assert (now(moves).stage, treated(now(moves))) == (Stage.HYBRID, (PathName.GENERATIVE, None))
