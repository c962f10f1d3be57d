"""The decision: a pure function of evidence, policy and a moment.

It fails closed: PROMOTE needs every requirement met by bound, finite and fresh evidence. A guardrail that
online evidence shows to be broken gives ROLLBACK. Everything else is HOLD, with a sentence for each
requirement.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from segue.artifacts import read_json, write_json
from segue.canonical import sha256_of
from segue.errors import ArtifactError
from segue.migration.evidence import Evidence, evidence_sha256
from segue.migration.policy import Status, Verdict, evaluate, policy_sha256, problems
from segue.migration.settings import Policy

DECISION_FILE = "decision.json"


class Outcome(StrEnum):
    PROMOTE = "PROMOTE"
    HOLD = "HOLD"
    ROLLBACK = "ROLLBACK"


class Target(StrEnum):
    """What a decision is about: a stage to enter, a shadow, or a refresh at the same stage."""

    SHADOW = "shadow"
    PILOT = "pilot"
    HYBRID = "hybrid"
    FULL = "full"
    REFRESH_DATA = "refresh_data"
    REFRESH_RETRAIN = "refresh_retrain"
    REFRESH_RECIPE = "refresh_recipe"
    CANARY = "canary"
    CANARY_INCUMBENT = "canary_incumbent"


class Decision(BaseModel):
    """What was decided, about which bundle, and on what. ``sha256`` is its identity in the ledger."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: Target
    outcome: Outcome
    reasons: tuple[str, ...]
    verdicts: tuple[Verdict, ...] = ()
    recipe: str | None
    bundle_id: str | None
    evidence_sha256: str
    policy_sha256: str
    as_of: str | None

    @property
    def sha256(self) -> str:
        return sha256_of(self.model_dump(mode="json"))

    @property
    def broken_guardrail(self) -> str:
        """The sentence about the first guardrail that is broken; where none is, the first reason."""
        broken = (
            verdict.reason
            for verdict in self.verdicts
            if verdict.requirement.guardrail and verdict.status is Status.FAILED
        )
        return next(broken, self.reasons[0] if self.reasons else "no reason is given")

    @property
    def short(self) -> str:
        return self.sha256[:12]


def decide(
    evidence: Iterable[Evidence],
    policy: Policy,
    as_of: datetime | None,
    *,
    target: Target,
    recipe: str | None,
    bundle_id: str | None,
    notes: Iterable[str] = (),
    hold_because: str | None = None,
    path_faults: Iterable[str] = (),
) -> Decision:
    """Judge ``policy`` on ``evidence`` for the bundle that is to be admitted.

    ``hold_because`` states why nothing is to be judged (there is nothing to compare with); ``notes`` are
    sentences added to the reasons without any weight; ``path_faults`` say that the policy is not about the path that would
    serve: nothing passes then, and a broken guardrail still rolls back. Pure: equal arguments give an equal decision.
    """
    evidence = list(evidence)
    verdicts: tuple[Verdict, ...] = ()
    faults: list[str] = []
    if hold_because is None:
        faults = [*problems(policy, str(target.value)), *path_faults]
        verdicts = tuple(
            evaluate(requirement, evidence, as_of, recipe=recipe, bundle=bundle_id, target=target.value)
            for requirement in policy.requirements
        )
    broken = any(
        verdict.requirement.guardrail
        and verdict.requirement.kind == "online"
        and verdict.status is Status.FAILED
        for verdict in verdicts
    )
    if broken:
        outcome = Outcome.ROLLBACK
    elif hold_because is None and not faults and all(verdict.status is Status.MET for verdict in verdicts):
        outcome = Outcome.PROMOTE
    else:
        outcome = Outcome.HOLD
    reasons = (
        *([hold_because] if hold_because is not None else []),
        *faults,
        # What stands in the way comes first.
        *(verdict.reason for verdict in verdicts if verdict.status is not Status.MET),
        *(verdict.reason for verdict in verdicts if verdict.status is Status.MET),
        *notes,
    )
    return Decision(
        target=target,
        outcome=outcome,
        reasons=reasons,
        verdicts=verdicts,
        recipe=recipe,
        bundle_id=bundle_id,
        evidence_sha256=evidence_sha256(evidence),
        policy_sha256=policy_sha256(policy),
        as_of=None if as_of is None else as_of.isoformat(),
    )


def newest(evidence: Iterable[Evidence]) -> datetime | None:
    """The newest moment of measurement: the ``as_of`` of a decision that must be a function of its files."""
    moments = [datetime.fromisoformat(item.measured_at) for item in evidence if item.measured_at is not None]
    return max(moments, default=None)


def write_decision(path: Path, decision: Decision) -> None:
    """``decision.json``: the decision's fields and ``decision_sha256``."""
    write_json(path, {**decision.model_dump(mode="json"), "decision_sha256": decision.sha256})


def read_decision(path: Path) -> Decision:
    """Raises ArtifactError where the file is damaged or was changed after it was written."""
    raw = read_json(path)
    if not isinstance(raw, dict):
        raise ArtifactError(f"{path} must hold a decision")
    fields: dict[str, Any] = dict(raw)
    stated = fields.pop("decision_sha256", None)
    try:
        decision = Decision.model_validate(fields)
    except ValidationError as error:
        raise ArtifactError(f"{path} holds no decision: {error.errors()[0]['msg']}") from error
    if decision.sha256 != stated:
        raise ArtifactError(f"{path} was changed after it was decided: run the decision's step again")
    return decision
