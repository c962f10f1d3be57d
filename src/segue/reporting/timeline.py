"""The ledger as a story: every deployment, decision, override and request, in words, newest first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from segue.migration.approval import Proposal
from segue.migration.decide import Decision, Outcome
from segue.migration.ledger import Row
from segue.migration.policy import Status
from segue.reporting.render import percent, short, words

TONES: Final = {Outcome.PROMOTE: "good", Outcome.HOLD: "amber", Outcome.ROLLBACK: "bad"}
_EVENTS: Final = {
    "bootstrap": ("First deployment", "accent"),
    "advance": ("One stage on", "good"),
    "refresh_data": ("New items and histories", "accent"),
    "refresh_retrain": ("New weights", "accent"),
    "refresh_recipe": ("A new recipe", "accent"),
    "canary": ("A canary begins", "accent"),
    "shadow": ("The contender runs in shadow", "accent"),
    "demote": ("One stage back", "bad"),
    "rollback": ("Rolled back", "bad"),
    "abandon": ("The experiment was ended", "bad"),
}
TARGETS: Final = {
    "shadow": "Run in shadow?",
    "pilot": "Begin the pilot?",
    "hybrid": "Serve most users?",
    "full": "Serve everybody?",
    "refresh_data": "Take in new data?",
    "refresh_retrain": "Take the retrained model?",
    "refresh_recipe": "Take another recipe?",
    "canary": "Begin a canary?",
    "canary_incumbent": "Try another incumbent?",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of the story. ``tag`` is a word in colour ``tone``; ``reasons`` stand below, most important first."""

    at: str
    kind: str
    title: str
    tag: str
    tone: str
    told: str = ""
    reasons: list[str] = field(default_factory=list)
    met: int = 0
    asked: int = 0
    sha256: str | None = None


def timeline(rows: Iterable[Row]) -> list[Entry]:
    """Newest first. Projections to MLflow are left out: they change nothing that serves."""
    rows = list(rows)
    revoked = {
        sha256: row.payload["by_revision"]
        for row in rows
        if row.kind == "revocation"
        for sha256 in row.payload["decisions"]
    }
    found = []
    for row in rows:
        entry = _entry(row, revoked)
        if entry is not None:
            found.append(entry)
    return found[::-1]


def _entry(row: Row, revoked: Mapping[str, int]) -> Entry | None:
    payload = row.payload
    match row.kind:
        case "deployment":
            return _deployment(payload["deployment"]["at"], payload)
        case "decision":
            return _decision(row.at, payload, revoked)
        case "override":
            return Entry(
                at=row.at, kind="override", title=f"Let in by hand: {words(payload['target'])}",
                tag="override", tone="bad", told=f"{payload['actor']}: {payload['reason']}",
            )  # fmt: skip
        case "request":
            return Entry(
                at=row.at, kind="request", title=f"The alias {payload['alias']} was moved by hand in MLflow",
                tag="request", tone="", told=str(payload["answer"]),
            )  # fmt: skip
        case "proposal":
            return Entry(
                at=row.at, kind="proposal", title="Proposed: it waits for a second person", tag="proposal",
                tone="amber", told=str(Proposal.of(payload, row.at)),
            )  # fmt: skip
        case "approval":
            return Entry(
                at=row.at, kind="approval", title=f"{payload['actor']} approves", tag="approval", tone="good",
                told=f"of {short(payload['identity'])}, which {payload['proposer']} had proposed",
            )  # fmt: skip
        case "projection" | "revocation":  # the first changes nothing; the second is told beside its decision
            return None


def _deployment(at: str, payload: Mapping[str, Any]) -> Entry:
    document = payload["deployment"]
    title, tone = _EVENTS.get(payload["event"], (words(payload["event"]).capitalize(), ""))
    arms = ", ".join(
        f"{words(arm['path'])} {percent(arm['share'], _digits(arm['share']))}" for arm in document["arms"]
    )
    told = f"Serves: {arms}. By {document['actor']}: {document['reason']}."
    if document["restores"] is not None:
        told += f" It restores revision {document['restores']}."
    return Entry(
        at=at, kind="deployment", title=f"{title}: stage {document['stage']}", tag=f"revision {document['revision']}",
        tone=tone, told=told,
    )  # fmt: skip


def _decision(at: str, payload: Mapping[str, Any], revoked: Mapping[str, int]) -> Entry:
    decision = Decision.model_validate(payload["decision"])
    by = revoked.get(payload["sha256"])
    return Entry(
        at=at,
        kind="decision",
        title=TARGETS.get(decision.target.value, words(decision.target.value)),
        tag=decision.outcome.value,
        tone=TONES[decision.outcome],
        told="" if by is None else f"Revoked by revision {by}.",
        reasons=list(decision.reasons),
        met=sum(verdict.status is Status.MET for verdict in decision.verdicts),
        asked=len(decision.verdicts),
        sha256=short(payload["sha256"]),
    )


def _digits(share: float) -> int:
    """Decimals that a share in percent needs."""
    return 0 if round(100 * share, 6) == round(100 * share) else 1
