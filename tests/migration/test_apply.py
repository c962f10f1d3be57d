from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from segue.errors import ArtifactError
from segue.migration.apply import Deployer, Offer, Report
from segue.migration.decide import Outcome, Target
from segue.migration.deployment import BundleFacts
from segue.migration.evidence import Evidence
from segue.migration.gates import gate, read_facts, refresh_class
from segue.migration.settings import MigrationSettings, Policy
from segue.migration.state_machine import StateMachine
from segue.schema import Stage
from tests.migration.builders import (
    NOON,
    SETTINGS,
    VALID,
    body,
    bundle,
    evidence,
    machine,
    online,
    promote,
    requirement,
    serving,
)

A, B, B2 = bundle("A", model=None), bundle("B"), bundle("B2")
FIRST_RUN = "nothing is kept"


def deployer(
    moves: StateMachine,
    facts: BundleFacts,
    found: list[Evidence],
    *,
    refresh: Target = Target.REFRESH_RECIPE,
    hold: str | None = FIRST_RUN,
    later: timedelta = timedelta(0),
) -> Deployer:
    rules = moves.settings
    decisions = {
        target: gate(target, found, facts, rules) for target in (Target.PILOT, Target.HYBRID, Target.FULL)
    }
    decisions[refresh] = gate(refresh, found, facts, rules, hold_because=hold)
    return Deployer(moves, Offer(facts, found, decisions), moment=lambda: NOON + later)


@pytest.fixture
def moves(tmp_path: Path) -> StateMachine:
    found = machine(tmp_path)
    found.bootstrap(A)
    return found


def stage_of(moves: StateMachine) -> Stage:
    current = moves.state.current
    assert current is not None
    return current.stage


def test_a_pilot_that_may_begin_begins_and_a_second_run_says_no_change(moves: StateMachine) -> None:
    report = deployer(moves, B, body(B)).run()
    assert report.changed
    assert stage_of(moves) is Stage.PILOT
    rows = len(moves.ledger.rows())
    again = deployer(moves, B, body(B)).run()
    assert again.message.startswith("no change: ")
    assert len(moves.ledger.rows()) == rows
    assert len(moves.state.decisions) == 4  # the HOLDs too


def test_on_hold_the_contender_runs_in_shadow(moves: StateMachine) -> None:
    unsure = [evidence(estimate=0.0, low=-0.02, high=0.02), serving("B")]
    report = deployer(moves, B, unsure).run()
    assert stage_of(moves) is Stage.CASCADE
    current = moves.state.current
    assert current is not None
    assert current.generative_bundle == "B"
    assert any(line.startswith("pilot HOLD: no change: offline ndcg@10") for line in report.lines)
    assert any("straddles the margin" in line for line in report.lines)
    assert deployer(moves, B, unsure).run().message.startswith("no change")


def test_a_contender_that_serves_wrongly_is_not_even_shadowed(moves: StateMachine) -> None:
    report = deployer(moves, B, [evidence(), serving("B", value=0.01)]).run()
    assert report.message.startswith("no change")
    current = moves.state.current
    assert current is not None
    assert current.bundles == ("A",)


def test_day_two_refreshes_every_arm(moves: StateMachine) -> None:
    deployer(moves, B, body(B)).run()
    deployer(moves, B2, body(B2), refresh=Target.REFRESH_DATA, hold=None).run()
    current = moves.state.current
    assert current is not None
    assert (current.stage, current.bundles) == (Stage.PILOT, ("B2",))
    # A rollback; the same files again leave it so.
    moves.rollback(actor="ann", reason="wrong prices")
    again = deployer(moves, B2, body(B2), refresh=Target.REFRESH_DATA, hold=None).run()
    assert again.message.startswith("no change")
    assert "was revoked by revision 4" in again.message
    assert moves.state.current.bundles == ("B",)  # type: ignore[union-attr]


def test_evidence_that_went_stale_since_the_decision_does_not_act(tmp_path: Path) -> None:
    aging = requirement(
        metric="invalid_rate",
        kind="serving",
        direction="at_most",
        margin=0.0,
        against=None,
        maximum_age_days=7,
    )
    rules = MigrationSettings.model_validate(
        {
            **SETTINGS.model_dump(),
            "pilot": Policy(requirements=(aging,)),
            "shadow": Policy(requirements=(aging,)),
        }
    )
    moves = machine(tmp_path, rules)
    moves.bootstrap(A)
    report = deployer(moves, B, body(B), later=timedelta(days=8)).run()
    assert "at this moment its evidence says HOLD" in report.message
    assert stage_of(moves) is Stage.CASCADE


def test_a_decision_on_other_evidence_is_refused(moves: StateMachine) -> None:
    stale = gate(Target.PILOT, body(B), B, SETTINGS)
    with pytest.raises(ArtifactError, match="the decision about pilot was not made on this bundle"):
        Deployer(moves, Offer(B, [*body(B), online()], {Target.PILOT: stale}), moment=lambda: NOON)


def test_a_pilot_of_a_path_that_nothing_was_asked_about_is_held_with_the_reason(tmp_path: Path) -> None:
    """The linter says so too, but the linter is a command: the deployment is what must not do it."""
    rules = MigrationSettings.model_validate({**SETTINGS.model_dump(), "pilot_path": "blended"})
    moves = machine(tmp_path, rules)
    moves.bootstrap(A)
    report = deployer(moves, B, body(B)).run()
    assert stage_of(moves) is Stage.CASCADE
    assert report.lines[1].startswith(
        "pilot HOLD: no change: pilot asks for no offline evidence about blended"
    )


def test_a_decision_does_not_let_another_path_serve_than_it_was_about(moves: StateMachine) -> None:
    """Decided about the generative path; by the time that it acts the settings name the blend, the policy being the same."""
    found = body(B)
    decided = gate(Target.PILOT, found, B, SETTINGS)
    assert decided.outcome is Outcome.PROMOTE
    moves.settings = MigrationSettings.model_validate({**SETTINGS.model_dump(), "pilot_path": "blended"})
    late = Deployer(moves, Offer(B, found, {Target.PILOT: decided}), moment=lambda: NOON)
    change = late.apply(Target.PILOT)
    assert not change.changed
    assert (
        "at this moment its evidence says HOLD: pilot asks for no offline evidence about blended"
        in change.message
    )


def test_most_users_are_not_served_what_the_pilot_did_not_measure(tmp_path: Path) -> None:
    rules = MigrationSettings.model_validate({**SETTINGS.model_dump(), "hybrid_path": "blended"})
    moves = machine(tmp_path, rules)
    moves.bootstrap(A)
    deployer(moves, B, body(B)).run()
    report = deployer(moves, B, body(B, online())).run()
    assert stage_of(moves) is Stage.PILOT
    assert any("hybrid asks for no offline evidence about blended" in line for line in report.lines)


def test_a_broken_guardrail_rolls_back_whatever_is_wrong_with_the_paths(moves: StateMachine) -> None:
    deployer(moves, B, body(B)).run()
    moves.settings = MigrationSettings.model_validate({**SETTINGS.model_dump(), "hybrid_path": "blended"})
    harm = online(estimate=-0.1, low=-0.2, high=-0.05)
    deployer(moves, B, body(B, harm)).run()
    assert stage_of(moves) is Stage.CASCADE


def test_another_incumbent_is_told_and_begins_as_a_canary(moves: StateMachine) -> None:
    deployer(moves, B, [evidence(estimate=0.0, low=-0.02, high=0.02), serving("B")]).run()
    stranger = bundle("S", incumbent="incumbent-2")
    report = deployer(moves, stranger, body(stranger)).run()
    assert any("brings incumbent incumbent-2" in line for line in report.lines)
    current = moves.state.current
    assert current is not None
    assert (current.stage, current.bundles) == (Stage.CASCADE, ("A", "S", "B"))
    assert current.canary is not None
    assert current.canary.share == moves.settings.pilot_share
    assert deployer(moves, stranger, body(stranger)).run().message.startswith("no change")


def test_an_incumbent_that_was_abandoned_does_not_come_back_in_the_next_bundle(moves: StateMachine) -> None:
    found = [evidence(estimate=0.0, low=-0.02, high=0.02)]
    first, second = bundle("S", incumbent="incumbent-2"), bundle("S2", incumbent="incumbent-2")
    deployer(moves, first, [*found, serving("S")]).run()
    current = moves.state.current
    assert current is not None
    assert current.canary is not None
    moves.abandon(actor="ann", reason="clicks fell")
    report = deployer(moves, second, [*found, serving("S2")]).run()
    assert any("was left by revision" in line for line in report.lines)
    current = moves.state.current
    assert current is not None
    assert current.canary is None
    third = bundle("T", incumbent="incumbent-3")
    deployer(moves, third, [*found, serving("T")]).run()
    current = moves.state.current
    assert current is not None
    assert current.canary is not None


@pytest.mark.parametrize("automatic", [True, False])
def test_another_incumbent_that_serves_wrongly_or_waits_begins_nothing(
    tmp_path: Path, automatic: bool
) -> None:
    rules = MigrationSettings.model_validate({**SETTINGS.model_dump(), "automatic": automatic})
    moves = machine(tmp_path, rules)
    moves.bootstrap(A)
    stranger = bundle("S", incumbent="incumbent-2")
    deployer(moves, stranger, [evidence(), serving("S", value=0.0 if not automatic else 0.01)]).run()
    current = moves.state.current
    assert current is not None
    assert current.bundles == ("A",)


def test_a_crossed_guardrail_rolls_back_by_itself_and_once(moves: StateMachine) -> None:
    deployer(moves, B, body(B)).run()
    harm = body(B, online(estimate=-0.1, low=-0.2, high=-0.05))
    report = deployer(moves, B, harm).run()
    current = moves.state.current
    assert report.changed
    assert current is not None
    assert (current.stage, current.restores) == (Stage.CASCADE, 1)
    assert "guardrail" in current.reason
    assert deployer(moves, B, harm).run().message.startswith("no change")


def test_one_run_enters_one_stage_and_pilot_evidence_never_opens_the_last(tmp_path: Path) -> None:
    """With one path at every stage, evidence, path and recipe are those of every gate."""
    rules = MigrationSettings.model_validate({**SETTINGS.model_dump(), "hybrid_path": "generative"})
    moves = machine(tmp_path, rules)
    moves.bootstrap(A)
    deployer(moves, B, body(B)).run()
    found = body(B, online())
    deployer(moves, B, found).run()
    assert stage_of(moves) is Stage.HYBRID
    deployer(moves, B, found).run()
    assert stage_of(moves) is Stage.HYBRID
    # Nor by a policy that asks for nothing online: nobody has seen the stage that was just entered.
    both = MigrationSettings.model_validate(
        {**rules.model_dump(), "hybrid": Policy(requirements=(VALID,)), "full": Policy(requirements=(VALID,))}
    )
    (tmp_path / "quick").mkdir()
    quick = machine(tmp_path / "quick", both)
    quick.bootstrap(A)
    for stage in (Stage.PILOT, Stage.HYBRID, Stage.FULL):
        deployer(quick, B, body(B)).run()
        assert stage_of(quick) is stage


def test_evidence_of_an_earlier_experiment_moves_nothing(moves: StateMachine) -> None:
    deployer(moves, B, body(B)).run()
    moves.abandon(actor="ann", reason="the season")
    moves.override(B, Target.PILOT, actor="ann", reason="after the season")  # revision 4, other users
    for before in (online(), online(estimate=-0.1, low=-0.2, high=-0.05)):
        report = deployer(moves, B, body(B, before)).run()
        assert not report.changed
        assert (
            "evidence of the experiment that revision 2 entered, and revision 4 entered the one"
            in report.message
        )
    assert deployer(moves, B, body(B, online(experiment=4))).run().changed
    assert stage_of(moves) is Stage.HYBRID


def test_a_crossed_guardrail_of_a_canary_at_full_ends_the_canary(moves: StateMachine) -> None:
    for target in (Target.PILOT, Target.HYBRID, Target.FULL):
        moves.advance(promote(target, B), B)
    other = bundle("D", model="M3", recipe="R2")
    moves.canary(promote(Target.CANARY, other), other)  # revision 5
    harm = online(
        recipe_a="R2", estimate=-0.1, low=-0.2, high=-0.05, experiment=5, gathered_for="refresh_recipe"
    )
    report = deployer(moves, other, body(other, harm), hold=None).run()
    current = moves.state.current
    assert report.changed
    assert current is not None
    assert (current.stage, current.canary, current.bundles) == (Stage.FULL, None, ("B",))


def test_the_walk_of_the_contracts_as_the_deployment_walks_it(moves: StateMachine) -> None:
    """Items 2 to 6 of the walk, by decisions on files: what was measured of R1 counts on through its refreshes."""
    weekly = bundle("C", model="M2")
    early = online(estimate=0.004, low=0.001, high=0.007)  # measured while B served, and bound to R1
    first = body(B)
    deployer(moves, B, first).run()
    d1 = moves.state.current.decision_sha256  # type: ignore[union-attr]
    deployer(moves, B2, body(B2), refresh=Target.REFRESH_DATA, hold=None).run()
    deployer(moves, weekly, body(weekly), refresh=Target.REFRESH_RETRAIN, hold=None).run()
    current = moves.state.current
    assert current is not None
    assert (current.revision, current.stage, current.bundles, current.recipe) == (
        4,
        Stage.PILOT,
        ("C",),
        "R1",
    )
    for facts in (B2, weekly):
        assert gate(Target.HYBRID, body(facts, early), facts, SETTINGS).outcome is Outcome.PROMOTE
    # 5. A guardrail is crossed after two refreshes: by itself, revision 1's stage and arms on the newest good bundle.
    harm = body(weekly, online(estimate=-0.1, low=-0.2, high=-0.05))
    report = deployer(moves, weekly, harm, refresh=Target.REFRESH_RETRAIN, hold=None).run()
    assert report.changed
    current = moves.state.current
    assert current is not None
    assert (current.revision, current.restores, current.stage, current.actor) == (
        5,
        1,
        Stage.CASCADE,
        "segue",
    )
    assert [(arm.path.value, arm.bundle, arm.share) for arm in current.arms] == [("cascade", "C", 1.0)]
    # 6. The first day's files again, from a cache: the decision is known, and revoked.
    again = deployer(moves, B, first).run()
    assert d1 is not None
    assert f"no change: decision {d1[:12]} was revoked by revision 5" in again.message
    assert again.message.startswith("no change")
    assert moves.state.current == current


def test_a_promote_waits_for_a_person_where_it_must(tmp_path: Path) -> None:
    moves = machine(tmp_path, MigrationSettings.model_validate({**SETTINGS.model_dump(), "automatic": False}))
    moves.bootstrap(A)
    found = deployer(moves, B, body(B))
    assert "waits for the alias of pilot" in found.run().message
    assert found.apply(Target.PILOT, actor="ann").changed


def test_what_is_kept_says_of_which_class_a_refresh_is() -> None:
    kept: dict[str, str | None] = {"codebook": "c", "tuning": "t", "generative_model": "g", "bundle": "b"}
    assert refresh_class(kept) == (Target.REFRESH_DATA, None)
    assert refresh_class({**kept, "generative_model": None}) == (Target.REFRESH_RETRAIN, None)
    assert refresh_class({**kept, "codebook": None}) == (Target.REFRESH_RECIPE, None)
    target, hold = refresh_class(dict.fromkeys(kept))
    assert target is Target.REFRESH_RECIPE
    assert hold is not None
    assert "nothing is kept" in hold


def test_a_bundle_that_does_not_say_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "bundle.json").write_text('{"bundle_id": "B"}')
    with pytest.raises(ArtifactError, match="lacks one of"):
        read_facts(tmp_path)


def test_a_report_begins_with_no_change_only_if_nothing_changed() -> None:
    assert Report(["x"], changed=True).message == "x"
    assert Report(["x"]).message == "no change: x"


def test_a_model_that_cannot_be_loaded_enters_no_stage_and_no_shadow(moves: StateMachine) -> None:
    asked: list[int] = []

    def unreadable() -> str | None:
        asked.append(1)
        return "the generative model of bundle B cannot be loaded: its head.out is missing"

    ready = deployer(moves, B, body(B))
    assert ready.decisions[Target.PILOT].outcome is Outcome.PROMOTE
    refusing = Deployer(moves, ready.offer, moment=lambda: NOON, unreadable=unreadable)
    report = refusing.run()
    assert not report.changed
    assert "pilot PROMOTE: no change: the generative model of bundle B cannot be loaded" in report.message
    assert stage_of(moves) is Stage.CASCADE
    assert moves.state.serving.shadow is None
    assert asked
    # The same offer with a model that loads: nothing else stood in its way.
    ready.run()
    assert stage_of(moves) is Stage.PILOT


def test_a_retrained_model_that_cannot_be_loaded_replaces_none(moves: StateMachine) -> None:
    deployer(moves, B, body(B)).run()
    retrained = bundle("C", model="M2")
    ready = deployer(moves, retrained, body(retrained), refresh=Target.REFRESH_RETRAIN, hold=None)
    why = "the generative model of bundle C cannot be loaded"
    refusing = Deployer(moves, ready.offer, moment=lambda: NOON, unreadable=lambda: why)
    assert f"refresh_retrain PROMOTE: no change: {why}" in refusing.run().message
    assert moves.state.serving.bundles == ("B",)
    ready.run()
    assert moves.state.serving.bundles == ("C",)


def test_a_guardrail_of_another_recipe_ends_no_experiment(moves: StateMachine) -> None:
    deployer(moves, B, body(B)).run()
    other = bundle("D", model="M3", recipe="R2")
    harm = online(estimate=-0.1, low=-0.2, high=-0.05, recipe_a="R2")
    run = deployer(moves, other, body(other, harm))
    assert run.decisions[Target.HYBRID].outcome is Outcome.ROLLBACK
    assert "the recipe whose guardrail was crossed serves nobody" in run.run().message
    assert stage_of(moves) is Stage.PILOT
