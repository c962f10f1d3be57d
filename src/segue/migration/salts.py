"""Which salt draws the users of an experiment (docs/adr/0013).

An experiment is a recipe's way through pilot, hybrid and full, or a canary. Each begins with a salt of its own, so that no
two share their users but by chance; within one the salt stays, so that a change of share moves the fewest users.
"""

from __future__ import annotations

from segue.canonical import short
from segue.migration.settings import MigrationSettings
from segue.migration.state import State
from segue.schema import Stage


def fresh_salt(state: State, settings: MigrationSettings, recipe: str) -> str:
    """The salt of an experiment that begins with the next revision: known beforehand, and used for nothing else."""
    return f"{settings.salt}:{short(recipe)}:{(state.number or 0) + 1}"


def salt_at_entry(state: State, settings: MigrationSettings, recipe: str) -> str:
    """The salt with which ``recipe`` enters a stage: its own where it serves already, else a fresh one."""
    current = state.serving
    if current.stage is not Stage.CASCADE and current.recipe == recipe:
        return current.salt
    return fresh_salt(state, settings, recipe)


def lasting_salt(state: State, settings: MigrationSettings) -> str:
    """The salt that draws who is held back or shadowed: that of the first document, whatever the settings say later."""
    current = state.current
    if current is None or current.lasting_salt is None:
        return f"{settings.salt}:{state.dataset}"
    return current.lasting_salt
