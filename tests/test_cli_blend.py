"""``segue blend fit``, as it is typed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from segue import cli
from segue.blending.weights import checked_weights
from segue.errors import ConfigurationError, DataError, StateError
from segue.migration.ledger import Entry, Ledger
from segue.serving.store import Store
from segue.workspace import Workspace
from tests.serving.store.builders import click, exposure

DATASET = "ml-100k"


@pytest.fixture
def workspace(workspace_root: Path) -> Workspace:
    found = Workspace(workspace_root)
    found.state(DATASET).mkdir(parents=True)
    return found


def fill(workspace: Workspace, lists: int, *, shown_at: float = 1000.5, prefix: str = "") -> None:
    """Lists of four items of which the generative path's first is clicked, and of every fifth the cascade's."""
    sources = ["generative@1", "cascade@1", "generative@2+cascade@4", "cascade@2"]
    exposures, clicks = [], []
    for number in range(lists):
        order = list(range(4)) if number % 2 else [1, 0, 3, 2]  # either may begin
        chosen = {
            "path": "interleaved", "item_ids": [f"i{place}" for place in order],
            "sources": [sources[place] for place in order], "shown_at": shown_at,
        }  # fmt: skip
        exposures.append(exposure(f"{prefix}e{number}", f"u{number % 60}", **chosen))
        clicked = "i1" if number % 5 == 0 else "i0"
        clicks.append(click(f"{prefix}f{number}", f"{prefix}e{number}", item_id=clicked))
    store = Store.at(workspace.state(DATASET) / "online.sqlite")
    store.log_exposures(exposures)
    store.post_feedback(clicks)
    store.close()


def deploy(workspace: Workspace, arms: list[tuple[str, str, float]]) -> None:
    document: dict[str, Any] = {
        "revision": 1, "parent": None, "stage": "hybrid", "salt": "s", "actor": "test", "reason": "",
        "at": "2026-01-01T00:00:00+00:00",
        "arms": [{"name": name, "bundle": "b", "path": path, "share": share} for name, path, share in arms],
    }  # fmt: skip
    facts = {"b": {"bundle_id": "b", "recipe": "R", "incumbent_id": "I", "model_id": "M"}}
    ledger = Ledger.open(workspace, DATASET)
    row = {"event": "override_hybrid", "deployment": document, "applies": None, "bundles": facts}
    ledger.append([Entry("deployment", row, revision=1)], expected_revision=None)
    ledger.close()


def fitted(*words: str) -> str:
    done = CliRunner().invoke(cli.app, ["blend", "fit", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_it_prints_weights_that_a_profile_takes(workspace: Workspace) -> None:
    fill(workspace, 150)
    deploy(workspace, [("control", "cascade", 0.9), ("interleaved", "interleaved", 0.1)])
    told = fitted()
    assert "600 items of 150 interleaved lists, 60 users, 150 with a click" in told
    blend = yaml.safe_load(told[told.index("migration:") :])["migration"]["blend"]
    weights = checked_weights(blend)
    assert weights["generative"] > 0.6  # four of five clicks are on its first item
    fill(workspace, 40, prefix="replay-")
    assert fitted() == told  # hits of a replay are nobody's response


def test_other_feedback_and_old_lists_can_be_left_out(workspace: Workspace) -> None:
    fill(workspace, 150)
    with pytest.raises(DataError, match="0 clicks of 60 users"):
        fitted("--kind", "purchase")
    with pytest.raises(DataError, match="0 clicks of 0 users"):
        fitted("--days", "1")
    with pytest.raises(ConfigurationError, match="--days 0: it must be above 0"):
        fitted("--days", "0")


def test_weights_are_frozen_while_a_blend_is_compared(workspace: Workspace) -> None:
    fill(workspace, 150)
    deploy(workspace, [("control", "cascade", 0.1), ("treatment", "blended", 0.9)])
    with pytest.raises(StateError, match="'treatment' of revision 1 is a blend that an experiment compares"):
        fitted()


def test_without_a_store_there_is_nothing_to_learn_from(workspace: Workspace) -> None:
    with pytest.raises(ConfigurationError, match="no online store yet"):
        fitted()
