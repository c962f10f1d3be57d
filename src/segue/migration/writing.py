"""From an event's draft to the rows of the ledger: the next document, and what it revokes and bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from segue.canonical import short
from segue.migration.change import Draft
from segue.migration.decide import Decision
from segue.migration.deployment import Deployment
from segue.migration.ledger import Entry
from segue.migration.salts import lasting_salt
from segue.migration.settings import MigrationSettings
from segue.migration.state import CANARY_TARGETS, State, enters
from segue.schema import Stage

_CARRIED_ON: Final = ("stage", "scenario", "arms", "shadow", "blend", "recipe")


def document_of(state: State, draft: Draft, settings: MigrationSettings, at: str) -> Deployment:
    """The next revision: the present one with the draft's changes."""
    current = state.current
    base: dict[str, Any] = {} if current is None else {name: getattr(current, name) for name in _CARRIED_ON}
    decision = draft.decision
    return Deployment.model_validate(
        {
            **base,
            "restores": None,
            "salt": settings.salt if current is None else current.salt,
            "lasting_salt": lasting_salt(state, settings),
            **draft.changes,
            "revision": 1 if current is None else current.revision + 1,
            "parent": None if current is None else current.revision,
            "policy_sha256": None if decision is None else decision.policy_sha256,
            "decision_sha256": None if decision is None else decision.sha256,
            "actor": draft.actor,
            "reason": draft.reason,
            "at": at,
        }
    )


def entries_of(state: State, draft: Draft, document: Deployment) -> list[Entry]:
    """Everything that one transaction writes, in order."""
    known = state.facts | {item.bundle_id: item for item in draft.facts}
    entries: list[Entry] = []
    if draft.decision is not None and draft.decision.sha256 not in state.decisions:
        entries.append(decision_entry(draft.decision))
    entries.append(
        Entry(
            "deployment",
            {
                "event": draft.event,
                "deployment": document.model_dump(mode="json"),
                "applies": document.decision_sha256,
                "bundles": {name: known[name].model_dump(mode="json") for name in document.bundles},
            },
            revision=document.revision,
        )
    )
    if draft.leaves:
        entries.append(_revocation(state, draft.leaves, document))
    entries.extend(draft.also)
    return entries


def decision_entry(decision: Decision) -> Entry:
    return Entry("decision", {"sha256": decision.sha256, "decision": decision.model_dump(mode="json")})


def announcement(event: str, document: Deployment) -> str:
    """A new document in one line."""
    arms = ", ".join(
        f"{arm.name} {arm.share:.0%} ({arm.path} of {short(arm.bundle)})" for arm in document.arms
    )
    text = f"revision {document.revision}: {event.replace('_', ' ')}, stage {document.stage}; {arms}"
    if document.shadow is not None:
        text += f"; shadow {short(document.shadow.bundle)}"
    if document.restores is not None:
        text += f"; restores {document.restores}"
    return text


def _revocation(state: State, leaves: Sequence[int], after: Deployment) -> Entry:
    """What leaving the revisions ``leaves`` for ``after`` revokes and bars."""
    decisions, bundles, recipes = set(), set(), set()
    before = state.current
    if before is not None and before.recipe is not None and before.stage is not after.stage:
        # Whatever refreshes came in between: the recipe that runs now is the one that is taken out.
        recipes.add((before.stage.value, before.recipe))
    for number in leaves:
        left = state.revision(number)
        if left.deployment.decision_sha256 is not None:
            decisions.add(left.deployment.decision_sha256)
        if left.event == "rollback":
            continue  # what it restored was good once; leaving it says nothing against a bundle
        if enters(left.event):
            if left.deployment.recipe is not None:
                recipes.add((left.deployment.stage.value, left.deployment.recipe))
        else:
            earlier = set(state.revision(number - 1).deployment.bundles) if number > 1 else set()
            bundles.update(set(left.deployment.bundles) - earlier)
        canary = left.deployment.canary
        if left.event == "canary" and canary is not None and left.deployment.stage is not Stage.CASCADE:
            # Every night makes another bundle of the same recipe. (Another incumbent's canary is barred by its incumbent.)
            recipes.update((target.value, state.facts[canary.bundle].recipe) for target in CANARY_TARGETS)
    # A revision that is left may have brought again what serves now; what serves is not barred.
    bundles.difference_update(after.bundles)
    if after.recipe is not None:
        recipes.discard((after.stage.value, after.recipe))
    return Entry(
        "revocation",
        {
            "by_revision": after.revision,
            "leaves": sorted(leaves),
            "decisions": sorted(decisions),
            "bundles": sorted(bundles),
            "recipes": sorted([target, recipe] for target, recipe in recipes),
        },
    )
