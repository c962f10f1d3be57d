"""Who is let in: what every event asks of a decision and of a bundle."""

from __future__ import annotations

from typing import Final, Literal

from segue.canonical import short
from segue.errors import StateError
from segue.migration.change import Change, Refused
from segue.migration.decide import Decision, Outcome
from segue.migration.deployment import CANARY, BundleFacts
from segue.migration.state import State

RefreshClass = Literal["data", "retrain", "recipe"]
_LIFT: Final = "an override with a reason lets it in again"


def refusal(state: State, decision: Decision, bundle: BundleFacts) -> Change | None:
    """Why ``decision`` changes nothing, if it does not. Raises StateError where it is about another bundle."""
    name = f"decision {decision.short} ({decision.target})"
    if decision.outcome is not Outcome.PROMOTE:
        return Change(f"no change: {name} says {decision.outcome}: {'; '.join(decision.reasons[:1])}")
    if decision.bundle_id != bundle.bundle_id or decision.recipe != bundle.recipe:
        raise StateError(f"{name} is not about bundle {short(bundle.bundle_id)}: decide again")
    if (by := state.revoked.get(decision.sha256)) is not None:
        return Change(f"no change: decision {decision.short} was revoked by revision {by}")
    if (by := state.applied.get(decision.sha256)) is not None:
        return Change(f"no change: decision {decision.short} was applied by revision {by}")
    if (by := state.barred_bundles.get(bundle.bundle_id)) is not None:
        return Change(f"no change: bundle {short(bundle.bundle_id)} was left by revision {by}; {_LIFT}")
    if (by := state.barred_recipes.get((decision.target.value, bundle.recipe))) is not None:
        return Change(
            f"no change: recipe {short(bundle.recipe)} was taken out of {decision.target} "
            f"by revision {by}; {_LIFT}"
        )
    return None


def require_same_incumbent(state: State, bundle: BundleFacts, what: str) -> None:
    """Raises Refused where ``bundle`` brings another incumbent than the one that serves most."""
    serving = state.facts[state.serving.champion.bundle].incumbent_id
    if bundle.incumbent_id != serving:
        raise Refused(
            f"{what} refused: bundle {short(bundle.bundle_id)} brings incumbent "
            f"{short(bundle.incumbent_id)}, and {short(serving)} serves: "
            "another incumbent comes by way of a canary, at stage cascade"
        )


def require_class(state: State, bundle: BundleFacts, kind: RefreshClass) -> None:
    """Raises Refused where a refresh of ``bundle`` is of another class than ``kind``."""
    current = state.serving
    where = f"refresh of class {kind} refused: bundle {short(bundle.bundle_id)}"
    if kind == "recipe":
        if not any(arm.name == CANARY and arm.bundle == bundle.bundle_id for arm in current.arms):
            raise Refused(f"{where} has no canary arm yet: another recipe comes by way of one")
        return
    if current.canary is not None:
        raise Refused(f"{where}: a canary runs, conclude or abandon it first")
    require_same_incumbent(state, bundle, f"refresh of class {kind}")
    generative = current.generative_bundle
    if generative is None:
        return
    serving = state.facts[generative]
    if bundle.model_id is None:
        raise Refused(f"{where} has no generative model, and {short(generative)} has one")
    if bundle.recipe != serving.recipe:
        raise Refused(
            f"{where} was made by recipe {short(bundle.recipe)}, what serves by "
            f"{short(serving.recipe)}: that is a refresh of class recipe"
        )
    if kind == "data" and bundle.model_id != serving.model_id:
        raise Refused(f"{where} has other weights than what serves: that is a refresh of class retrain")
