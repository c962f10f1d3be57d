"""The ledger, folded: what serves, what was decided, applied, revoked and barred."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from segue.errors import StateError
from segue.migration.approval import Proposal
from segue.migration.decide import Decision, Target
from segue.migration.deployment import BundleFacts, Deployment
from segue.migration.ledger import Revision, Row, revisions_of
from segue.schema import Stage

STAGES: Final = tuple(Stage)
CANARY_TARGETS: Final = (
    Target.CANARY,
    Target.REFRESH_RECIPE,
)  # by which another recipe begins and is concluded


@dataclass(frozen=True)
class State:
    """What the ledger of ``dataset`` says."""

    dataset: str
    revisions: tuple[Revision, ...] = ()
    decisions: Mapping[str, Decision] = field(default_factory=dict)
    applied: Mapping[str, int] = field(default_factory=dict)  # decision -> the revision that applied it
    revoked: Mapping[str, int] = field(default_factory=dict)  # decision -> the revision that revoked it
    barred_bundles: Mapping[str, int] = field(default_factory=dict)  # bundle -> the revision that left it
    barred_recipes: Mapping[tuple[str, str], int] = field(
        default_factory=dict
    )  # (target, recipe) -> revision
    aliases: Mapping[str, str] | None = None  # last projected: alias -> bundle
    proposals: tuple[Proposal, ...] = ()  # that nobody approved of, oldest first
    head: str | None = None

    @classmethod
    def of(cls, dataset: str, rows: Sequence[Row]) -> State:
        """Fold the ledger's rows, oldest first."""
        decisions: dict[str, Decision] = {}
        applied: dict[str, int] = {}
        revoked: dict[str, int] = {}
        bundles: dict[str, int] = {}
        recipes: dict[tuple[str, str], int] = {}
        aliases: dict[str, str] | None = None
        proposals: dict[str, Proposal] = {}
        for row in rows:
            payload = row.payload
            match row.kind:
                case "decision":
                    decisions[payload["sha256"]] = Decision.model_validate(payload["decision"])
                case "deployment":
                    if (decision := payload["applies"]) is not None:
                        applied.setdefault(decision, payload["deployment"]["revision"])
                case "revocation":
                    by = payload["by_revision"]
                    revoked.update(dict.fromkeys(payload["decisions"], by))
                    bundles.update(dict.fromkeys(payload["bundles"], by))
                    recipes.update(dict.fromkeys(map(_pair, payload["recipes"]), by))
                case "override":
                    bundles.pop(payload["bundle"], None)
                    for target in _lifted(payload["target"]):
                        recipes.pop((target, payload["recipe"]), None)
                case "projection":
                    aliases = payload["aliases"]
                case "proposal":
                    # Another proposal of the same move takes its place.
                    new = Proposal.of(payload, row.at)
                    proposals = {key: one for key, one in proposals.items() if one.target is not new.target}
                    proposals[new.identity] = new
                case "approval":
                    proposals.pop(payload["identity"], None)
                case "request":
                    pass
        return cls(
            dataset=dataset,
            revisions=tuple(revisions_of(rows)),
            decisions=decisions,
            applied=applied,
            revoked=revoked,
            barred_bundles=bundles,
            barred_recipes=recipes,
            aliases=aliases,
            proposals=tuple(proposals.values()),
            head=rows[-1].hash if rows else None,
        )

    @property
    def current(self) -> Deployment | None:
        return self.revisions[-1].deployment if self.revisions else None

    @property
    def serving(self) -> Deployment:
        """What serves. Raises StateError before the bootstrap."""
        if self.current is None:
            raise StateError(
                f"nothing is deployed for {self.dataset} yet: bootstrap comes first "
                f"(`segue run --dataset {self.dataset}`)"
            )
        return self.current

    @property
    def number(self) -> int | None:
        """The newest revision; None before the bootstrap."""
        return None if self.current is None else self.current.revision

    @property
    def waiting(self) -> tuple[Proposal, ...]:
        """Proposals of which somebody can still approve.

        A decision that was revoked meanwhile is out; so is an override once another revision serves than the one that
        its author saw.
        """
        return tuple(
            one
            for one in self.proposals
            if one.identity not in self.revoked
            and one.identity not in self.applied
            and not (one.override and one.revision != self.number)
        )

    @cached_property
    def facts(self) -> dict[str, BundleFacts]:
        """What is known of every bundle that ever was deployed."""
        return {name: facts for revision in self.revisions for name, facts in revision.bundles.items()}

    def revision(self, number: int) -> Revision:
        """Raises StateError where there is no such revision."""
        if not 1 <= number <= len(self.revisions):
            raise StateError(f"there is no revision {number}: the ledger holds 1 to {len(self.revisions)}")
        return self.revisions[number - 1]

    def origin(self, number: int) -> int:
        """The revision whose event made what ``number`` serves: a rollback is what it restores."""
        while (restored := self.revision(number).deployment.restores) is not None:
            number = restored
        return number

    def refreshed(self, bundle: str) -> int | None:
        """The revision whose refresh took the place of ``bundle``; None where none did, or it came back since."""
        found = None
        before: tuple[str, ...] = ()
        for revision in self.revisions:
            document = revision.deployment
            if bundle in document.bundles:
                found = None
            elif bundle in before and revision.event.startswith("refresh_"):
                found = document.revision
            before = document.bundles
        return found

    def entry(self, number: int) -> int | None:
        """The revision that entered the stage or canary which runs at ``number``; None where none runs.

        A stage that was gone back to (from hybrid to pilot) was entered when it was first advanced to.
        """
        running = self.revision(number).deployment
        for revision in reversed(self.revisions[:number]):
            if running.canary is not None:
                if revision.event == "canary":
                    return revision.deployment.revision
            elif enters(revision.event) and revision.deployment.stage is running.stage:
                return revision.deployment.revision
        return None

    def left_with(self, incumbent_id: str) -> int | None:
        """The revision that left a bundle with this incumbent, whatever else was in it; None: none did.

        Every night makes another bundle with the same incumbent, so a bar on the bundle alone would last a day.
        """
        return max(
            (
                revision
                for bundle, revision in self.barred_bundles.items()
                if bundle in self.facts and self.facts[bundle].incumbent_id == incumbent_id
            ),
            default=None,
        )


def enters(event: str) -> bool:
    """Whether the event enters a stage beyond cascade."""
    return event == "advance" or event in {f"override_{stage.value}" for stage in STAGES[1:]}


def _lifted(target: str) -> tuple[str, ...]:
    """From which targets an override lifts the bar on its recipe."""
    if target == Target.REFRESH_RECIPE:
        return tuple(one.value for one in CANARY_TARGETS)
    return (target,)


def _pair(value: Sequence[str]) -> tuple[str, str]:
    first, second = value
    return first, second
