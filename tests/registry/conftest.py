from __future__ import annotations

from pathlib import Path

import pytest

from tests.registry.places import Place
from tests.serving.worlds import write_world


@pytest.fixture(scope="package")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def place(workspace_root: Path, world: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    return Place(workspace_root, world)
