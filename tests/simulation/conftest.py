"""A workspace whose graph has run, in small: both bundles, splits, and what the serving check measured."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from segue.artifacts import write_json
from segue.migration.deployment import BundleFacts
from segue.migration.evidence import EVIDENCE_FILE, Evidence, write_evidence
from segue.migration.gates import read_facts
from segue.serving.service import Service
from segue.simulation.workspace import SimulationWorkspace
from segue.traffic.client import Client, ServiceClient
from segue.workspace import Workspace
from tests.serving.conftest import full, full_id, incumbent_only, world

__all__ = ["full", "full_id", "incumbent_only", "world"]

DATASET = "tiny"


@pytest.fixture
def workspace(
    workspace_root: Path, repository: Path, world: Path, full: Path, incumbent_only: Path
) -> Workspace:
    """``tiny``: its profile, bundles, splits and evidence. Nothing is deployed."""
    found = Workspace(workspace_root)
    shutil.copy(repository / "simulation.yaml", workspace_root / "simulation.yaml")
    shutil.copy(found.profile_file("ml-100k"), found.profile_file(DATASET))
    for step, source in (
        ("bundle", full),
        ("incumbent_bundle", incumbent_only),
        ("splits", world / "splits"),
    ):
        shutil.copytree(source, found.step(DATASET, step))
        (found.step(DATASET, step) / "manifest.json").write_text("{}")
    facts = read_facts(found.step(DATASET, "bundle"))
    for step in ("offline_evaluation", "refit_check", "serving_check"):
        folder = found.step(DATASET, step)
        folder.mkdir()
        measured = {"serving_check": serving, "offline_evaluation": offline}.get(step)
        write_evidence(folder / EVIDENCE_FILE, [] if measured is None else list(measured(facts)))
        write_json(folder / "manifest.json", {})
    return found


def serving(facts: BundleFacts) -> Iterator[Evidence]:
    """What a serving check finds where nothing is wrong."""
    for metric in ("invalid_rate", "seen_rate", "error_rate", "fallback_rate"):
        yield Evidence(
            kind="serving", metric=metric, path_a="generative", recipe_a=facts.recipe, bundle=facts.bundle_id,
            unit="request", interval="exact", estimate=0.0, low=0.0, high=0.0, confidence=1.0, n=200,
            protocol="made up", dataset=DATASET, snapshot="s", code_version="v",
            measured_at="2026-01-01T00:00:00+00:00",
        )  # fmt: skip


def offline(facts: BundleFacts) -> Iterator[Evidence]:
    """Of the offline evaluation what a simulation asks for: that the blend was measured, whatever was planted since."""
    yield Evidence(
        kind="offline", metric="coverage@10", path_a="blended", recipe_a=facts.recipe, unit="user",
        interval="bootstrap", estimate=0.4, low=0.35, high=0.45, confidence=0.95, n=200, protocol="made up",
        dataset=DATASET, snapshot="s", code_version="v",
    )  # fmt: skip


@pytest.fixture
def declare(workspace: Workspace) -> Callable[..., None]:
    """Change keys of simulation.yaml, such as ``population={"visits_mean": 1.0}``."""

    def change(**sections: object) -> None:
        file = workspace.root / "simulation.yaml"
        value = yaml.safe_load(file.read_text())
        for name, given in sections.items():
            value[name] = value[name] | given if isinstance(given, dict) else given
        file.write_text(yaml.safe_dump(value))

    return change


@contextmanager
def in_process(own: SimulationWorkspace, environment: dict[str, str], one_by_one: bool) -> Iterator[Client]:
    """The real service of a simulation in this process, without the web."""
    del one_by_one
    service = Service.following(own.workspace, own.dataset, environment=environment, poll_seconds=0.05)
    try:
        yield ServiceClient(service)
    finally:
        service.close()
