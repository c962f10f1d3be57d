"""Whether every list that a client was shown is in the online store: the client's own count beside the store's."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from segue.serving.requests import Answer
from segue.serving.store import Store

_SPOOL_SECONDS: Final = 10.0  # how long exposures that had to wait for the store may take to follow


@dataclass(frozen=True, slots=True)
class Comparison:
    """``counted``: lists with an exposure_id that the client was given. ``missing``: those of them that the store lacks.
    ``unlogged``: lists whose answer itself said that they could not be logged. ``by_arm``: the client's lists by arm."""

    counted: int
    missing: tuple[str, ...]
    unlogged: int
    by_arm: dict[str, int]

    @property
    def lost(self) -> int:
        """Lists that were shown and are not evidence."""
        return len(self.missing) + self.unlogged

    def __str__(self) -> str:
        arms = ", ".join(f"{arm} {count}" for arm, count in sorted(self.by_arm.items()))
        text = f"{self.lost} lost exposures: the client counted {self.counted} ({arms or 'none'}), "
        text += f"{self.counted - len(self.missing)} of them are in the store"
        if self.unlogged:
            text += f"; {self.unlogged} more lists came with the warning that they could not be logged"
        return text


@dataclass(slots=True)
class ExposureCount:
    """What a client was shown so far."""

    ids: list[str] = field(default_factory=list)
    unlogged: int = 0
    by_arm: Counter[str] = field(default_factory=Counter)

    def add(self, answers: Iterable[Answer]) -> None:
        """Previews are no exposures, and not counted."""
        for answer in answers:
            if answer.preview:
                continue
            if answer.exposure_id is None:
                self.unlogged += 1
                continue
            self.ids.append(answer.exposure_id)
            self.by_arm[answer.arm or "no arm"] += 1

    def compare(
        self,
        store: Store,
        *,
        patience_seconds: float = _SPOOL_SECONDS,
        sleep: Callable[[float], None] = time.sleep,
    ) -> Comparison:
        """Look for every id in the store, again for ``patience_seconds`` while some are missing: those that had to wait
        on a server's disk follow when the store is back."""
        deadline = time.monotonic() + patience_seconds
        missing = self._missing(store, self.ids)
        while missing and time.monotonic() < deadline:
            sleep(0.2)
            missing = self._missing(store, missing)
        return Comparison(len(self.ids), tuple(missing), self.unlogged, dict(self.by_arm))

    @staticmethod
    def _missing(store: Store, ids: list[str]) -> list[str]:
        held = store.held_exposures(ids)
        return [one for one in ids if one not in held]
