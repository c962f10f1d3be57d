"""Canary: another recipe, or at stage cascade another incumbent, begins as a small arm beside what serves.

Only when no other experiment runs. At stage cascade by the decision ``canary_incumbent`` (docs/adr/0008).
"""

from __future__ import annotations

from segue.canonical import short
from segue.migration.arms import with_canary
from segue.migration.change import Change, Draft, Refused
from segue.migration.decide import Decision, Target
from segue.migration.deployment import GENERATIVE_PATHS, BundleFacts
from segue.migration.events.admission import refusal
from segue.migration.salts import fresh_salt
from segue.migration.settings import MigrationSettings
from segue.migration.state import State
from segue.schema import Stage


def canary(
    state: State, settings: MigrationSettings, decision: Decision, bundle: BundleFacts, *, actor: str
) -> Draft | Change:
    """Raises Refused where the bundle has no generative model and one is needed."""
    current = state.serving
    name = f"bundle {short(bundle.bundle_id)}"
    if (no := refusal(state, decision, bundle)) is not None:
        return no
    if current.canary is not None or current.stage in (Stage.PILOT, Stage.HYBRID):
        return Change(f"no change: one experiment runs at a time, and the stage is {current.stage}")
    if (decision.target is Target.CANARY_INCUMBENT) != (current.stage is Stage.CASCADE):
        return Change(
            f"no change: decision {decision.short} is about {decision.target}, and the stage is {current.stage}"
        )
    if current.champion.bundle == bundle.bundle_id:
        return Change(f"no change: {name} serves already")
    if current.stage is Stage.CASCADE:
        if not brings_another_incumbent(state, bundle):
            return Change(f"no change: {name} brings the incumbent that serves")
        if (left := state.left_with(bundle.incumbent_id)) is not None:
            return Change(
                f"no change: the incumbent of {name} was left by revision {left}; `segue override` brings it back"
            )
    if bundle.model_id is None and current.champion.path in GENERATIVE_PATHS:
        raise Refused(f"{name} has no generative model for a canary")
    return Draft(
        event="canary",
        changes={
            "arms": with_canary(current, bundle, settings),
            "salt": fresh_salt(state, settings, bundle.recipe),
        },
        facts=[bundle],
        decision=decision,
        actor=actor,
        reason=f"a canary of another {'incumbent' if current.stage is Stage.CASCADE else 'recipe'}",
    )


def brings_another_incumbent(state: State, bundle: BundleFacts) -> bool:
    """Whether ``bundle``'s incumbent is not the one that serves most."""
    return state.facts[state.serving.champion.bundle].incumbent_id != bundle.incumbent_id
