"""Override: by hand, without a passing gate, what a decision would do. Visible for ever.

It also lifts what barred the bundle and its recipe.
"""

from __future__ import annotations

from typing import Any

from segue.canonical import short
from segue.errors import StateError
from segue.migration.arms import moved, moved_shadow, shadow_of, stage_of, without_canary
from segue.migration.change import OVERRIDDEN, Change, Draft, require_who_and_why
from segue.migration.decide import Target
from segue.migration.deployment import GENERATIVE_PATHS, BundleFacts
from segue.migration.events.refresh import CLASS_OF
from segue.migration.ledger import Entry
from segue.migration.salts import salt_at_entry
from segue.migration.settings import MigrationSettings
from segue.migration.state import STAGES, State
from segue.schema import Stage


def override(
    state: State, settings: MigrationSettings, bundle: BundleFacts, target: Target, *, actor: str, reason: str
) -> Draft | Change:
    """Raises StateError where actor or reason is empty or the move is none that a decision could make."""
    require_who_and_why("an override", actor, reason)
    current = state.serving
    name = f"bundle {short(bundle.bundle_id)}"
    if (
        target is Target.REFRESH_RECIPE
        and current.canary is not None
        and current.canary.bundle != bundle.bundle_id
    ):
        raise StateError(
            f"bundle {short(current.canary.bundle)} runs as the canary, not {short(bundle.bundle_id)}: "
            "abandon it first"
        )
    if target in CLASS_OF:
        if current.bundles == (bundle.bundle_id,):
            return Change(f"no change: {name} serves already")
        arms = moved(without_canary(current), bundle.bundle_id)
        if bundle.model_id is None and any(arm.path in GENERATIVE_PATHS for arm in arms):
            raise StateError(f"{name} has no generative model, and an arm needs one")
        changes: dict[str, Any] = {"arms": arms, "shadow": moved_shadow(current.shadow, bundle)}
    elif target is Target.SHADOW and current.stage is Stage.CASCADE and bundle.model_id is not None:
        changes = {"shadow": shadow_of(bundle, settings)}
    elif target.value in {stage.value for stage in STAGES[1:]} and bundle.model_id is not None:
        if Stage(target.value) is current.stage and bundle.bundle_id in current.bundles:
            return Change(f"no change: {name} is at stage {current.stage} already")
        # By hand into hybrid is how another path comes to be tried, so what serves at full says nothing about it.
        tried = current if target is Target.FULL else None
        changes = {
            **stage_of(Stage(target.value), bundle, settings, tried=tried),
            "salt": salt_at_entry(state, settings, bundle.recipe),
        }
    else:
        raise StateError(f"{target} cannot be overridden at stage {current.stage} with {name}")
    told = {
        "actor": actor,
        "reason": reason,
        "target": target.value,
        "bundle": bundle.bundle_id,
        "recipe": bundle.recipe,
    }
    return Draft(
        event=f"override_{target.value}",
        changes=changes,
        facts=[bundle],
        actor=actor,
        reason=f"{OVERRIDDEN}{reason}",
        also=[Entry("override", told)],
    )
