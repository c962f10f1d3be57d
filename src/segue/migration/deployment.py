"""The deployment document: what serves whom. Immutable, canonical JSON, numbered from 1."""

from __future__ import annotations

import math
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from segue.artifacts import read_json
from segue.canonical import canonical_json, sha256_of
from segue.errors import ArtifactError
from segue.schema import PathName, Stage

CURRENT_FILE = "current.json"
# The names of arms. ``outside`` is no arm of any document: it is what a request outside the pilot's scenario gets.
CASCADE, CONTROL, TREATMENT, INTERLEAVED = "cascade", "control", "treatment", "interleaved"
CANARY = "canary"  # by which another recipe or incumbent begins
HOLDBACK = "holdback"  # users who stay on the cascade at every stage and in every experiment
OUTSIDE = "outside"
SCENARIO = "scenario"  # the key of a request's context that names its scenario
# Paths that read the generative model: an arm on one of them is bound to the model's weights.
GENERATIVE_PATHS = frozenset(
    {PathName.RECALL_ROUTE, PathName.RERANK, PathName.BLENDED, PathName.GENERATIVE, PathName.INTERLEAVED}
)


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Arm(_Document):
    """A share of the users and the path that answers them."""

    name: str
    bundle: str
    path: PathName
    share: float = Field(gt=0, le=1)


class Shadow(_Document):
    """A path computed for a sample of users (``rate``), or asked for as a preview, and shown to nobody."""

    bundle: str
    path: PathName
    rate: float = Field(ge=0, le=1)


class BundleFacts(_Document):
    """What the state machine must know of a bundle to tell what it may replace."""

    bundle_id: str
    recipe: str
    incumbent_id: str
    model_id: str | None = None  # null: the incumbent alone


class Deployment(_Document):
    """One revision. The arms' shares are of all users and add up to 1; the *champion* has the largest.

    ``salt`` draws the users of the running experiment, ``lasting_salt`` (null in documents of an earlier version) those
    who are held back or shadowed, whatever runs (docs/adr/0013). ``scenario``: the experiment's arms answer requests of
    that scenario alone.
    """

    revision: int = Field(ge=1)
    parent: int | None
    restores: int | None = None
    stage: Stage
    scenario: str | None = None
    arms: tuple[Arm, ...] = Field(min_length=1)
    shadow: Shadow | None = None
    salt: str
    lasting_salt: str | None = None
    blend: dict[str, float] | None = None
    recipe: str | None = None
    policy_sha256: str | None = None
    decision_sha256: str | None = None
    actor: str = Field(min_length=1)
    reason: str
    at: str

    @field_validator("at")
    @classmethod
    def _a_time_with_offset(cls, value: str) -> str:
        if datetime.fromisoformat(value).tzinfo is None:
            raise ValueError("needs a UTC offset, such as 2026-01-31T12:00:00+00:00")
        return value

    @model_validator(mode="after")
    def _whole(self) -> Deployment:
        names = [arm.name for arm in self.arms]
        if len(set(names)) != len(names):
            raise ValueError("two arms have the same name")
        if not math.isclose(sum(arm.share for arm in self.arms), 1.0, abs_tol=1e-9):
            raise ValueError("the arms' shares do not add up to 1")
        if self.parent != (self.revision - 1 or None):
            raise ValueError("the parent is not the revision before")
        held = self.holdback
        if held is not None and (held.path is not PathName.CASCADE or self.lasting_salt is None):
            raise ValueError("a holdback stays on the cascade, by a lasting salt")
        return self

    @property
    def champion(self) -> Arm:
        """The arm that serves most; of equals the first."""
        return max(self.arms, key=lambda arm: arm.share)

    @property
    def canary(self) -> Arm | None:
        """The arm of another recipe or incumbent that is being tried; null where none is."""
        return self._named(CANARY)

    @property
    def holdback(self) -> Arm | None:
        """The arm of the users who stay on the cascade whatever runs; null where nobody is held back."""
        return self._named(HOLDBACK)

    @property
    def treatment(self) -> Arm | None:
        """The arm of the generative path; null at stage cascade."""
        return self._named(TREATMENT)

    @property
    def control(self) -> Arm | None:
        """What the treatment is compared with: the experiment's control, at stage full the holdback."""
        return self._named(CONTROL) or self.holdback

    def _named(self, name: str) -> Arm | None:
        return next((arm for arm in self.arms if arm.name == name), None)

    @property
    def bundles(self) -> tuple[str, ...]:
        """Every bundle that serving must hold, each once, arms first."""
        named = [arm.bundle for arm in self.arms]
        if self.shadow is not None:
            named.append(self.shadow.bundle)
        return tuple(dict.fromkeys(named))

    @property
    def generative_bundle(self) -> str | None:
        """The bundle whose generative model serves or runs in shadow; null where there is none."""
        for arm in self.arms:
            if arm.path in GENERATIVE_PATHS:
                return arm.bundle
        return None if self.shadow is None else self.shadow.bundle

    @property
    def sha256(self) -> str:
        return sha256_of(self.model_dump(mode="json"))

    def canonical(self) -> str:
        return canonical_json(self.model_dump(mode="json"))


class CurrentDeployment(_Document):
    """``state/<dataset>/deployment/current.json``: what serving follows. Written from the ledger.

    ``known_decisions``: every decision hash that the ledger knows; serving refuses a document that names
    another. ``ledger_head``: the hash of the ledger's last row when this was written.
    """

    deployment: Deployment
    known_decisions: tuple[str, ...]
    bundles_root: str
    ledger_head: str

    @model_validator(mode="after")
    def _decision_is_known(self) -> CurrentDeployment:
        decision = self.deployment.decision_sha256
        if decision is not None and decision not in self.known_decisions:
            raise ValueError(
                f"decision {decision[:12]} of revision {self.deployment.revision} is not in the ledger"
            )
        return self


def read_current(path: Path) -> CurrentDeployment:
    """The document that serving follows. Raises ArtifactError where it is missing, damaged or not backed."""
    raw: Any = read_json(path)
    try:
        return CurrentDeployment.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "document"
        raise ArtifactError(f"{path}: {where}: {first['msg']}") from error
