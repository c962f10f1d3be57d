"""What waits for a second person, and who may let it act."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from segue.errors import StateError
from segue.migration.approval import Proposal
from segue.migration.change import Change
from segue.migration.decide import Target
from segue.migration.ledger import Entry
from segue.migration.settings import MigrationSettings, Policy
from segue.migration.state_machine import StateMachine
from segue.schema import Stage
from tests.migration.builders import (
    SETTINGS,
    body,
    bundle,
    decision,
    ledger,
    machine,
    online,
    promote,
    requirement,
)
from tests.migration.test_apply import deployer, stage_of

PATHS = ("rerank", "blended")
A, B, B2 = bundle("A", model=None), bundle("B"), bundle("B2")
FOUR_EYES = MigrationSettings.model_validate({**SETTINGS.model_dump(), "approval": "second_person"})


@pytest.fixture
def moves(tmp_path: Path) -> StateMachine:
    found = StateMachine(ledger(tmp_path), FOUR_EYES, user="ann")
    found.bootstrap(A)
    return found


def waiting(moves: StateMachine) -> Proposal:
    (found,) = moves.state.waiting
    return found


def test_a_promote_waits_and_acts_once_somebody_else_approves(moves: StateMachine) -> None:
    run = deployer(moves, B, body(B))
    report = run.run()
    assert "waits for a second person" in report.message
    assert stage_of(moves) is Stage.CASCADE
    proposal = waiting(moves)
    assert (proposal.target, proposal.proposer) == (Target.PILOT, "ann")
    assert proposal.identity == run.decisions[Target.PILOT].sha256
    # The shadow meanwhile: nobody sees it, so it waits for nobody.
    current = moves.state.current
    assert current is not None
    assert current.generative_bundle == "B"
    # The same run again proposes nothing new.
    rows = len(moves.ledger.rows())
    assert deployer(moves, B, body(B)).run().message.startswith("no change")
    assert len(moves.ledger.rows()) == rows

    change = deployer(moves, B, body(B)).approve(proposal, "bob")
    assert change.deployment is not None
    assert change.deployment.stage is Stage.PILOT
    assert change.deployment.decision_sha256 == proposal.identity
    assert change.deployment.reason == "pilot PROMOTE; proposed by ann, approved by bob"
    assert moves.state.waiting == ()
    assert [row.payload["actor"] for row in moves.ledger.rows() if row.kind == "approval"] == ["bob"]
    with pytest.raises(StateError, match=r"not approved: .* is about pilot, and the stage is pilot"):
        deployer(moves, B, body(B)).approve(proposal, "bob")


@pytest.mark.parametrize("override", [False, True])
@pytest.mark.parametrize(
    ("change", "now"),
    [
        ({"pilot_share": 0.9}, "treatment 90 % generative"),
        ({"pilot_path": "rerank"}, "treatment 5 % rerank"),
        ({"scenarios": ["home"], "scenario": "home"}, "scenario home"),
        ({"blend": {"cascade": 0.1, "generative": 0.9}}, "'generative': 0.9"),
    ],
)
def test_what_was_not_proposed_is_not_approved(
    tmp_path: Path, change: dict[str, Any], now: str, override: bool
) -> None:
    """Share, path, blend and scenario come from the parameters, which may be edited while a proposal waits."""
    blended = {"pilot_path": "blended"} if "blend" in change else {}
    asked = [
        *SETTINGS.pilot.requirements,
        *(one.model_copy(update={"path": path}) for one in SETTINGS.pilot.requirements for path in PATHS),
    ]
    before = MigrationSettings.model_validate(
        {**FOUR_EYES.model_dump(), "pilot": Policy(requirements=tuple(asked)), **blended}
    )
    found = [
        *body(B),
        *(one.model_copy(update={"path_a": path}) for one in body(B) for path in PATHS),
    ]

    def act(rules: MigrationSettings, approver: str | None) -> Change:
        moves = StateMachine(ledger(tmp_path), rules, user="ann")
        if override:
            return moves.override(B, Target.PILOT, actor="ann", reason="now", approver=approver)
        run = deployer(moves, B, found)
        return run.approve(waiting(moves), approver) if approver else run.apply(Target.PILOT)

    StateMachine(ledger(tmp_path), before).bootstrap(A)
    told = act(before, None).message
    assert told.startswith("proposed")
    assert f"treatment 5 % {'blended' if blended else 'generative'}" in told
    edited = MigrationSettings.model_validate({**before.model_dump(), **change})
    with pytest.raises(StateError, match=r"was proposed as stage pilot: .* by now it would be") as refused:
        act(edited, "bob")
    assert now in str(refused.value).partition("by now it would be")[2]
    # Proposed again it waits as what it is by now, in place of what it was, and that is what the approver gets.
    again = act(edited, None).message
    assert now in again.partition("in place of")[0]
    done = act(edited, "bob").deployment
    assert done is not None
    assert done.reason.endswith("proposed by ann, approved by bob")
    assert StateMachine(ledger(tmp_path), edited).state.waiting == ()


def test_a_proposal_of_an_earlier_version_is_proposed_again(moves: StateMachine) -> None:
    deployer(moves, B, body(B)).run()
    known = waiting(moves)
    payload = {key: value for key, value in known.entry.payload.items() if key != "drafted"}
    moves.ledger.append([Entry("proposal", payload)], expected_revision=moves.state.number)
    with pytest.raises(StateError, match="by an earlier version, which did not write down what would serve"):
        deployer(moves, B, body(B)).approve(waiting(moves), "bob")
    deployer(moves, B, body(B)).run()
    assert deployer(moves, B, body(B)).approve(waiting(moves), "bob").changed


def test_a_refresh_meanwhile_does_not_stand_in_the_way_of_a_canary(tmp_path: Path) -> None:
    """The other arms' bundles are no part of what was proposed: new items would else cost a signature each."""
    for target in (Target.PILOT, Target.HYBRID, Target.FULL):
        machine(tmp_path).bootstrap(A)
        machine(tmp_path).advance(promote(target, B), B)
    moves = StateMachine(ledger(tmp_path), FOUR_EYES, user="ann")
    other = bundle("D", model="M3", recipe="R2")
    wanted = promote(Target.CANARY, other)
    moves.canary(wanted, other)
    moves.refresh(promote(Target.REFRESH_DATA, B2), B2)
    done = moves.canary(wanted, other, approver="bob").deployment
    assert done is not None
    assert {arm.bundle for arm in done.arms} == {"B2", "D"}


@pytest.mark.parametrize("name", ["ann", " Ann ", "ANN", "segue"])
def test_a_proposer_does_not_approve(moves: StateMachine, name: str) -> None:
    deployer(moves, B, body(B)).run()
    with pytest.raises(StateError, match="was proposed by ann: somebody else must approve"):
        deployer(moves, B, body(B)).approve(waiting(moves), name)
    with pytest.raises(StateError, match="names who approves"):
        deployer(moves, B, body(B)).approve(waiting(moves), "  ")
    assert stage_of(moves) is Stage.CASCADE


def test_what_was_never_proposed_cannot_be_approved(moves: StateMachine) -> None:
    with pytest.raises(StateError, match="was never proposed, or is settled"):
        moves.advance(decision(Target.PILOT, B), B, approver="bob")
    assert stage_of(moves) is Stage.CASCADE


def test_another_decision_s_approval_is_refused(moves: StateMachine) -> None:
    deployer(moves, B, body(B)).run()
    first = waiting(moves)
    # Measured again: the files hold another decision, and it takes the first one's place.
    again = [*body(B), online()]
    with pytest.raises(StateError, match=r"is not what lies here .* decided again since"):
        deployer(moves, B, again).approve(first, "bob")
    deployer(moves, B, again).run()
    assert waiting(moves).identity != first.identity
    with pytest.raises(StateError, match="was never proposed, or is settled"):
        deployer(moves, B, body(B)).approve(first, "bob")
    assert deployer(moves, B, again).approve(waiting(moves), "bob").changed


def test_a_stale_decision_s_approval_is_refused(tmp_path: Path) -> None:
    aging = requirement(
        metric="invalid_rate",
        kind="serving",
        direction="at_most",
        margin=0.0,
        against=None,
        maximum_age_days=7,
    )
    rules = MigrationSettings.model_validate(
        {**FOUR_EYES.model_dump(), "pilot": Policy(requirements=(aging,))}
    )
    moves = machine(tmp_path, rules)
    moves.bootstrap(A)
    deployer(moves, B, body(B)).run()
    with pytest.raises(StateError, match=r"not approved: .* at this moment its evidence says HOLD"):
        deployer(moves, B, body(B), later=timedelta(days=8)).approve(waiting(moves), "bob")
    assert deployer(moves, B, body(B), later=timedelta(days=6)).approve(waiting(moves), "bob").changed


def test_a_revoked_decision_waits_no_more(moves: StateMachine) -> None:
    deployer(moves, B, body(B)).run()
    deployer(moves, B, body(B)).approve(waiting(moves), "bob")
    hybrid = body(B, online(experiment=3))
    deployer(moves, B, hybrid).run()
    proposal = waiting(moves)
    assert proposal.target is Target.HYBRID
    moves.rollback(actor="ann", reason="clicks fell")  # goes back, so it waits for nobody
    assert stage_of(moves) is Stage.CASCADE
    with pytest.raises(
        StateError, match=r"not approved: .* revision 3 entered, and none runs: measure again"
    ):
        deployer(moves, B, hybrid).approve(proposal, "bob")
    # And the pilot's own decision is revoked: proposed again it is refused before it waits.
    assert "was revoked by revision 4" in deployer(moves, B, body(B)).run().message


def test_what_keeps_the_list_fresh_or_goes_back_waits_for_nobody(moves: StateMachine) -> None:
    deployer(moves, B, body(B)).run()
    deployer(moves, B, body(B)).approve(waiting(moves), "bob")
    assert moves.refresh(decision(Target.REFRESH_DATA, B2), B2).changed
    harm = body(B2, online(experiment=3, estimate=-0.1, low=-0.2, high=-0.05))
    assert deployer(moves, B2, harm, refresh=Target.REFRESH_DATA, hold=None).run().changed
    assert stage_of(moves) is Stage.CASCADE
    C = bundle("C", model="M2")
    assert "waits for a second person" in moves.refresh(promote(Target.REFRESH_RETRAIN, C), C).message


def test_a_proposal_whose_decision_was_revoked_is_not_among_those_that_wait(moves: StateMachine) -> None:
    deployer(moves, B, body(B)).run()
    state, proposal = moves.state, waiting(moves)
    assert state.waiting == (proposal,)
    assert replace(state, revoked={proposal.identity: 3}).waiting == ()
    assert replace(state, applied={proposal.identity: 3}).waiting == ()


def test_whoever_proposes_in_another_s_name_does_not_approve_either(moves: StateMachine) -> None:
    moves.override(B, Target.PILOT, actor="carol", reason="the fair is tomorrow")  # ann runs the process
    for name in ("ann", " ANN", "carol"):
        with pytest.raises(StateError, match="somebody else must approve"):
            moves.override(B, Target.PILOT, actor="carol", reason="the fair is tomorrow", approver=name)
    assert moves.override(
        B, Target.PILOT, actor="carol", reason="the fair is tomorrow", approver="bob"
    ).changed


def test_an_override_needs_a_second_person_too(moves: StateMachine) -> None:
    asked = moves.override(B, Target.PILOT, actor="ann", reason="the fair is tomorrow")
    assert not asked.changed
    proposal = waiting(moves)
    assert (proposal.override, proposal.proposer, proposal.asked) == (True, "ann", "the fair is tomorrow")
    with pytest.raises(StateError, match="was proposed by ann"):
        moves.override(B, Target.PILOT, actor="ann", reason=proposal.asked, approver="ann")
    # In another's name, or for another reason, it is another override, which nobody proposed.
    with pytest.raises(StateError, match="never proposed"):
        moves.override(B, Target.PILOT, actor="eve", reason=proposal.asked, approver="bob")
    done = moves.override(B, Target.PILOT, actor="ann", reason=proposal.asked, approver="bob")
    assert done.deployment is not None
    assert (done.deployment.stage, done.deployment.actor) == (Stage.PILOT, "ann")
    assert any(row.kind == "override" for row in moves.ledger.rows())


def test_an_override_that_another_revision_overtook_waits_no_more(moves: StateMachine) -> None:
    moves.override(B, Target.PILOT, actor="ann", reason="the fair is tomorrow")
    moves.shadow(decision(Target.SHADOW, B), B)
    assert moves.state.waiting == ()
    with pytest.raises(StateError, match="never proposed, or is settled"):
        moves.override(B, Target.PILOT, actor="ann", reason="the fair is tomorrow", approver="bob")


def test_without_the_option_nothing_waits(tmp_path: Path) -> None:
    moves = machine(tmp_path)
    moves.bootstrap(A)
    assert deployer(moves, B, body(B)).run().changed
    assert moves.state.proposals == ()
    assert moves.ledger.verify() == len(moves.ledger.rows())


def test_an_override_says_that_it_was_proposed_and_what_it_takes_the_place_of(moves: StateMachine) -> None:
    first = moves.override(B, Target.PILOT, actor="ann", reason="a fair").message
    assert first.startswith("proposed, and nothing changes yet: ")
    assert moves.override(B, Target.PILOT, actor="ann", reason="a fair").message.startswith("no change: ")
    former = waiting(moves)
    second = moves.override(B, Target.PILOT, actor="ann", reason="a wedding").message
    assert f"in place of {former}" in second
    assert waiting(moves).identity != former.identity
