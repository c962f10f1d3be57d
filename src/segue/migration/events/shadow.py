"""Shadow: at stage cascade the bundle's generative path runs in shadow (docs/adr/0003). Nobody's list changes."""

from __future__ import annotations

from segue.canonical import short
from segue.migration.arms import shadow_of
from segue.migration.change import Change, Draft, Refused
from segue.migration.decide import Decision
from segue.migration.deployment import BundleFacts
from segue.migration.events.admission import refusal, require_same_incumbent
from segue.migration.settings import MigrationSettings
from segue.migration.state import State
from segue.schema import Stage


def shadow(
    state: State, settings: MigrationSettings, decision: Decision, bundle: BundleFacts, *, actor: str
) -> Draft | Change:
    """Raises Refused where the bundle has no generative model or another incumbent."""
    current = state.serving
    name = f"bundle {short(bundle.bundle_id)}"
    if current.stage is not Stage.CASCADE:
        return Change(f"no change: a shadow belongs to stage cascade, and the stage is {current.stage}")
    if current.shadow is not None and current.shadow.bundle == bundle.bundle_id:
        return Change(f"no change: {name} runs in shadow already")
    if (no := refusal(state, decision, bundle)) is not None:
        return no
    if (by := state.refreshed(bundle.bundle_id)) is not None:
        # An older run's files, out of a cache: the shadow would go back behind a refresh, and day two with it.
        return Change(f"no change: {name} was refreshed by revision {by}")
    if bundle.model_id is None:
        raise Refused(f"{name} has no generative model to run in shadow")
    # A data refresh moves arms and shadow together, so they must share what it keeps.
    require_same_incumbent(state, bundle, "shadow")
    return Draft(
        event="shadow",
        changes={"shadow": shadow_of(bundle, settings)},
        facts=[bundle],
        decision=decision,
        actor=actor,
        reason="the contender runs in shadow; its serving check passed",
    )
