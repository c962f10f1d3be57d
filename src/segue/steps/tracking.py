"""What a step that trains tells MLflow and its run record: curves, speed, MFU. Nothing of it enters its artifact."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segue.steps.runner import StepContext
from segue.training.distributed import processes
from segue.training.tracking import Tracking, TrainingRun


def tracking_of(context: StepContext) -> Tracking:
    """The experiment of the dataset, and the name and tags of the step's run."""
    return Tracking(
        uri=context.workspace.mlflow_uri,
        artifacts=context.workspace.mlflow_artifacts,
        experiment=context.dataset,
        run_name=f"{context.step.name}-{context.identity[:16]}",
        tags={"segue.step": context.step.name, "segue.dataset": context.dataset},
    )


def open_run(context: StepContext) -> TrainingRun | None:
    """The step's run in MLflow; None in a process that only trains along."""
    return TrainingRun(tracking_of(context), state=context.checkpoints) if context.leads else None


def close_run(
    context: StepContext,
    run: TrainingRun | None,
    throughput: Mapping[str, Mapping[str, float]],
    params: Mapping[str, Any],
) -> None:
    """``throughput``: by model, where a step trains several; a name that is empty adds no prefix."""
    if run is None:
        return
    together = processes()
    told = {
        (f"{model}_{name}" if model else name): value
        for model, figures in throughput.items()
        for name, value in figures.items()
    }
    context.record["throughput"] = {name: float(f"{value:.4g}") for name, value in told.items()}
    context.record["processes"] = together
    context.record["mlflow"] = {"run": run.run_id}
    run.finish(told | {"processes": float(together)}, _flat(params))


def _flat(values: Mapping[str, Any], inside: str = "") -> dict[str, Any]:
    """Nested settings by dotted names."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= (
            _flat(value, f"{inside}{name}.") if isinstance(value, Mapping) else {f"{inside}{name}": value}
        )
    return found
