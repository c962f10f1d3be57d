"""The second pair of eyes: what waits until somebody else approves of it (docs/adr/0014).

With ``migration.approval: second_person`` an event that changes what users see, and goes forward, is written down as a
*proposal* and does nothing. It acts when a person who is not its proposer approves of it, by the same gate, at that moment.
What goes back (rollback, demotion, abandonment) never waits; neither do a shadow, which nobody sees, and a data refresh.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from segue.canonical import sha256_of, short
from segue.errors import StateError
from segue.migration.change import OVERRIDDEN, SYSTEM, Draft
from segue.migration.decide import Outcome, Target
from segue.migration.deployment import BundleFacts, Deployment
from segue.migration.ledger import Entry
from segue.migration.settings import MigrationSettings

EXEMPT: Final = frozenset({Target.SHADOW, Target.REFRESH_DATA})


@dataclass(frozen=True, slots=True)
class Proposal:
    """What somebody wants to happen. ``identity`` is the decision's hash, of an override that of who wants what and why."""

    identity: str
    target: Target
    override: bool
    bundle: BundleFacts
    proposer: str
    actor: str  # in whose name it happens: the proposer, or the system on the proposer's machine
    reason: str
    revision: int  # what served when it was proposed
    at: str
    login: str | None = None  # who ran the process, whatever name was given; None: not known
    drafted: Mapping[str, Any] | None = (
        None  # what would serve (see drafted_of); None: proposed by an earlier version
    )

    @classmethod
    def of(cls, payload: Mapping[str, Any], at: str) -> Proposal:
        """The proposal that a ledger row holds."""
        return cls(
            identity=payload["identity"],
            target=Target(payload["target"]),
            override=payload["override"],
            bundle=BundleFacts.model_validate(payload["bundle"]),
            proposer=payload["proposer"],
            actor=payload["actor"],
            reason=payload["reason"],
            revision=payload["revision"],
            at=at,
            login=payload.get("login"),  # rows of an earlier version have none
            drafted=payload.get("drafted"),
        )

    @property
    def asked(self) -> str:
        """The reason that an override's author gave."""
        return self.reason.removeprefix(OVERRIDDEN)

    @property
    def entry(self) -> Entry:
        return Entry(
            "proposal",
            {
                "identity": self.identity,
                "target": self.target.value,
                "override": self.override,
                "bundle": self.bundle.model_dump(mode="json"),
                "proposer": self.proposer,
                "actor": self.actor,
                "reason": self.reason,
                "revision": self.revision,
                "login": self.login,
                "drafted": self.drafted,
            },
        )

    def __str__(self) -> str:
        what = "override" if self.override else "decision"
        return (
            f"{what} {short(self.identity)}: {self.target} with bundle {short(self.bundle.bundle_id)}, "
            f"proposed by {self.proposer} at {self.at} ({self.reason}); {_would_serve(self.drafted)}"
        )


def drafted_of(document: Deployment, bundle: BundleFacts) -> dict[str, Any]:
    """What ``document`` would let serve, as JSON: stage, scenario, blend, and every arm's path and share.

    Of the arms' bundles only whether it is the proposed one: the others may be refreshed while a proposal waits.
    """
    return {
        "stage": document.stage.value,
        "scenario": document.scenario,
        "blend": document.blend,
        "arms": [
            {
                "name": arm.name,
                "path": arm.path.value,
                "share": arm.share,
                "proposed": arm.bundle == bundle.bundle_id,
            }
            for arm in document.arms
        ],
    }


def proposal_of(
    draft: Draft, document: Deployment, settings: MigrationSettings, *, user: str | None
) -> Proposal | None:
    """What ``draft`` must wait as, which would become ``document``; None where it may act at once. ``user``: who runs this
    process."""
    if settings.approval == "none" or not draft.facts:
        return None
    revision = document.revision - 1
    override = draft.event.startswith("override_")
    if draft.decision is not None and draft.decision.outcome is Outcome.PROMOTE:
        target, identity = draft.decision.target, draft.decision.sha256
    elif override:
        target = Target(draft.event.removeprefix("override_"))
        identity = sha256_of([draft.event, draft.facts[0].bundle_id, draft.actor, draft.reason, revision])
    else:
        return None
    if target in EXEMPT:
        return None
    return Proposal(
        identity=identity,
        target=target,
        override=override,
        bundle=draft.facts[0],
        proposer=user if draft.actor == SYSTEM and user is not None else draft.actor,
        actor=draft.actor,
        reason=draft.reason,
        revision=revision,
        at=document.at,
        login=user,
        drafted=drafted_of(document, draft.facts[0]),
    )


def approved(draft: Draft, proposal: Proposal, approver: str, waiting: Iterable[Proposal]) -> Draft:
    """``draft`` with the approval that it needed.

    Raises StateError where ``proposal`` does not wait, another share, path, blend or scenario would serve than was proposed,
    or the approver is its proposer or nobody.
    """
    known = next((one for one in waiting if one.identity == proposal.identity), None)
    if known is None:
        raise StateError(
            f"{_named(proposal)} does not wait for approval: it was never proposed, or is settled"
        )
    if not approver.strip():
        raise StateError("an approval names who approves")
    if any(name is not None and _same(approver, name) for name in (known.proposer, known.actor, known.login)):
        raise StateError(
            f"{_named(proposal)} was proposed by {known.proposer}: somebody else must approve of it"
        )
    if known.drafted is None:
        raise StateError(
            f"{_named(proposal)} was proposed by an earlier version, which did not write down what would serve: propose it again"
        )
    if known.drafted != proposal.drafted:
        raise StateError(
            f"not approved: {_named(proposal)} was proposed as {_served(known.drafted)}, and by now it would be "
            f"{_served(proposal.drafted)}: parameters or what serves changed since; propose it again"
        )
    row = Entry("approval", {"identity": known.identity, "actor": approver, "proposer": known.proposer})
    return replace(
        draft,
        reason=f"{draft.reason}; proposed by {known.proposer}, approved by {approver}",
        also=[*draft.also, row],
    )


def _named(proposal: Proposal) -> str:
    return f"{'override' if proposal.override else 'decision'} {short(proposal.identity)}"


def _would_serve(drafted: Mapping[str, Any] | None) -> str:
    return "what would serve was not written down" if drafted is None else f"would be {_served(drafted)}"


def _served(drafted: Mapping[str, Any] | None) -> str:
    """What would serve, in words: every figure that an approver signs."""
    if drafted is None:
        return "nothing"
    arms = ", ".join(f"{arm['name']} {100 * arm['share']:.6g} % {arm['path']}" for arm in drafted["arms"])
    said = f"stage {drafted['stage']}: {arms}"
    for what in ("scenario", "blend"):
        if drafted[what] is not None:
            said += f", {what} {drafted[what]}"
    return said


def _same(one: str, other: str) -> bool:
    return one.strip().casefold() == other.strip().casefold()
