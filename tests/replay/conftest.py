"""The small world of the serving tests, and a service that follows a pilot in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from segue.serving.service import Service
from segue.serving.store import Store
from segue.workspace import Workspace
from tests.serving.conftest import full, full_id, incumbent_only, world
from tests.serving.test_following import Write, first, pilot, workspace, write

__all__ = ["first", "full", "full_id", "incumbent_only", "workspace", "world", "write"]


@pytest.fixture
def splits(world: Path) -> Path:
    return world / "splits"


@pytest.fixture
def service(workspace: Workspace, write: Write, first: str, full_id: str) -> Iterator[Service]:
    """Half the users on the cascade, half on the generative path."""
    write(pilot(first, full_id, revision=1) | {"parent": None})
    made = Service.following(workspace, "tiny", poll_seconds=0.05)
    yield made
    made.close()


@pytest.fixture
def store(service: Service, workspace: Workspace) -> Iterator[Store]:
    made = Store.at(workspace.state("tiny") / "online.sqlite")
    yield made
    made.close()
