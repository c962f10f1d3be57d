"""Steps that several processes run as one, started as a user starts them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from segue.artifacts import commit, read_json, read_manifest, write_json
from segue.errors import ConfigurationError
from segue.params import load_params
from segue.steps.registry import get
from segue.steps.runner import is_up_to_date, read_record, run_step
from segue.workspace import Workspace
from tests.conftest import REPOSITORY
from tests.generative import tiny

DATASET = "ml-100k"
# Dropout draws otherwise in each process: without it both ways must agree.
SETTINGS = tiny.SETTINGS.model_copy(update={"dropout": 0.0, "identity_dropout": 0.0, "epochs": 3})
OVERRIDES = [
    f"generative.{name}={getattr(SETTINGS, name)}"
    for name in (
        "dimensions",
        "layers",
        "heads",
        "dropout",
        "identity_dropout",
        "max_length",
        "batch_events",
        "epochs",
        "threads",
    )
] + ["generative.precision=fp32"]


@pytest.fixture
def workspace(workspace_root: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Everything that ``generative_model`` reads, the tuning without weights that it could take over."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    workspace = Workspace(workspace_root)
    made = {name: workspace.data(DATASET) / f".{name}" for name in get("generative_model").inputs}
    for folder in made.values():
        folder.mkdir(parents=True)
    tiny.item_map().save(made["item_map"])
    tiny.sequences(24).save(made["sequences"] / "regular")
    write_json(
        made["tuning"] / "settings.json",
        {
            "settings": SETTINGS.model_dump(mode="json"),
            "trial_settings": SETTINGS.model_dump(mode="json"),
            "best_epoch": 1,
            "trained_on": {},
        },
    )
    for name, folder in made.items():
        commit(
            folder,
            workspace.step(DATASET, name),
            step=name,
            dataset=DATASET,
            params_sha256="",
            inputs={},
            code_version="",
        )
    return workspace


def in_two_processes(name: str) -> str:
    """What ``segue step --nproc 2`` says."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path]),
        "OMP_NUM_THREADS": "1",
    }
    options = [part for override in OVERRIDES for part in ("--set", override)]
    done = subprocess.run(
        [sys.executable, "-m", "segue.cli", "step", name, "--nproc", "2", "--dataset", DATASET, *options],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_two_processes_make_the_artifact_that_one_makes(workspace: Workspace, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    told = in_two_processes("generative_model")
    assert told.count("generative_model@ml-100k: done") == 1
    folder = workspace.step(DATASET, "generative_model")
    manifest = read_manifest(folder)
    params = load_params(workspace, DATASET, OVERRIDES)
    assert is_up_to_date(
        workspace, DATASET, get("generative_model"), params
    )  # for any engine, whoever made it
    weights, facts = load_file(folder / "model.safetensors"), read_json(folder / "training.json")
    record = read_record(workspace, DATASET, "generative_model")
    assert record["processes"] == 2

    assert run_step(workspace, DATASET, "generative_model", params, force=True).status == "ran"
    again = read_json(folder / "training.json")
    assert facts["best_epoch"] == again["best_epoch"]
    assert facts["validation_ndcg_at_10"] == pytest.approx(again["validation_ndcg_at_10"])
    for name, value in load_file(folder / "model.safetensors").items():
        torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=1e-4)
    assert set(read_manifest(folder).files) == set(manifest.files)

    client = MlflowClient(tracking_uri=workspace.mlflow_uri)
    run = client.get_run(record["mlflow"]["run"])
    assert run.info.status == "FINISHED"
    assert len(client.get_metric_history(run.info.run_id, "total")) == 3
    assert 0 < run.data.metrics["mfu"] < 1
    assert run.data.metrics["tokens_per_second"] == pytest.approx(
        record["throughput"]["tokens_per_second"], rel=1e-3
    )
    assert run.data.metrics["processes"] == 2
    assert run.data.params["dropout"] == "0.0"
    texts = [file.read_text() for file in folder.glob("*.json")]
    assert not any(word in text for text in texts for word in ("mfu", "tokens_per_second", "peak_flops"))


def test_a_step_for_one_process_is_refused_under_torchrun(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match="splits runs in one process: start it without torchrun"):
        run_step(workspace, DATASET, "splits", load_params(workspace, DATASET))
