"""One graph, two engines: equal hashes, and each finds the other's work up to date."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
import pytest
import yaml

from assets.factory import assets_for
from assets.resources import Graph
from segue.artifacts import read_manifest
from segue.bases import KEEPABLE, write_base
from segue.params import SECTIONS, load_params
from segue.steps import dvc
from segue.steps.registry import get, in_order, upstream
from segue.steps.runner import is_up_to_date
from segue.workspace import Workspace

DATASET = "tiny"
DATA_TARGETS = ("sequences", "image_embeddings", "attribute_embeddings", "collaborative_embeddings")
MODEL_TARGETS = ("refit_check", "offline_evaluation")


def steps_of(targets: Sequence[str]) -> list[str]:
    return [step.name for step in in_order(upstream(targets))]


STEPS = steps_of(DATA_TARGETS)
MODELS = [name for name in steps_of(MODEL_TARGETS) if get(name).kind == "deterministic"]
SMALL = {
    "validation": {"min_interactions": 100, "min_users": 10, "min_items": 10},
    "tokenizer": {"level_sizes": [4, 4, 16], "dimensions": 8, "iterations": 3},
    "cascade": {
        "two_tower": {"dimensions": 8, "epochs": 1},
        "sasrec": {"dimensions": 8, "layers": 1, "epochs": 1, "trials": 1, "max_length": 10},
        "threads": 1,
    },
    "generative": {"dimensions": 8, "layers": 1, "epochs": 1, "max_length": 10, "threads": 1},
    "tuning": {"trials": 1, "warmup_epochs": 1},
    "decoding": {"beam_width": 8, "dense_candidates": 8},
    "evaluation": {"list_length": 20, "bootstrap_samples": 100, "threads": 1},
}


@pytest.fixture
def workspace(tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A DVC repository with one small dataset of its own."""
    generator = np.random.default_rng(0)
    events = pl.DataFrame(
        {
            "user_id": [f"u{user}" for user in generator.integers(0, 80, 2000)],
            "item_id": [f"i{item}" for item in generator.integers(0, 60, 2000)],
            "timestamp": generator.integers(1_000_000, 2_000_000, 2000),
        }
    ).unique(["user_id", "item_id"], maintain_order=True)
    events.write_csv(tmp_path / "events.csv")
    pl.DataFrame(
        {
            "item_id": [f"i{item}" for item in range(60)],
            "title": [f"The {'red' if item % 2 else 'blue'} book, volume {item}" for item in range(60)],
            "categories": ["a|b" if item % 2 else "c" for item in range(60)],
        }
    ).write_csv(tmp_path / "items.csv")
    profile: dict[str, object] = {section: {} for section in SECTIONS}
    profile["data"] = {
        "interactions": {"path": str(tmp_path / "events.csv")},
        "catalogue": {"path": str(tmp_path / "items.csv")},
    }
    profile |= SMALL
    shutil.copy(repository / "params.yaml", tmp_path / "params.yaml")
    params = yaml.safe_load((tmp_path / "params.yaml").read_text())
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({**params, "datasets": [DATASET]}))
    (tmp_path / "profiles").mkdir()
    (tmp_path / "bases").mkdir()
    (tmp_path / "profiles" / f"{DATASET}.yaml").write_text(yaml.safe_dump(profile))
    shutil.copytree(
        repository / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
    )
    shutil.copy(repository / "dvc.yaml", tmp_path / "dvc.yaml")
    monkeypatch.setenv("SEGUE_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    workspace = Workspace(tmp_path)
    write_base(workspace, DATASET, dict.fromkeys(KEEPABLE))
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], check=True)
    return workspace


def hashes(workspace: Workspace, steps: Sequence[str] = STEPS) -> dict[str, str]:
    return {name: read_manifest(workspace.step(DATASET, name)).content_sha256 for name in steps}


def dvc_repro(workspace: Workspace, targets: Sequence[str] = DATA_TARGETS) -> str:
    finished = subprocess.run(
        [sys.executable, "-m", "dvc", "repro", *(f"{name}@{DATASET}" for name in targets)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )
    return finished.stdout


def ran(output: str) -> set[str]:
    return {
        line.split("'")[1].partition("@")[0]
        for line in output.splitlines()
        if line.startswith("Running stage")
    }


def dagster_run(workspace: Workspace, steps: Sequence[str] = STEPS) -> dict[str, str]:
    chosen = [asset for asset in assets_for(DATASET) if asset.key.path[-1] in steps]
    graph = Graph(root=str(workspace.root), overrides=[])
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(chosen, instance=instance, resources={"graph": graph})
        return {
            event.asset_key.path[-1]: str(event.materialization.metadata["status"].value)
            for event in result.get_asset_materialization_events()
            if event.asset_key
        }


def test_equal_hashes_and_nothing_twice(workspace: Workspace) -> None:
    output = dvc_repro(workspace)
    assert ran(output) == set(STEPS)
    made_by_dvc = hashes(workspace)

    # Dagster finds DVC's work up to date; ingest always looks.
    statuses = dagster_run(workspace)
    assert {name for name, status in statuses.items() if status == "ran"} == set()

    # From nothing, Dagster makes the very same bytes; DVC, told once, runs only the always-changed step.
    shutil.rmtree(workspace.data(DATASET))
    assert set(dagster_run(workspace).values()) == {"ran"}
    assert hashes(workspace) == made_by_dvc
    dvc.adopt(workspace, DATASET, STEPS)
    assert dvc.not_adopted(workspace, DATASET, STEPS) == []
    assert ran(dvc_repro(workspace)) == {"ingest"}

    # One parameter reruns only what depends on it, and the other engine then finds it up to date.
    profile = yaml.safe_load(workspace.profile_file(DATASET).read_text())
    profile["encoders"] = {"collaborative_dimensions": 8}
    workspace.profile_file(DATASET).write_text(yaml.safe_dump(profile))
    encoders = {f"{name}_embeddings" for name in ("image", "attribute", "collaborative")}
    assert ran(dvc_repro(workspace)) == {"ingest", *encoders}
    params = load_params(workspace, DATASET)
    assert all(is_up_to_date(workspace, DATASET, step, params) for step in in_order(STEPS))
    assert "ran" not in dagster_run(workspace).values()


def test_trained_models_and_their_figures_are_equal_too(workspace: Workspace) -> None:
    dvc_repro(workspace, MODEL_TARGETS)
    made_by_dvc = hashes(workspace, MODELS)
    shutil.rmtree(workspace.data(DATASET))
    shutil.rmtree(workspace.state(DATASET))  # no study, no checkpoint, no cache of vectors to start from
    assert set(dagster_run(workspace, MODELS).values()) == {"ran"}
    assert hashes(workspace, MODELS) == made_by_dvc

    # What judges may change without anything being trained again.
    profile = yaml.safe_load(workspace.profile_file(DATASET).read_text())
    profile["evaluation"]["bootstrap_samples"] = 101
    workspace.profile_file(DATASET).write_text(yaml.safe_dump(profile))
    statuses = dagster_run(workspace, MODELS)
    assert {name for name, status in statuses.items() if status == "ran"} == {
        "offline_evaluation",
        "refit_check",
    }
    dvc.adopt(workspace, DATASET, MODELS)
    assert ran(dvc_repro(workspace, MODEL_TARGETS)) <= {"ingest"}


def test_a_damaged_artifact_is_never_blessed(workspace: Workspace) -> None:
    dagster_run(workspace)
    (workspace.step(DATASET, "splits") / "splits.json").write_text("{}")
    with pytest.raises(Exception, match=r"splits\.json"):
        dvc.adopt(workspace, DATASET, STEPS)
    assert not (workspace.root / "dvc.lock").exists()
