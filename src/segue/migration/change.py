"""What an event asks for, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from segue.errors import StateError
from segue.migration.decide import Decision
from segue.migration.deployment import BundleFacts, Deployment
from segue.migration.ledger import Entry

SYSTEM: Final = "segue"  # the actor of what happens without a person
OVERRIDDEN: Final = "override: "  # what the reason of an override's document begins with


class Refused(StateError):
    """The event is not allowed with this bundle at this stage; nothing was changed."""


def require_who_and_why(event: str, actor: str, reason: str) -> None:
    """Raises StateError where either is blank: what is done by hand stays in the ledger for ever, with its reason."""
    for what, said in (("actor", actor), ("reason", reason)):
        if not said.strip():
            raise StateError(f"{event} names who does it and why: the {what} is blank (--{what})")


@dataclass(frozen=True, slots=True)
class Change:
    """What an event did. ``deployment`` is null where nothing changed; ``message`` is a line for people."""

    message: str
    deployment: Deployment | None = None

    @property
    def changed(self) -> bool:
        return self.deployment is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """The next document as an event wants it: what differs from the present one, and what is written with it.

    ``facts``: bundles that the ledger may not know yet. ``leaves``: the revisions whose decisions, bundles and
    recipes are revoked and barred. ``also``: further rows of the same transaction.
    """

    event: str
    changes: Mapping[str, Any]
    actor: str
    reason: str
    facts: Sequence[BundleFacts] = ()
    decision: Decision | None = None
    leaves: Sequence[int] = ()
    also: Sequence[Entry] = ()
