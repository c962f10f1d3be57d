from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from segue.errors import StateError
from segue.migration.change import Draft
from segue.migration.decide import Outcome, Target
from segue.migration.events.rollback import rollback
from segue.migration.settings import MigrationSettings
from segue.migration.state_machine import Change, Refused, StateMachine
from segue.registry.projection import desired
from segue.schema import PathName, Stage
from tests.migration.builders import SETTINGS, bundle, decision, machine, online, promote

A = bundle("A", model=None)
B = bundle("B")
B2 = bundle("B2")  # new items, the same weights
C = bundle("C", model="M2")  # new weights, the same recipe
D = bundle("D", model="M3", recipe="R2")
S = bundle("S", incumbent="incumbent-2")
S2 = bundle("S2", incumbent="incumbent-2")
S3 = bundle("S3", incumbent="incumbent-3")


def arms(change: Change) -> list[tuple[str, str, str, float]]:
    assert change.deployment is not None
    return [(arm.name, arm.bundle, arm.path.value, arm.share) for arm in change.deployment.arms]


@pytest.fixture
def moves(tmp_path: Path) -> StateMachine:
    found = machine(tmp_path)
    found.bootstrap(A)
    return found


def test_the_walk_of_the_contracts(tmp_path: Path) -> None:
    moves = machine(tmp_path)
    # 1. The incumbent alone.
    first = moves.bootstrap(A)
    assert arms(first) == [("cascade", "A", "cascade", 1.0)]
    assert first.deployment is not None
    assert (first.deployment.revision, first.deployment.stage) == (1, Stage.CASCADE)
    # 2. Pilot with bundle B.
    d1 = decision(Target.PILOT, B)
    assert d1.outcome is Outcome.PROMOTE
    second = moves.advance(d1, B)
    assert arms(second) == [("control", "B", "cascade", 0.95), ("treatment", "B", "generative", 0.05)]
    assert second.deployment is not None
    assert (second.deployment.stage, second.deployment.decision_sha256) == (Stage.PILOT, d1.sha256)
    assert desired(moves.state) == {"champion": "B", "pilot": "B", "previous_champion": "A"}
    # 3. Forty new items: both arms, the experiment goes on.
    third = moves.refresh(decision(Target.REFRESH_DATA, B2), B2)
    assert [arm[1] for arm in arms(third)] == ["B2", "B2"]
    assert third.deployment is not None
    assert (third.deployment.stage, third.deployment.recipe) == (Stage.PILOT, "R1")
    # 4. The weekly retrain.
    fourth = moves.refresh(decision(Target.REFRESH_RETRAIN, C), C)
    assert [arm[1] for arm in arms(fourth)] == ["C", "C"]
    # 5. A guardrail is crossed: revision 1's stage and arms on the newest good bundle.
    fifth = moves.rollback(actor="segue", reason="guardrail ctr", experiment=True)
    assert arms(fifth) == [("cascade", "C", "cascade", 1.0)]
    assert fifth.deployment is not None
    assert (fifth.deployment.revision, fifth.deployment.restores, fifth.deployment.stage) == (
        5,
        1,
        Stage.CASCADE,
    )
    assert moves.state.revoked == {d1.sha256: 5}
    # 6. The cached decision is found again.
    again = moves.advance(d1, B)
    assert again.message == f"no change: decision {d1.sha256[:12]} was revoked by revision 5"
    # 7. By hand in MLflow: tests/registry/test_projection.py. Nor does a new measurement let it in.
    renewed = promote(Target.PILOT, C, "measured again")
    assert "recipe R1 was taken out of pilot by revision 5" in moves.advance(renewed, C).message
    assert moves.ledger.verify() == len(moves.ledger.rows())


def test_bootstrap_acts_once(moves: StateMachine) -> None:
    assert moves.bootstrap(B).message == "no change: revision 1 serves already"


def test_a_decision_is_applied_at_most_once(moves: StateMachine) -> None:
    d1 = decision(Target.PILOT, B)
    moves.advance(d1, B)
    assert moves.advance(d1, B).message.endswith("is about pilot, and the stage is pilot")
    refresh = decision(Target.REFRESH_DATA, B2)
    moves.refresh(refresh, B2)
    assert moves.refresh(refresh, B2).message.endswith("was applied by revision 3")


def test_hold_changes_nothing_and_is_recorded(moves: StateMachine) -> None:
    hold = decision(Target.HYBRID, B)
    assert hold.outcome is Outcome.HOLD
    assert moves.record(hold)
    assert not moves.record(hold)
    assert moves.advance(hold, B).message.startswith("no change")
    assert moves.state.decisions[hold.sha256] == hold


def test_no_stage_is_skipped(moves: StateMachine) -> None:
    full = decision(Target.FULL, B, online())
    assert full.outcome is Outcome.PROMOTE
    assert "more than one stage" in moves.advance(full, B).message


def test_another_incumbent_or_no_model_cannot_advance(moves: StateMachine) -> None:
    stranger = bundle("S", incumbent="incumbent-2")
    with pytest.raises(Refused, match="brings incumbent incumbent-2"):
        moves.advance(decision(Target.PILOT, stranger), stranger)
    with pytest.raises(Refused, match="no generative model"):
        moves.advance(promote(Target.PILOT, A), A)
    with pytest.raises(StateError, match="is not about bundle"):
        moves.advance(decision(Target.PILOT, B), C)


def test_a_refresh_is_of_the_class_it_says(moves: StateMachine) -> None:
    moves.advance(decision(Target.PILOT, B), B)
    with pytest.raises(Refused, match="other weights"):
        moves.refresh(decision(Target.REFRESH_DATA, C), C)
    with pytest.raises(Refused, match="made by recipe R2"):
        moves.refresh(decision(Target.REFRESH_RETRAIN, D), D)
    with pytest.raises(Refused, match="no canary arm"):
        moves.refresh(promote(Target.REFRESH_RECIPE, D), D)
    assert "one experiment" in moves.canary(promote(Target.CANARY, D), D).message


def test_a_contender_on_hold_runs_in_shadow_and_day_two_moves_it(moves: StateMachine) -> None:
    shadowed = moves.shadow(decision(Target.SHADOW, B), B)
    assert arms(shadowed) == [("cascade", "A", "cascade", 1.0)]
    assert shadowed.deployment is not None
    assert shadowed.deployment.shadow is not None
    assert (shadowed.deployment.shadow.bundle, shadowed.deployment.shadow.path) == ("B", PathName.GENERATIVE)
    assert desired(moves.state) == {"champion": "A", "challenger": "B"}
    refreshed = moves.refresh(decision(Target.REFRESH_DATA, B2), B2)
    assert refreshed.deployment is not None
    assert refreshed.deployment.bundles == ("B2",)
    assert "runs in shadow already" in moves.shadow(decision(Target.SHADOW, B2), B2).message


@pytest.mark.parametrize("stage", [Stage.CASCADE, Stage.PILOT])
def test_rolling_a_data_refresh_back_brings_every_former_bundle_back(
    moves: StateMachine, stage: Stage
) -> None:
    if stage is Stage.PILOT:
        moves.advance(decision(Target.PILOT, B), B)
    else:
        moves.shadow(decision(Target.SHADOW, B), B)
    before = moves.state.current
    assert before is not None
    refresh = decision(Target.REFRESH_DATA, B2)
    moves.refresh(refresh, B2)
    restored = moves.rollback(actor="ann", reason="wrong prices").deployment
    assert restored is not None
    assert restored.restores == before.revision
    assert (restored.stage, restored.arms, restored.shadow) == (before.stage, before.arms, before.shadow)
    # No later run undoes it: not the cached decision, nor a new measurement, nor the shadow.
    assert "was revoked by revision 4" in moves.refresh(refresh, B2).message
    assert "was left by revision 4" in moves.refresh(promote(Target.REFRESH_DATA, B2, "again"), B2).message
    assert moves.shadow(decision(Target.SHADOW, B2), B2).message.startswith("no change")
    assert moves.state.current == restored
    # Tomorrow's bundle is another one.
    tomorrow = bundle("B3")
    assert moves.refresh(decision(Target.REFRESH_DATA, tomorrow), tomorrow).changed


def test_rolling_back_again_goes_further_back(moves: StateMachine) -> None:
    moves.advance(decision(Target.PILOT, B), B)
    moves.refresh(decision(Target.REFRESH_DATA, B2), B2)
    moves.refresh(decision(Target.REFRESH_RETRAIN, C), C)
    names = [moves.rollback(actor="ann", reason="worse").deployment for _ in range(3)]
    assert [document.arms[0].bundle for document in names if document] == ["B2", "B", "A"]
    assert [document.restores for document in names if document] == [3, 2, 1]
    assert names[-1] is not None
    assert names[-1].stage is Stage.CASCADE
    with pytest.raises(StateError, match="no good revision"):
        moves.rollback(actor="ann", reason="worse")


def test_rollback_to_a_named_revision_restores_it_exactly(moves: StateMachine) -> None:
    moves.advance(decision(Target.PILOT, B), B)
    moves.refresh(decision(Target.REFRESH_DATA, B2), B2)
    restored = moves.rollback(actor="ann", reason="all of it", to=1)
    assert arms(restored) == [("cascade", "A", "cascade", 1.0)]
    assert len(moves.state.revoked) == 2
    for number in (0, 4, 9):
        with pytest.raises(StateError, match="is not one before 4"):
            moves.rollback(actor="ann", reason="x", to=number)


def test_what_was_left_does_not_come_back_by_a_revision_s_number(moves: StateMachine) -> None:
    moves.advance(decision(Target.PILOT, B), B)
    moves.refresh(decision(Target.REFRESH_DATA, B2), B2)
    moves.rollback(actor="ann", reason="wrong prices")
    moves.refresh(decision(Target.REFRESH_RETRAIN, C), C)
    with pytest.raises(
        StateError, match=r"revision 3 rests on decision \w+, which revision 4 revoked: only an override"
    ):
        moves.rollback(actor="ann", reason="I want it", to=3)
    # What the rollback itself restored is good.
    assert arms(moves.rollback(actor="ann", reason="worse", to=4))[0][1] == "B"


def test_a_bundle_that_was_left_does_not_come_back_by_a_later_revision_s_number(moves: StateMachine) -> None:
    moves.shadow(decision(Target.SHADOW, B), B)
    moves.override(B2, Target.REFRESH_DATA, actor="ann", reason="it cannot wait")
    moves.override(C, Target.REFRESH_RETRAIN, actor="ann", reason="nor can this")
    moves.rollback(actor="ann", reason="both were wrong", to=2)
    assert moves.refresh(promote(Target.REFRESH_DATA, bundle("B3")), bundle("B3")).changed
    with pytest.raises(StateError, match="revision 3 needs bundle B2, which revision 5 left"):
        moves.rollback(actor="ann", reason="I want it", to=3)


def test_a_recipe_that_was_taken_out_of_a_stage_does_not_come_back_by_number(moves: StateMachine) -> None:
    moves.override(B, Target.PILOT, actor="ann", reason="the fair is tomorrow")
    moves.refresh(decision(Target.REFRESH_DATA, B2), B2)
    moves.rollback(actor="ann", reason="worse", experiment=True)
    E = bundle("E", model="M4", recipe="R3")
    moves.advance(promote(Target.PILOT, E), E)
    with pytest.raises(StateError, match="revision 2 is of recipe R1, which revision 4 took out of pilot"):
        moves.rollback(actor="ann", reason="I want it", to=2)
    with pytest.raises(StateError, match="revision 3 is of recipe R1, which revision 4 took out of pilot"):
        moves.rollback(actor="ann", reason="I want it", to=3)


def test_what_a_rollback_restores_is_not_barred_by_it(moves: StateMachine) -> None:
    moves.override(B, Target.PILOT, actor="ann", reason="the fair is tomorrow")
    moves.override(C, Target.REFRESH_RETRAIN, actor="ann", reason="it cannot wait")
    moves.override(B, Target.PILOT, actor="ann", reason="back to B")
    moves.override(C, Target.REFRESH_RETRAIN, actor="ann", reason="it was good")
    assert moves.rollback(actor="ann", reason="neither", to=2).changed
    assert set(moves.state.barred_bundles) == {"C"}
    assert moves.state.barred_recipes == {}


def test_what_serves_is_not_barred_though_a_revision_that_is_left_brought_it_again(
    moves: StateMachine,
) -> None:
    moves.advance(decision(Target.PILOT, B), B)
    moves.refresh(decision(Target.REFRESH_RETRAIN, C), C)
    moves.override(B, Target.REFRESH_RETRAIN, actor="ann", reason="C was too eager")
    moves.rollback(actor="ann", reason="as it was", to=2)
    assert moves.state.serving.bundles == ("B",)
    assert set(moves.state.barred_bundles) == {"C"}


def test_what_an_earlier_rollback_restored_is_not_barred_by_the_next(moves: StateMachine) -> None:
    """B was good when it was gone back to; that the pilot as a whole is left says nothing against it."""
    moves.advance(decision(Target.PILOT, B), B)
    moves.refresh(decision(Target.REFRESH_DATA, B2), B2)
    moves.rollback(actor="ann", reason="wrong prices")
    moves.rollback(actor="ann", reason="not now", to=1)
    assert set(moves.state.barred_bundles) == {"B2"}


def test_the_recipe_that_ran_is_taken_out_and_not_only_the_one_that_entered(moves: StateMachine) -> None:
    for target in (Target.PILOT, Target.HYBRID, Target.FULL):
        moves.advance(decision(target, B, online()), B)
    moves.canary(promote(Target.CANARY, D), D)
    moves.refresh(promote(Target.REFRESH_RECIPE, D), D)
    assert moves.state.serving.recipe == "R2"
    moves.demote(actor="ann", reason="the season")
    assert {recipe for stage, recipe in moves.state.barred_recipes if stage == "full"} == {"R1", "R2"}
    assert "taken out of full" in moves.advance(promote(Target.FULL, D, "measured again"), D).message


def test_a_rollback_restores_scenario_and_blend_and_the_bundles_own_recipe(tmp_path: Path) -> None:
    weights = {"cascade": 0.3, "generative": 0.7}
    rules = MigrationSettings.model_validate(
        {
            **SETTINGS.model_dump(),
            "scenarios": ["home"],
            "scenario": "home",
            "hybrid_path": "blended",
            "blend": weights,
        }
    )
    moves = machine(tmp_path, rules)
    moves.bootstrap(A)
    for target in (Target.PILOT, Target.HYBRID, Target.FULL):
        moves.advance(promote(target, B), B)
    moves.canary(promote(Target.CANARY, D), D)
    moves.refresh(promote(Target.REFRESH_RECIPE, D), D)
    moves.rollback(actor="segue", reason="ctr", experiment=True)  # to before full, on the newest bundle
    back = moves.state.serving
    assert (back.stage, back.bundles, back.recipe) == (Stage.HYBRID, ("D",), "R2")
    assert (back.scenario, back.blend) == (None, weights)
    moves.rollback(actor="ann", reason="less of it", to=2)
    back = moves.state.serving
    assert (back.stage, back.scenario, back.blend, back.recipe) == (Stage.PILOT, "home", None, "R1")


def test_what_an_experiment_is_left_for_is_never_a_bundle_that_was_left(moves: StateMachine) -> None:
    moves.advance(decision(Target.PILOT, B), B)
    moves.refresh(decision(Target.REFRESH_RETRAIN, C), C)
    for barred, on in (({}, "C"), ({"C": 3}, "A")):
        draft = rollback(
            replace(moves.state, barred_bundles=barred), moves.settings, actor="segue", reason="ctr", experiment=True,
            to=None, decision=None,
        )  # fmt: skip
        assert isinstance(draft, Draft)
        assert [arm.bundle for arm in draft.changes["arms"]] == [on]


def test_demote_and_abandon_last(moves: StateMachine) -> None:
    moves.advance(decision(Target.PILOT, B), B)
    moves.advance(decision(Target.HYBRID, B, online()), B)
    assert [arm[2:] for arm in arms(moves.demote(actor="ann", reason="season"))][1] == ("generative", 0.05)
    assert "taken out of hybrid" in moves.advance(promote(Target.HYBRID, B, "later"), B).message
    assert arms(moves.abandon(actor="ann", reason="enough")) == [("cascade", "B", "cascade", 1.0)]
    assert "taken out of pilot" in moves.advance(promote(Target.PILOT, B, "later"), B).message
    with pytest.raises(StateError, match="nothing to abandon"):
        moves.abandon(actor="ann", reason="again")
    with pytest.raises(StateError, match="cascade already"):
        moves.demote(actor="ann", reason="again")


def test_another_recipe_comes_by_way_of_a_canary(moves: StateMachine) -> None:
    for target in (Target.PILOT, Target.HYBRID, Target.FULL):
        moves.advance(decision(target, B, online()), B)
    canary = moves.canary(promote(Target.CANARY, D), D)
    assert arms(canary)[-1] == ("canary", "D", "generative", 0.05)
    assert desired(moves.state)["challenger"] == "D"
    with pytest.raises(Refused, match="a canary runs"):
        moves.refresh(decision(Target.REFRESH_DATA, B2), B2)
    done = moves.refresh(promote(Target.REFRESH_RECIPE, D), D)
    assert [(arm[1], arm[3]) for arm in arms(done)] == [("D", 1.0)]
    assert done.deployment is not None
    assert done.deployment.recipe == "R2"


@pytest.mark.parametrize("way", ["guardrail", "rollback", "abandon"])
def test_a_canary_that_was_ended_does_not_begin_again_with_tomorrows_bundle(
    moves: StateMachine, way: str
) -> None:
    for target in (Target.PILOT, Target.HYBRID, Target.FULL):
        moves.advance(decision(target, B, online()), B)
    before = moves.state.serving
    moves.canary(promote(Target.CANARY, D), D)
    if way == "abandon":
        moves.abandon(actor="ann", reason="clicks fell")
    else:
        moves.rollback(actor="segue", reason="clicks fell", experiment=way == "guardrail")
    assert moves.state.serving.arms == before.arms
    tomorrow, other = bundle("D2", model="M3", recipe="R2"), bundle("E", model="M4", recipe="R3")
    again = moves.canary(promote(Target.CANARY, tomorrow), tomorrow)
    assert "recipe R2 was taken out of canary by revision 6" in again.message
    concluded = moves.refresh(promote(Target.REFRESH_RECIPE, tomorrow), tomorrow)
    assert "recipe R2 was taken out of refresh_recipe by revision 6" in concluded.message
    # What serves, and what nobody left, is as welcome as before.
    assert moves.refresh(decision(Target.REFRESH_DATA, B2), B2).changed
    assert moves.canary(promote(Target.CANARY, other), other).changed
    moves.abandon(actor="ann", reason="not now")
    # By name the recipe comes back, and then it is barred from nothing.
    assert moves.override(tomorrow, Target.REFRESH_RECIPE, actor="ann", reason="the logs were wrong").changed
    assert [target for target, recipe in moves.state.barred_recipes if recipe == "R2"] == []


def test_another_incumbent_comes_by_way_of_a_canary_at_stage_cascade(moves: StateMachine) -> None:
    moves.shadow(decision(Target.SHADOW, B), B)
    with pytest.raises(Refused, match="by way of a canary"):
        moves.shadow(promote(Target.SHADOW, S), S)
    assert (
        "brings the incumbent that serves" in moves.canary(decision(Target.CANARY_INCUMBENT, B2), B2).message
    )
    assert "the stage is cascade" in moves.canary(promote(Target.CANARY, S), S).message
    canary = moves.canary(decision(Target.CANARY_INCUMBENT, S), S)
    assert arms(canary) == [("cascade", "A", "cascade", 0.95), ("canary", "S", "cascade", 0.05)]
    assert canary.deployment is not None
    assert canary.deployment.generative_bundle == "B"  # what ran in shadow goes on
    assert "a canary runs" in moves.advance(decision(Target.PILOT, B), B).message
    with pytest.raises(Refused, match="a canary runs"):
        moves.refresh(decision(Target.REFRESH_DATA, B2), B2)
    # Nothing but the canary's own bundle concludes it.
    with pytest.raises(StateError, match="S runs as the canary, not C"):
        moves.override(C, Target.REFRESH_RECIPE, actor="ann", reason="mistaken")
    done = moves.override(S, Target.REFRESH_RECIPE, actor="ann", reason="two weeks, no complaint")
    assert arms(done) == [("cascade", "S", "cascade", 1.0)]
    # The dead end is left: what has the new incumbent can enter the pilot.
    assert moves.advance(decision(Target.PILOT, S2), S2).changed


def test_a_canary_of_an_incumbent_that_is_given_up_leaves_nothing_behind(moves: StateMachine) -> None:
    moves.shadow(decision(Target.SHADOW, B), B)
    moves.canary(decision(Target.CANARY_INCUMBENT, S), S)
    moves.override(S, Target.SHADOW, actor="ann", reason="to look at it")
    abandoned = moves.abandon(actor="ann", reason="clicks fell")
    assert abandoned.deployment is not None
    assert abandoned.deployment.bundles == ("A", "B")
    again = moves.canary(promote(Target.CANARY_INCUMBENT, S, "measured again"), S)
    assert "was left by revision 5" in again.message
    # A rollback while it runs does the same.
    assert "was left by revision 5" in moves.canary(decision(Target.CANARY_INCUMBENT, S2), S2).message
    moves.canary(decision(Target.CANARY_INCUMBENT, S3), S3)
    back = moves.rollback(actor="ann", reason="clicks fell").deployment
    assert back is not None
    assert back.bundles == ("A", "B")


def test_the_shadow_beside_a_canary_that_is_given_up_is_what_it_was_or_gone(moves: StateMachine) -> None:
    moves.shadow(decision(Target.SHADOW, B), B)
    moves.canary(decision(Target.CANARY_INCUMBENT, S), S)
    moves.abandon(actor="ann", reason="clicks fell")
    assert moves.state.serving.bundles == ("A", "B")  # it ran beside the canary, and goes on
    # What was in shadow before its own canary is left with it.
    moves.override(S3, Target.SHADOW, actor="ann", reason="to look at it")
    moves.canary(promote(Target.CANARY_INCUMBENT, S3), S3)
    moves.abandon(actor="ann", reason="clicks fell")
    assert moves.state.serving.bundles == ("A",)
    assert moves.state.serving.shadow is None


def test_an_override_names_who_and_why_and_lifts_what_was_barred(moves: StateMachine) -> None:
    moves.advance(decision(Target.PILOT, B), B)
    moves.rollback(actor="ann", reason="worse")
    with pytest.raises(StateError, match="who does it and why"):
        moves.override(B, Target.PILOT, actor="ann", reason=" ")
    assert moves.override(B, Target.PILOT, actor="ann", reason="the fault was elsewhere").changed
    overrides = [row.payload for row in moves.ledger.rows() if row.kind == "override"]
    assert overrides[0]["actor"] == "ann"
    moves.rollback(actor="bob", reason="worse again")
    assert "taken out of pilot" in moves.advance(promote(Target.PILOT, B, "later"), B).message


def test_a_rollback_decision_acts_once(moves: StateMachine) -> None:
    moves.advance(decision(Target.PILOT, B), B)
    harm = decision(Target.HYBRID, B, online(estimate=-0.1, low=-0.2, high=-0.05))
    assert harm.outcome is Outcome.ROLLBACK
    assert moves.rollback(actor="segue", reason="ctr", experiment=True, decision=harm).changed
    again = moves.rollback(actor="segue", reason="ctr", experiment=True, decision=harm)
    assert again.message.endswith("was applied by revision 3")


def test_nothing_happens_before_the_bootstrap(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="bootstrap comes first"):
        machine(tmp_path).rollback(actor="ann", reason="x")


@pytest.mark.parametrize(("blank", "said"), [("reason", {"actor": "ann"}), ("actor", {"reason": "a fair"})])
def test_nothing_is_done_by_hand_without_saying_who_and_why(
    tmp_path: Path, blank: str, said: dict[str, str]
) -> None:
    moves = machine(tmp_path)
    moves.bootstrap(A)
    moves.advance(promote(Target.PILOT, B), B)
    rows = len(moves.ledger.rows())
    for text in ("", "  "):
        who: Any = {**said, blank: text}
        for act in (
            partial(moves.demote, **who),
            partial(moves.abandon, **who),
            partial(moves.rollback, **who),
            partial(moves.override, B, Target.HYBRID, **who),
        ):
            with pytest.raises(StateError, match=f"names who does it and why: the {blank} is blank"):
                act()
    assert len(moves.ledger.rows()) == rows
