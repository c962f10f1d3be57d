from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.errors import StateError
from segue.migration.apply import Deployer
from segue.migration.decide import Target
from segue.migration.settings import MigrationSettings
from segue.migration.state_machine import StateMachine
from segue.registry.projection import ALIASES, answer_requests, desired, project, requests
from segue.schema import Stage
from tests.migration.builders import SETTINGS, body, bundle, decision, evidence, machine, serving
from tests.migration.test_apply import deployer

A, B = bundle("A", model=None), bundle("B")


@dataclass
class Shelf:
    """A registry in memory."""

    shown: dict[str, str] = field(default_factory=dict)
    tags: dict[tuple[str | None, str], str] = field(default_factory=dict)

    def aliases(self) -> dict[str, str]:
        return dict(self.shown)

    def set_alias(self, alias: str, bundle: str) -> None:
        self.shown[alias] = bundle

    def delete_alias(self, alias: str) -> None:
        del self.shown[alias]

    def tag(self, bundle: str | None, key: str, value: str) -> None:
        self.tags[bundle, key] = value


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def moves(tmp_path: Path, shelf: Shelf) -> StateMachine:
    found = machine(tmp_path)
    found.bootstrap(A)
    project(shelf, found)
    return found


def failing(moves: StateMachine) -> Deployer:
    return deployer(moves, B, [evidence(estimate=-0.1, low=-0.2, high=-0.05), serving("B")])


def test_the_aliases_are_the_ledgers(moves: StateMachine, shelf: Shelf) -> None:
    assert shelf.shown == {"champion": "A"}
    moves.advance(decision(Target.PILOT, B), B)
    assert project(shelf, moves)
    assert shelf.shown == {"champion": "B", "previous_champion": "A", "pilot": "B"}
    assert shelf.tags["B", "segue.stage"] == "pilot"
    assert not project(shelf, moves)
    moves.rollback(actor="ann", reason="x")
    project(shelf, moves)
    assert shelf.shown == {"champion": "A", "previous_champion": "B", "challenger": "B"}


def test_an_alias_moved_past_a_failing_gate_is_put_back_with_the_reason(
    moves: StateMachine, shelf: Shelf
) -> None:
    shelf.set_alias("pilot", "B")
    [(request, change)] = answer_requests(shelf, moves, failing(moves))
    assert (request.alias, change.changed) == ("pilot", False)
    assert "beyond the margin" in shelf.tags["B", "segue.refused.pilot"]
    assert project(shelf, moves)
    assert "pilot" not in shelf.shown
    assert answer_requests(shelf, moves, failing(moves)) == []
    assert [row.payload["followed"] for row in moves.ledger.rows() if row.kind == "request"] == [False]


def test_past_a_passing_gate_the_deployment_follows(tmp_path: Path, shelf: Shelf) -> None:
    rules = MigrationSettings.model_validate({**SETTINGS.model_dump(), "automatic": False})
    moves = machine(tmp_path, rules)
    moves.bootstrap(A)
    project(shelf, moves)
    shelf.set_alias("pilot", "B")
    [(_, change)] = answer_requests(shelf, moves, deployer(moves, B, body(B)))
    assert change.changed
    assert change.deployment is not None
    assert (change.deployment.stage, change.deployment.actor) == (Stage.PILOT, "mlflow alias pilot")
    project(shelf, moves)
    assert shelf.shown["pilot"] == "B"


def test_a_moved_alias_waits_for_a_second_person_like_everything(tmp_path: Path, shelf: Shelf) -> None:
    rules = MigrationSettings.model_validate(
        {**SETTINGS.model_dump(), "automatic": False, "approval": "second_person"}
    )
    moves = machine(tmp_path, rules)
    moves.bootstrap(A)
    project(shelf, moves)
    shelf.set_alias("pilot", "B")
    [(_, change)] = answer_requests(shelf, moves, deployer(moves, B, body(B)))
    assert not change.changed
    assert "waits for a second person" in shelf.tags["B", "segue.refused.pilot"]
    project(shelf, moves)
    assert "pilot" not in shelf.shown
    (proposal,) = moves.state.waiting
    assert proposal.proposer == "mlflow alias pilot"
    assert deployer(moves, B, body(B)).approve(proposal, "bob").changed
    project(shelf, moves)
    assert shelf.shown["pilot"] == "B"


def test_champion_moved_back_is_a_rollback_without_a_gate(moves: StateMachine, shelf: Shelf) -> None:
    moves.advance(decision(Target.PILOT, B), B)
    project(shelf, moves)
    shelf.set_alias("champion", "A")
    [(_, change)] = answer_requests(shelf, moves, deployer(moves, B, body(B)))
    assert change.deployment is not None
    assert (change.deployment.restores, change.deployment.bundles) == (1, ("A",))


def test_champion_moved_to_a_bundle_that_was_left_is_put_back_with_the_reason(
    moves: StateMachine, shelf: Shelf
) -> None:
    """Every later run would stumble over the same alias."""
    moves.advance(decision(Target.PILOT, B), B)
    fresh = bundle("B2")
    moves.refresh(decision(Target.REFRESH_DATA, fresh), fresh)
    moves.rollback(actor="ann", reason="wrong prices")
    project(shelf, moves)
    shelf.set_alias("champion", "B2")
    [(_, change)] = answer_requests(shelf, moves, deployer(moves, B, body(B)))
    assert not change.changed
    assert "only an override brings back what it served" in shelf.tags["B2", "segue.refused.champion"]
    assert project(shelf, moves)
    assert shelf.shown["champion"] == "B"
    assert answer_requests(shelf, moves, deployer(moves, B, body(B))) == []
    assert [row.payload["followed"] for row in moves.ledger.rows() if row.kind == "request"] == [False]


def test_a_ledger_that_cannot_be_written_is_no_answer_to_a_request(
    moves: StateMachine, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    moves.advance(decision(Target.PILOT, B), B)
    project(shelf, moves)
    shelf.set_alias("champion", "A")

    def away(*_: object, **__: object) -> None:
        raise StateError("the database is away")

    monkeypatch.setattr(moves.ledger, "append", away)
    with pytest.raises(StateError, match="is away"):
        answer_requests(shelf, moves, deployer(moves, B, body(B)))
    assert not any("refused" in key for _, key in shelf.tags)


def test_what_a_guardrail_ended_is_not_begun_again_by_an_alias(moves: StateMachine, shelf: Shelf) -> None:
    moves.advance(deployer(moves, B, body(B)).decisions[Target.PILOT], B)
    moves.rollback(actor="segue", reason="guardrail", experiment=True)
    project(shelf, moves)
    shelf.set_alias("pilot", "B")
    [(_, change)] = answer_requests(shelf, moves, deployer(moves, B, body(B)))
    assert "was revoked by revision 3" in change.message
    assert "was revoked by revision 3" in shelf.tags["B", "segue.refused.pilot"]


def test_a_lagging_projection_is_no_request(moves: StateMachine, shelf: Shelf) -> None:
    # The ledger is ahead: a rollback by hand was not projected yet.
    moves.advance(decision(Target.PILOT, B), B)
    assert answer_requests(shelf, moves, failing(moves)) == []
    # The registry is ahead of what is remembered: a kill came between the two.
    for alias, name in desired(moves.state).items():
        shelf.set_alias(alias, name)
    assert answer_requests(shelf, moves, failing(moves)) == []
    assert moves.state.aliases == {"champion": "A"}


def test_a_deleted_alias_is_a_question_and_comes_back(moves: StateMachine, shelf: Shelf) -> None:
    shelf.delete_alias("champion")
    [(request, change)] = answer_requests(shelf, moves, failing(moves))
    assert request.bundle is None
    assert not change.changed
    assert "what was meant" in shelf.tags[None, "segue.question.champion"]
    project(shelf, moves)
    assert shelf.shown == {"champion": "A"}


def test_requests_that_no_gate_can_judge_are_refused(moves: StateMachine, shelf: Shelf) -> None:
    shelf.set_alias("previous_champion", "B")
    shelf.set_alias("champion", "version 7")
    shelf.set_alias("challenger", "elsewhere")
    messages = {
        request.alias: change.message for request, change in answer_requests(shelf, moves, failing(moves))
    }
    assert "cannot be chosen" in messages["previous_champion"]
    assert "no decision lies here about version 7" in messages["champion"]
    assert "no decision lies here about elsewhere" in messages["challenger"]


states = st.dictionaries(st.sampled_from(ALIASES), st.sampled_from(["A", "B", "C"]))


@settings(max_examples=25, deadline=None)
@given(states, states, states)
def test_only_a_moved_alias_is_a_request(
    last: dict[str, str], ledger: dict[str, str], shown: dict[str, str]
) -> None:
    found = {request.alias for request in requests(last, ledger, shown)}
    for alias in ALIASES:
        moved = shown.get(alias) != last.get(alias)
        assert (alias in found) == (moved and shown.get(alias) != ledger.get(alias))
    assert requests(None, ledger, shown) == []
    assert requests(last, ledger, last) == []
