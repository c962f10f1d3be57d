"""Training in MLflow: where runs go, and the run of one step that trains.

Written through an explicit client and run ids: the fluent interface has one active run per thread. Times and speeds belong
here and into the run record; nothing of them enters an artifact."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segue.artifacts import read_json, write_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracking:
    """Where the runs go."""

    uri: str
    artifacts: Path  # of an experiment that does not exist yet
    experiment: str
    run_name: str
    tags: Mapping[str, str] = field(default_factory=dict)


def experiment_id(client: Any, tracking: Tracking) -> str:
    """Of the experiment that ``tracking`` names, made where there is none. ``client``: an MlflowClient."""
    found = client.get_experiment_by_name(tracking.experiment)
    if found is not None:
        return str(found.experiment_id)
    return str(
        client.create_experiment(tracking.experiment, artifact_location=tracking.artifacts.resolve().as_uri())
    )


def milliseconds() -> int:
    """Now, as MLflow counts."""
    return int(time.time() * 1000)


class TrainingRun:
    """The run of one step that trains. With ``state``, a folder that outlives a kill, a resumed step goes on with it."""

    def __init__(self, tracking: Tracking, *, state: Path | None) -> None:
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(tracking_uri=tracking.uri)
        self._last = 0
        memory = None if state is None else state / "mlflow.json"
        saved = read_json(memory) if memory is not None and memory.is_file() else None
        if isinstance(saved, dict):
            self.run_id = str(saved["run_id"])
            return
        run = self._client.create_run(
            experiment_id(self._client, tracking), run_name=tracking.run_name, tags=dict(tracking.tags)
        )
        self.run_id = str(run.info.run_id)
        if memory is not None:
            write_json(memory, {"run_id": self.run_id})

    def epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """One point of each curve; fits ``report`` of :func:`segue.training.loop.fit`."""
        self._last = epoch
        self._log(metrics, epoch)

    def finish(self, metrics: Mapping[str, float], params: Mapping[str, Any]) -> None:
        """The run's own figures, and what it was made with."""
        from mlflow.entities import Param

        self._log(metrics, self._last)
        named = [Param(name, str(value)) for name, value in sorted(params.items())]
        self._client.log_batch(self.run_id, params=named)
        self._client.set_terminated(self.run_id, "FINISHED")

    def _log(self, metrics: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = milliseconds()
        self._client.log_batch(
            self.run_id, metrics=[Metric(name, value, now, step) for name, value in sorted(metrics.items())]
        )
