"""The deployment's state machine: which document may follow which, and by whose leave.

An event reads the ledger, computes the next document (:mod:`segue.migration.events`, one module each), and writes
it with what goes with it in one transaction. What a decision allows is done at most once; a repeated or revoked
decision changes nothing and says so. Four rules go beyond the plain table of events
(docs/adr/0003-shadow-contender.md):

* ``shadow``: at stage cascade a contender whose serving check passed may run in shadow, so that it can be
  previewed while its pilot is on HOLD.
* Leaving a stage by rollback, demotion or abandonment also bars the *recipe* from that stage: a new
  measurement of it gives a new decision hash, and must not undo what a person or a guardrail did.
* Leaving a canary of another recipe bars the recipe too: tomorrow's bundle of it must not begin another one by itself.
* Leaving a refresh bars its *bundle*, for the same reason. Only an override lets any of them in again.

Where the settings ask for a second person, what goes forward is proposed and does nothing until it is called again with
an ``approver`` (:mod:`segue.migration.approval`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from segue.errors import StateError
from segue.migration.approval import Proposal, approved, proposal_of
from segue.migration.change import SYSTEM, Change, Draft, Refused
from segue.migration.decide import Decision, Target
from segue.migration.deployment import BundleFacts
from segue.migration.events.abandon import abandon
from segue.migration.events.advance import advance
from segue.migration.events.bootstrap import bootstrap
from segue.migration.events.canary import brings_another_incumbent, canary
from segue.migration.events.demote import demote
from segue.migration.events.override import override
from segue.migration.events.refresh import refresh
from segue.migration.events.rollback import rollback
from segue.migration.events.shadow import shadow
from segue.migration.ledger import Entry, Ledger, now
from segue.migration.settings import MigrationSettings
from segue.migration.state import STAGES, State
from segue.migration.writing import announcement, decision_entry, document_of, entries_of

__all__ = ["STAGES", "SYSTEM", "Change", "Refused", "State", "StateMachine"]


_WAITS: Final = "waits for a second person (`segue approve`)"


class StateMachine:
    """The events, over one ledger.

    ``clock`` gives the ISO time that a document is dated with; ``user`` is who runs this process, and so the proposer
    of what happens in the system's name.
    """

    def __init__(
        self,
        ledger: Ledger,
        settings: MigrationSettings,
        *,
        clock: Callable[[], str] = lambda: now().isoformat(),
        user: str | None = None,
    ) -> None:
        self.ledger = ledger
        self.settings = settings
        self._clock = clock
        self._user = user

    @property
    def state(self) -> State:
        return State.of(self.ledger.dataset, self.ledger.rows())

    # -- what is recorded without changing what serves

    def record(self, decision: Decision) -> bool:
        """Record a decision, a HOLD too. Returns whether it was new."""
        state = self.state
        if decision.sha256 in state.decisions:
            return False
        self.ledger.append([decision_entry(decision)], expected_revision=state.number)
        return True

    def record_projection(self, aliases: Mapping[str, str]) -> None:
        """Remember what was projected last, if it differs from what was remembered."""
        state = self.state
        if state.aliases != dict(aliases):
            self.ledger.append(
                [Entry("projection", {"aliases": dict(aliases)})], expected_revision=state.number
            )

    def record_request(self, payload: Mapping[str, Any]) -> None:
        """Remember that somebody moved an alias, and what became of it."""
        self.ledger.append([Entry("request", payload)], expected_revision=self.state.number)

    # -- events: each module of segue.migration.events says what it does and what it raises

    def bootstrap(
        self, bundle: BundleFacts, *, actor: str = SYSTEM, reason: str = "first deployment"
    ) -> Change:
        state = self.state
        return self._do(state, bootstrap(state, bundle, actor=actor, reason=reason))

    def advance(
        self, decision: Decision, bundle: BundleFacts, *, actor: str = SYSTEM, approver: str | None = None
    ) -> Change:
        state = self.state
        return self._do(state, advance(state, self.settings, decision, bundle, actor=actor), approver)

    def refresh(
        self, decision: Decision, bundle: BundleFacts, *, actor: str = SYSTEM, approver: str | None = None
    ) -> Change:
        state = self.state
        return self._do(state, refresh(state, decision, bundle, actor=actor), approver)

    def canary(
        self, decision: Decision, bundle: BundleFacts, *, actor: str = SYSTEM, approver: str | None = None
    ) -> Change:
        state = self.state
        return self._do(state, canary(state, self.settings, decision, bundle, actor=actor), approver)

    def shadow(
        self, decision: Decision, bundle: BundleFacts, *, actor: str = SYSTEM, approver: str | None = None
    ) -> Change:
        state = self.state
        return self._do(state, shadow(state, self.settings, decision, bundle, actor=actor), approver)

    def demote(self, *, actor: str, reason: str) -> Change:
        state = self.state
        return self._do(state, demote(state, self.settings, actor=actor, reason=reason))

    def rollback(
        self,
        *,
        actor: str,
        reason: str,
        experiment: bool = False,
        to: int | None = None,
        decision: Decision | None = None,
        expected_revision: int | None = None,
    ) -> Change:
        """``expected_revision`` is the newest that the caller knew when they judged; StateError where it is another by now."""
        state = self.state
        if expected_revision is not None and state.number != expected_revision:
            raise StateError(
                f"revision {expected_revision} was to be left, and revision {state.number} serves by now: look again"
            )
        return self._do(
            state,
            rollback(
                state,
                self.settings,
                actor=actor,
                reason=reason,
                experiment=experiment,
                to=to,
                decision=decision,
            ),
        )

    def abandon(self, *, actor: str, reason: str) -> Change:
        state = self.state
        return self._do(state, abandon(state, self.settings, actor=actor, reason=reason))

    def override(
        self, bundle: BundleFacts, target: Target, *, actor: str, reason: str, approver: str | None = None
    ) -> Change:
        state = self.state
        draft = override(state, self.settings, bundle, target, actor=actor, reason=reason)
        return self._do(state, draft, approver)

    def brings_another_incumbent(self, bundle: BundleFacts) -> bool:
        """Whether ``bundle``'s incumbent is not the one that serves most."""
        return brings_another_incumbent(self.state, bundle)

    def _do(self, state: State, outcome: Draft | Change, approver: str | None = None) -> Change:
        if isinstance(outcome, Change):
            return outcome
        document = document_of(state, outcome, self.settings, self._clock())
        proposal = proposal_of(outcome, document, self.settings, user=self._user)
        if proposal is not None:
            if approver is None:
                return self._propose(state, outcome, proposal)
            outcome = approved(outcome, proposal, approver, state.waiting)
            document = document.model_copy(update={"reason": outcome.reason})
        self.ledger.append(entries_of(state, outcome, document), expected_revision=state.number)
        return Change(announcement(outcome.event, document), document)

    def _propose(self, state: State, draft: Draft, proposal: Proposal) -> Change:
        known = {one.identity: one for one in state.waiting}.get(proposal.identity)
        if known is None or known.drafted != proposal.drafted:
            entries = [proposal.entry]
            if draft.decision is not None and draft.decision.sha256 not in state.decisions:
                entries.insert(0, decision_entry(draft.decision))
            self.ledger.append(entries, expected_revision=state.number)
            former = next((one for one in state.waiting if one.target is proposal.target), None)
            instead = "" if former is None else f", in place of {former}"
            return Change(f"proposed, and nothing changes yet: {proposal}{instead}; {_WAITS}")
        return Change(f"no change: {known}; it {_WAITS}")
