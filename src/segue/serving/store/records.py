"""What goes into the online store and what comes out of it."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Final

from segue.errors import StateError
from segue.serving.requests import Answer

# What a replay is shown is logged, and known by its id wherever an exposure goes: spool, export, feedback.
REPLAYED: Final = "replay-"


@dataclass(frozen=True, slots=True)
class StoredHistory:
    """Item ids and seconds, oldest first."""

    item_ids: list[str]
    timestamps: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """A list that is about to be shown, and to whom.

    ``user_id`` is never stored: the store writes its keyed hash. ``user_hash`` stands for it where it was
    hashed already.
    """

    exposure_id: str
    user_id: str | None = None
    user_hash: str | None = None
    arm: str | None
    path: str
    bundle: str
    deployment: int | None
    item_ids: list[str]  # position 0 is shown first
    fallback: str | None
    warnings: list[str]
    latency_ms: float
    shown_at: float  # seconds since 1970-01-01 UTC
    # Who proposed each item, as in the answer; None: spooled by a version that did not say.
    sources: list[str] | None = None

    @classmethod
    def of(cls, user_id: str | None, answer: Answer, shown_at: float) -> Exposure:
        """The exposure that ``answer`` will be. Raises StateError for a preview, which is none."""
        if answer.preview:
            raise StateError("a preview is no exposure")
        return cls(
            exposure_id=answer.exposure_id or new_exposure_id(),
            user_id=user_id,
            arm=answer.arm,
            path=answer.path,
            bundle=answer.bundle,
            deployment=answer.deployment,
            item_ids=[item.item_id for item in answer.items],
            fallback=answer.fallback,
            warnings=list(answer.warnings),
            latency_ms=answer.latency_ms,
            shown_at=shown_at,
            sources=[item.source for item in answer.items],
        )


@dataclass(frozen=True, slots=True)
class Posted:
    """What became of posted rows."""

    new: int
    duplicates: int  # known already, under the same id
    erased: int  # of erased users: not kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How many days each table keeps its rows; None keeps them for ever."""

    events: float | None = None
    exposures: float | None = None
    feedback: float | None = None


def new_exposure_id(*, replayed: bool = False) -> str:
    """``replayed``: of a list that no experiment and no report counts, but the replay that asked for it."""
    return (REPLAYED if replayed else "") + uuid.uuid4().hex
