"""Advance: cascade → pilot → hybrid → full, one step; may bring a bundle whose incumbent is unchanged."""

from __future__ import annotations

from segue.canonical import short
from segue.migration.arms import stage_of
from segue.migration.change import Change, Draft, Refused
from segue.migration.decide import Decision
from segue.migration.deployment import BundleFacts
from segue.migration.events.admission import refusal, require_same_incumbent
from segue.migration.salts import salt_at_entry
from segue.migration.settings import MigrationSettings
from segue.migration.state import STAGES, State
from segue.schema import Stage


def advance(
    state: State, settings: MigrationSettings, decision: Decision, bundle: BundleFacts, *, actor: str
) -> Draft | Change:
    """Raises Refused where the incumbent differs or the bundle has no generative model."""
    current = state.serving
    target = Stage(decision.target.value)
    if STAGES.index(target) <= STAGES.index(current.stage):
        return Change(
            f"no change: decision {decision.short} is about {target}, and the stage is {current.stage}"
        )
    if (no := refusal(state, decision, bundle)) is not None:
        return no
    if STAGES.index(target) != STAGES.index(current.stage) + 1:
        return Change(f"no change: {target} is more than one stage after {current.stage}")
    if current.canary is not None:
        return Change("no change: a canary runs, and one experiment runs at a time; conclude or abandon it")
    require_same_incumbent(state, bundle, "advance")
    if bundle.model_id is None:
        raise Refused(f"bundle {short(bundle.bundle_id)} has no generative model to enter {target} with")
    return Draft(
        event="advance",
        changes={
            **stage_of(target, bundle, settings, tried=current),
            "salt": salt_at_entry(state, settings, bundle.recipe),
        },
        facts=[bundle],
        decision=decision,
        actor=actor,
        reason=f"{decision.target} PROMOTE",
    )
