"""What happened in a simulation, moment by moment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Kind = Literal["start", "stage", "look", "crossing", "rollback", "served", "end"]


@dataclass(frozen=True, slots=True)
class Moment:
    """``at``: seconds since the simulation began to serve. ``lists``, ``users``: served by then."""

    at: float
    kind: Kind
    text: str
    stage: str | None = None
    revision: int | None = None
    lists: int = 0
    users: int = 0
    figures: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.at:7.2f} s  {self.lists:6d} lists  {self.users:5d} users  {self.text}"


@dataclass(slots=True)
class Timeline:
    """``tell`` is given every moment that is worth a line; looks that only repeat the last one are kept, not told."""

    tell: Callable[[str], None]
    moments: list[Moment] = field(default_factory=list)
    _told: str = ""

    def add(self, moment: Moment, *, key: str | None = None) -> None:
        """``key``: what a look says, without its figures; default: its text."""
        self.moments.append(moment)
        if moment.kind == "look":
            said = key or moment.text
            if said == self._told:
                return
            self._told = said
        self.tell(str(moment))

    def as_json(self) -> list[dict[str, Any]]:
        return [asdict(moment) for moment in self.moments]
