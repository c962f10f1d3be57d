"""Rollback: the last good revision again; what is left is revoked, and barred (docs/adr/0003). No gate."""

from __future__ import annotations

from collections.abc import Sequence

from segue.canonical import short
from segue.migration.arms import moved, shadow_of
from segue.migration.change import Change, Draft, Refused, require_who_and_why
from segue.migration.decide import Decision
from segue.migration.deployment import Deployment
from segue.migration.settings import MigrationSettings
from segue.migration.state import STAGES, State, enters
from segue.schema import Stage


def rollback(
    state: State,
    settings: MigrationSettings,
    *,
    actor: str,
    reason: str,
    experiment: bool,
    to: int | None,
    decision: Decision | None,
) -> Draft | Change:
    """Raises Refused where no good revision is before, StateError where nobody says who and why.

    By default the newest change is undone, exactly: stage, arms and their bundles are again what they were
    before it; the contender that an advance had brought goes on in shadow. ``experiment`` (a guardrail was
    crossed) goes back to before the running experiment, on the newest bundle, whatever refreshes came in
    between. ``to`` names a revision, which is restored exactly; it too must be good, because a rollback asks nobody, and
    what was barred comes back by an override alone. ``decision`` is the ROLLBACK that asks for it, if one does; it acts
    at most once.
    """
    require_who_and_why("a rollback", actor, reason)
    current = state.serving
    if decision is not None and (by := state.applied.get(decision.sha256)) is not None:
        return Change(f"no change: decision {decision.short} was applied by revision {by}")
    if to is not None:
        if not 1 <= to < current.revision:
            raise Refused(f"revision {to} is not one before {current.revision}")
        if (fault := _fault(state, to, on=None)) is not None:
            raise Refused(f"revision {to} {fault}: only an override brings back what it served")
        return _restored(
            state, settings, to, leaves=range(to + 1, current.revision + 1), actor=actor, reason=reason
        )
    leaving = state.entry(current.revision) if experiment else state.origin(current.revision)
    if leaving is None:
        raise Refused(f"no experiment runs at revision {current.revision}: there is nothing to leave")
    entered = enters(state.revision(leaving).event)
    for number in range(leaving - 1, 0, -1):
        newest = _newest_good(state, number) if entered else None
        on = newest if experiment else None
        if _is_good(state, number, on=on):
            return _restored(
                state,
                settings,
                number,
                leaves=[leaving],
                actor=actor,
                reason=reason,
                on=on,
                shadow_on=newest,
                decision=decision,
            )
    raise Refused(f"revision {current.revision} has no good revision before it to roll back to")


def _restored(
    state: State,
    settings: MigrationSettings,
    target: int,
    *,
    leaves: Sequence[int],
    actor: str,
    reason: str,
    on: str | None = None,
    shadow_on: str | None = None,
    decision: Decision | None = None,
) -> Draft:
    """Revision ``target`` again; with ``on`` its stage and arms on that bundle, with ``shadow_on`` that bundle in
    shadow, where the stage has one."""
    restored = state.revision(target).deployment
    arms, shadow, recipe = restored.arms, restored.shadow, restored.recipe
    if on is not None:
        arms = moved(arms, on)
        recipe = None if recipe is None else state.facts[on].recipe
    seen = on or shadow_on
    if seen is not None and restored.stage is Stage.CASCADE and state.facts[seen].model_id is not None:
        shadow = shadow_of(state.facts[seen], settings)  # it stays previewable
    return Draft(
        event="rollback",
        changes={
            "restores": target,
            "stage": restored.stage,
            "scenario": restored.scenario,
            "arms": arms,
            "shadow": shadow,
            "blend": restored.blend,
            "salt": restored.salt,  # the users get the arms that they had
            "recipe": recipe,
        },
        actor=actor,
        reason=reason,
        decision=decision,
        leaves=list(leaves),
    )


def _newest_good(state: State, target: int) -> str | None:
    """The newest bundle, if nobody left it and its incumbent is the target's; else None."""
    current = state.serving
    incumbent = state.facts[state.revision(target).deployment.champion.bundle].incumbent_id
    candidate = current.generative_bundle or current.champion.bundle
    if candidate in state.barred_bundles or state.facts[candidate].incumbent_id != incumbent:
        return None
    return candidate


def _is_good(state: State, number: int, on: str | None) -> bool:
    """Whether going back to ``number`` is allowed and changes anything. ``on``: with its arms on that bundle."""
    current = state.serving
    document = state.revision(number).deployment
    if _fault(state, number, on) is not None:
        return False
    if on is not None:
        return document.stage is not current.stage
    return _what_serves(document) != _what_serves(current)


def _fault(state: State, number: int, on: str | None) -> str | None:
    """Why ``number`` may not be gone back to: a stage further on, or something in it was left before. None: it may."""
    document = state.revision(number).deployment
    if STAGES.index(document.stage) > STAGES.index(state.serving.stage):
        return f"is at a later stage than {state.serving.stage}"
    decision, stage, recipe = document.decision_sha256, document.stage.value, document.recipe
    if decision is not None and (by := state.revoked.get(decision)) is not None:
        return f"rests on decision {short(decision)}, which revision {by} revoked"
    if recipe is not None and (by := state.barred_recipes.get((stage, recipe))) is not None:
        return f"is of recipe {short(recipe)}, which revision {by} took out of {stage}"
    for bundle in document.bundles if on is None else ():
        if (by := state.barred_bundles.get(bundle)) is not None:
            return f"needs bundle {short(bundle)}, which revision {by} left"
    return None


def _what_serves(document: Deployment) -> tuple[object, ...]:
    return document.stage, document.arms, document.shadow
