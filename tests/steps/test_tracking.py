"""What the steps that train the incumbent tell MLflow, and what they keep out of their artifacts."""

from __future__ import annotations

from pathlib import Path

import pytest

from segue.artifacts import hash_files
from segue.bases import KEEPABLE
from segue.items import ITEMS_FILE
from segue.params import load_params
from segue.steps import incumbent, incumbent_refit
from segue.steps.registry import get
from segue.steps.runner import StepContext
from segue.workspace import Workspace
from tests.cascade.conftest import N_ITEMS, N_USERS, make_content, make_items, make_sequences

_OVERRIDES = [
    "cascade.threads=1",
    *(f"cascade.{model}.{key}" for model in ("sasrec", "two_tower") for key in ("dimensions=8", "epochs=2")),
    *(f"cascade.{model}.batch_events=48" for model in ("sasrec", "two_tower")),
    "cascade.sasrec.trials=1",
]


def test_the_incumbents_steps_leave_their_speed_in_mlflow_and_nowhere_else(
    workspace_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    workspace = Workspace(workspace_root)
    ids = [f"i{number:02d}" for number in range(N_ITEMS)]
    walks = [[(2 * (user // 2 + step) + user % 2) % 10 for step in range(5)] for user in range(N_USERS)]
    inputs = {name: workspace.data("ml-100k") / name for name in get("incumbent_refit").inputs}
    for folder in inputs.values():
        folder.mkdir(parents=True)
    make_items(ids).table.write_parquet(inputs["splits"] / ITEMS_FILE)
    make_sequences(walks).save(inputs["sequences"] / "regular")
    for name in incumbent.CONTENT_STEPS:
        make_content(ids).save(inputs[name])

    client = MlflowClient(tracking_uri=workspace.mlflow_uri)
    for name, run in {"incumbent": incumbent.run, "incumbent_refit": incumbent_refit.run}.items():
        output = inputs["incumbent"] if name == "incumbent" else workspace.data("ml-100k") / "output"
        output.mkdir(exist_ok=True)
        context = StepContext(
            workspace=workspace,
            dataset="ml-100k",
            step=get(name),
            params=load_params(workspace, "ml-100k", _OVERRIDES),
            inputs=inputs,
            input_hashes=dict.fromkeys(inputs, "hash"),
            output=output,
            identity=f"{name}-identity",
            base=dict.fromkeys(KEEPABLE),
        )
        run(context)
        told = client.get_run(context.record["mlflow"]["run"])
        assert told.info.status == "FINISHED"
        assert told.data.params["sasrec.dimensions"] in ("8", "4")
        for model in ("sasrec", "two_tower"):
            assert 0 < told.data.metrics[f"{model}_mfu"] < 1
            assert context.record["throughput"][f"{model}_tokens_per_second"] > 0
        for file in hash_files(output):
            if file.endswith(".json"):
                assert "tokens_per_second" not in (output / file).read_text(), file
