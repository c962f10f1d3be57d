"""Evidence: what was measured, bound to what it was measured on.

Evidence is a value: frozen, written as canonical JSON, named by its hash. A number that cannot be computed
(NaN, an infinite bound) is kept as ``None``: JSON has no NaN, and a gate must see that it is missing rather
than be given another value.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from segue.artifacts import read_json, write_text
from segue.canonical import canonical_json, sha256_of
from segue.errors import ArtifactError

EvidenceKind = Literal["offline", "serving", "online"]
Interval = Literal["bootstrap", "confidence_sequence", "exact"]

EVIDENCE_FILE = "evidence.json"


class Evidence(BaseModel):
    """One measured figure with its interval.

    ``path_b`` set: the figure is the paired difference *path_a minus path_b* over ``n`` units; ``path_b``
    null: it is path_a's own value. ``sd`` is the per-unit standard deviation of what was averaged (of the
    differences, where paired), from which the gate tells how many units would resolve a margin.
    Online evidence says of which ``experiment`` it is (the revision that entered it) and what that was ``gathered_for``
    (the target whose gate it may open): no other gate counts it, however equal recipe and path are.
    ``measured_at`` (ISO 8601 with offset) is set by measured steps only: a deterministic step has no time.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: EvidenceKind
    metric: str
    slice: str = "all"
    path_a: str
    path_b: str | None = None
    recipe_a: str | None = None
    recipe_b: str | None = None
    bundle: str | None = None
    unit: Literal["user", "request"]
    interval: Interval
    estimate: float | None
    low: float | None
    high: float | None
    confidence: float = Field(gt=0, le=1)
    n: int = Field(ge=0)
    protocol: str
    dataset: str
    snapshot: str
    code_version: str
    sd: float | None = None
    measured_at: str | None = None
    experiment: int | None = None
    gathered_for: str | None = None

    @field_validator("estimate", "low", "high", "sd", mode="before")
    @classmethod
    def _finite_or_none(cls, value: object) -> object:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    @field_validator("measured_at")
    @classmethod
    def _a_time_with_offset(cls, value: str | None) -> str | None:
        if value is not None and datetime.fromisoformat(value).tzinfo is None:
            raise ValueError("measured_at needs a UTC offset, such as 2026-01-31T12:00:00+00:00")
        return value

    @property
    def is_difference(self) -> bool:
        return self.path_b is not None

    @property
    def is_finite(self) -> bool:
        """Whether estimate and both bounds are numbers, in order."""
        if self.estimate is None or self.low is None or self.high is None:
            return False
        return self.low <= self.high

    @property
    def sha256(self) -> str:
        return sha256_of(self.model_dump(mode="json"))

    def canonical(self) -> str:
        return canonical_json(self.model_dump(mode="json"))


def evidence_sha256(evidence: Iterable[Evidence]) -> str:
    """One hash for a body of evidence, whatever its order."""
    return sha256_of(sorted(item.sha256 for item in evidence))


def write_evidence(path: Path, evidence: Iterable[Evidence]) -> None:
    """A canonical JSON list in a fixed order: equal evidence gives equal bytes."""
    texts = sorted(item.canonical() for item in evidence)
    write_text(path, "[" + ",\n".join(texts) + "]\n")


def read_evidence(path: Path) -> list[Evidence]:
    """Raises ArtifactError naming the file, and the entry where one is wrong."""
    raw = read_json(path)
    if not isinstance(raw, list):
        raise ArtifactError(f"{path} must hold a list of evidence")
    found = []
    for number, entry in enumerate(raw):
        try:
            found.append(Evidence.model_validate(entry))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ArtifactError(f"{path}, entry {number}, field {where}: {first['msg']}") from error
    return found
