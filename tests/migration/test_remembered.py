from __future__ import annotations

from pathlib import Path

import pytest

from segue.migration.decide import Target
from segue.migration.deployment import Deployment
from segue.migration.remembered import settings_of_documents
from segue.migration.settings import MigrationSettings
from segue.migration.state_machine import StateMachine
from segue.schema import PathName, Stage
from tests.migration.builders import SETTINGS, bundle, machine, promote

A, B = bundle("A", model=None), bundle("B")
UNUSUAL = SETTINGS.model_copy(
    update={
        "shadow_rate": 0.07,
        "pilot_share": 0.2,
        "pilot_path": PathName.RERANK,
        "hybrid_share": 0.6,
        "interleaved_share": 0.1,
        "holdback_share": 0.08,
        "blend": {"generative": 0.7, "cascade": 0.3},
        "scenarios": ("home",),
        "scenario": "home",
    }
)


def raised_to_full(folder: Path, settings: MigrationSettings) -> StateMachine:
    moves = machine(folder, settings)
    moves.bootstrap(A)
    moves.shadow(promote(Target.SHADOW, B), B)
    for target in (Target.PILOT, Target.HYBRID, Target.FULL):
        moves.advance(promote(target, B), B)
    return moves


@pytest.mark.parametrize("settings", [UNUSUAL, SETTINGS])
def test_going_back_by_what_the_documents_show_writes_what_the_settings_would(
    tmp_path: Path, settings: MigrationSettings
) -> None:
    """Stage by stage: demoted under the settings, and under what is read off the ledger."""

    def way_back(folder: Path, *, readable: bool) -> list[Deployment]:
        moves = raised_to_full(folder, settings)
        found = []
        for stage in (Stage.HYBRID, Stage.PILOT, Stage.CASCADE):
            if not readable:
                moves.settings = settings_of_documents(moves.state)
            document = moves.demote(actor="ann", reason="a fair").deployment
            assert document is not None
            assert document.stage is stage
            found.append(document)
        return found

    for folder in ("readable", "unreadable"):
        (tmp_path / folder).mkdir()
    assert way_back(tmp_path / "unreadable", readable=False) == way_back(tmp_path / "readable", readable=True)


def test_documents_of_settings_that_do_not_fit_together_still_leave_a_control(tmp_path: Path) -> None:
    moves = machine(tmp_path, SETTINGS.model_copy(update={"pilot_share": 0.98}))
    moves.bootstrap(A)
    moves.advance(promote(Target.PILOT, B), B)
    moves.settings = SETTINGS.model_copy(update={"hybrid_share": 0.6, "interleaved_share": 0.3})
    moves.advance(promote(Target.HYBRID, B), B)
    moves.settings = settings_of_documents(moves.state)
    document = moves.demote(actor="ann", reason="a fair").deployment
    assert document is not None
    assert document.control is not None
    assert document.control.share > 0
