"""Abandon: the running experiment ends, and its arm goes; no gate."""

from __future__ import annotations

from typing import Any

from segue.errors import StateError
from segue.migration.arms import stage_of, without_canary
from segue.migration.change import Draft, require_who_and_why
from segue.migration.settings import MigrationSettings
from segue.migration.state import State
from segue.schema import Stage


def abandon(state: State, settings: MigrationSettings, *, actor: str, reason: str) -> Draft:
    """The canary's arm goes, or the pilot's. Raises StateError where neither runs, or nobody says who and why."""
    require_who_and_why("an abandonment", actor, reason)
    current = state.serving
    entered = state.entry(current.revision)
    if current.canary is not None:
        changes: dict[str, Any] = {"arms": without_canary(current)}
        if current.shadow is not None and current.canary.bundle == current.shadow.bundle:
            # What is left must not go on in shadow either: day two would keep its incumbent.
            before = None if entered is None else state.revision(entered - 1).deployment.shadow
            changes["shadow"] = None if before == current.shadow else before
    elif current.stage is Stage.PILOT:
        changes = stage_of(
            Stage.CASCADE, state.facts[current.generative_bundle or current.champion.bundle], settings
        )
    else:
        raise StateError(f"no experiment runs at stage {current.stage}: there is nothing to abandon")
    return Draft(
        event="abandon",
        changes=changes,
        actor=actor,
        reason=reason,
        leaves=[] if entered is None else [entered],
    )
