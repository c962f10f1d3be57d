"""Fixtures for the serving tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from segue.registry.bundle import read_bundle
from tests.serving.worlds import full_bundle, incumbent_bundle, write_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifacts that a bundle is made of. Not to be changed."""
    return write_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def full(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole bundle. Not to be changed."""
    folder = tmp_path_factory.mktemp("full")
    full_bundle(world, folder)
    return folder


@pytest.fixture(scope="session")
def incumbent_only(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the incumbent alone. Not to be changed."""
    folder = tmp_path_factory.mktemp("incumbent")
    incumbent_bundle(world, folder)
    return folder


@pytest.fixture(scope="session")
def full_id(full: Path) -> str:
    return read_bundle(full).bundle_id
