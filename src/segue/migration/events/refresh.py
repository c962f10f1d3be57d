"""Refresh: a new bundle at the same stage, of class data, retrain or recipe, for every arm and the shadow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from segue.canonical import short
from segue.migration.arms import moved, moved_shadow, without_canary
from segue.migration.change import Change, Draft
from segue.migration.decide import Decision, Target
from segue.migration.deployment import GENERATIVE_PATHS, BundleFacts
from segue.migration.events.admission import RefreshClass, refusal, require_class
from segue.migration.state import State

CLASS_OF: Final[Mapping[Target, RefreshClass]] = {
    Target.REFRESH_DATA: "data",
    Target.REFRESH_RETRAIN: "retrain",
    Target.REFRESH_RECIPE: "recipe",
}


def refresh(state: State, decision: Decision, bundle: BundleFacts, *, actor: str) -> Draft | Change:
    """*data* demands the same weights, *retrain* the same recipe, *recipe* that its canary ran.

    Raises Refused where the bundle is of another class than the decision.
    """
    kind = CLASS_OF[decision.target]
    current = state.serving
    if (no := refusal(state, decision, bundle)) is not None:
        return no
    if current.bundles == (bundle.bundle_id,):
        return Change(f"no change: bundle {short(bundle.bundle_id)} serves already")
    require_class(state, bundle, kind)
    generative = any(arm.path in GENERATIVE_PATHS for arm in current.arms)
    return Draft(
        event=f"refresh_{kind}",
        changes={
            "arms": moved(without_canary(current), bundle.bundle_id),
            "shadow": moved_shadow(current.shadow, bundle),
            "recipe": bundle.recipe if generative else current.recipe,
        },
        facts=[bundle],
        decision=decision,
        actor=actor,
        reason=f"{kind} refresh PROMOTE",
    )
