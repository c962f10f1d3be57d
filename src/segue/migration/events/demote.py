"""Demote: one stage back, with the bundle that serves; no gate."""

from __future__ import annotations

from segue.errors import StateError
from segue.migration.arms import stage_of
from segue.migration.change import Draft, require_who_and_why
from segue.migration.settings import MigrationSettings
from segue.migration.state import STAGES, State
from segue.schema import Stage


def demote(state: State, settings: MigrationSettings, *, actor: str, reason: str) -> Draft:
    """Raises StateError where there is no stage before, a canary runs, or nobody says who and why."""
    require_who_and_why("a demotion", actor, reason)
    current = state.serving
    if current.canary is not None:
        raise StateError("a canary runs: abandon it first")
    if current.stage is Stage.CASCADE:
        raise StateError("the stage is cascade already: there is nothing to go back to")
    bundle = state.facts[current.generative_bundle or current.champion.bundle]
    entered = state.entry(current.revision)
    return Draft(
        event="demote",
        changes=stage_of(STAGES[STAGES.index(current.stage) - 1], bundle, settings, tried=current),
        facts=[bundle],
        actor=actor,
        reason=reason,
        leaves=[] if entered is None else [entered],
    )
