"""The demo says what is wanting before it starts a server."""

from __future__ import annotations

from pathlib import Path

import pytest

from segue.errors import ArtifactError, StateError
from segue.simulation.settings import TruthName
from segue.steps.migrate_demo import migrate_demo
from segue.workspace import Workspace
from tests.registry.conftest import world
from tests.registry.places import DATASET, place_of_an_earlier_version

__all__ = ["world"]


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*_: object, **__: object) -> None:
        raise AssertionError("a server was started")

    monkeypatch.setattr("segue.steps.migrate_demo.server", started)


def demo(workspace: Workspace) -> list[str]:
    return migrate_demo(workspace, DATASET, [TruthName.BETTER], events=1, tell=lambda _: None)


@pytest.mark.usefixtures("no_server")
def test_where_nothing_is_deployed_it_says_so_and_starts_nothing(workspace_root: Path) -> None:
    with pytest.raises(StateError, match=f"nothing is deployed for {DATASET} yet: `segue run --dataset"):
        demo(Workspace(workspace_root))


@pytest.mark.usefixtures("no_server")
def test_an_artifact_that_is_missing_and_a_model_that_cannot_be_loaded_are_told_at_once(
    workspace_root: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    place = place_of_an_earlier_version(workspace_root, world, tmp_path / "former")
    with pytest.raises(ArtifactError, match=r"offline_evaluation.*run `segue run --dataset"):
        demo(place.workspace)
    place.measured()
    with pytest.raises(ArtifactError, match=r"cannot be loaded: .*train the model again"):
        demo(place.workspace)
