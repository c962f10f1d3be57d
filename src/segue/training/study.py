"""A small Optuna study that can be interrupted, gives the same answer each time, and shows itself in MLflow.

The n-th finished trial's sampler is seeded by (seed, n) and sees the finished trials alone. So a trial that
a kill cut short is asked again with the same parameters, and goes on from its own checkpoints. Trials live
in Optuna's journal storage; MLflow gets a parent run with one nested run a trial, written through an
explicit client and run ids, because the fluent interface has one active run per thread and Optuna's
callback no parent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import optuna
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from segue.errors import ConfigurationError
from segue.training.tracking import Tracking, experiment_id, milliseconds

_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
_INDEX = "index"  # the trial's number among the finished ones
_PARENT = "mlflow_parent"
_RUN = "mlflow_run"


@dataclass(frozen=True, slots=True)
class TrialHandle:
    """What an objective is given: parameters to suggest, epochs to report."""

    trial: optuna.trial.Trial
    index: int  # 0, 1, …; names the trial's checkpoints
    _tracker: _RunTracker = field(repr=False)

    def report(self, epoch: int, value: float, metrics: Mapping[str, float] | None = None) -> None:
        """Tell an epoch's validation (higher is better). Raises optuna.TrialPruned where the pruner says
        so."""
        self.trial.report(value, epoch)
        self._tracker.epoch(self.index, epoch, {"validation": value, **(metrics or {})})
        if self.trial.should_prune():
            raise optuna.TrialPruned


Objective = Callable[[TrialHandle], float]


@dataclass(frozen=True, slots=True)
class StudyResult:
    """``trials`` holds what is deterministic; ``mlflow`` the run ids, which are not."""

    best_index: int
    best_params: dict[str, Any]
    best_value: float
    trials: list[dict[str, Any]]  # index, state, value, params, validation by epoch
    mlflow: dict[str, Any]


def run_study(
    objective: Objective,
    *,
    name: str,
    journal: Path,
    trials: int,
    seed: int,
    first: Mapping[str, Any] | None = None,
    warmup_epochs: int = 3,
    tracking: Tracking | None = None,
    progress: Callable[[str], None] = print,
) -> StudyResult:
    """Maximise ``objective`` over ``trials`` finished trials of the study ``name`` in the file ``journal``.

    ``first`` is tried before TPE suggests anything. A trial below the median of those before it at the same
    epoch is pruned, from epoch ``warmup_epochs`` on. A study that is found in the journal goes on; a
    finished one is read."""
    if trials < 1:
        raise ConfigurationError(f"tuning.trials is {trials}: at least one trial is needed")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal.parent.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name=name,
        storage=optuna.storages.JournalStorage(JournalFileBackend(str(journal))),
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=1, n_warmup_steps=warmup_epochs),
        load_if_exists=True,
    )
    for left in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(left.number, state=TrialState.FAIL)  # of a process that was killed
    tracker: _RunTracker = _NoRuns() if tracking is None else _MlflowRuns(tracking, study)
    while (index := len(_finished(study))) < trials:
        study.sampler = optuna.samplers.TPESampler(seed=seed * 1009 + index, n_startup_trials=3)
        waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        if index == 0 and first is not None and not waiting:
            study.enqueue_trial(dict(first))
        trial = study.ask()
        trial.set_user_attr(_INDEX, index)
        tracker.begin(index)
        value: float | None = None
        try:
            value = objective(TrialHandle(trial, index, tracker))
            state = TrialState.COMPLETE
        except optuna.TrialPruned:
            state = TrialState.PRUNED
        study.tell(trial, value, state=state)
        tracker.end(index, trial.params, value, state.name)
        shown = "" if value is None else f", {value:.4f}"
        progress(f"trial {index + 1} of {trials}: {state.name.lower()}{shown}, {_short(trial.params)}")
    done = _finished(study)
    complete = [trial for trial in done if trial.state == TrialState.COMPLETE]
    best = max(complete, key=lambda trial: (_value(trial), -trial.user_attrs[_INDEX]))
    return StudyResult(
        best_index=best.user_attrs[_INDEX],
        best_params=dict(best.params),
        best_value=_value(best),
        trials=[_record(trial) for trial in done],
        mlflow=tracker.finish(best.user_attrs[_INDEX], _value(best)),
    )


def _finished(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=_FINISHED)


def _value(trial: FrozenTrial) -> float:
    assert trial.value is not None
    return float(trial.value)


def _record(trial: FrozenTrial) -> dict[str, Any]:
    values = [float(trial.intermediate_values[epoch]) for epoch in sorted(trial.intermediate_values)]
    return {
        "index": trial.user_attrs[_INDEX],
        "state": trial.state.name.lower(),
        "value": trial.value if trial.state == TrialState.COMPLETE else None,
        "params": dict(sorted(trial.params.items())),
        "validation": values,
    }


def _short(params: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in params.items())


# MLflow.


class _RunTracker(Protocol):
    def begin(self, index: int) -> None: ...

    def epoch(self, index: int, epoch: int, metrics: Mapping[str, float]) -> None: ...

    def end(self, index: int, params: Mapping[str, Any], value: float | None, state: str) -> None: ...

    def finish(self, best_index: int, best_value: float) -> dict[str, Any]: ...


class _NoRuns:
    """No MLflow."""

    def begin(self, index: int) -> None: ...

    def epoch(self, index: int, epoch: int, metrics: Mapping[str, float]) -> None: ...

    def end(self, index: int, params: Mapping[str, Any], value: float | None, state: str) -> None: ...

    def finish(self, best_index: int, best_value: float) -> dict[str, Any]:  # noqa: ARG002
        return {}


class _MlflowRuns:
    """A parent run, and one run a trial below it. The ids live in the study, so a resumed one goes on with
    them."""

    def __init__(self, tracking: Tracking, study: optuna.Study) -> None:
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(tracking_uri=tracking.uri)
        self._study = study
        self._experiment = experiment_id(self._client, tracking)
        if _PARENT not in study.user_attrs:
            parent = self._client.create_run(
                self._experiment, run_name=tracking.run_name, tags=dict(tracking.tags)
            )
            study.set_user_attr(_PARENT, parent.info.run_id)
        self._parent = str(study.user_attrs[_PARENT])

    def begin(self, index: int) -> None:
        if self._attribute(index) not in self._study.user_attrs:
            run = self._client.create_run(
                self._experiment, run_name=f"trial {index + 1}", tags={"mlflow.parentRunId": self._parent}
            )
            self._study.set_user_attr(self._attribute(index), run.info.run_id)

    def epoch(self, index: int, epoch: int, metrics: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = milliseconds()
        self._client.log_batch(
            self._run(index),
            metrics=[Metric(name, value, now, epoch) for name, value in sorted(metrics.items())],
        )

    def end(self, index: int, params: Mapping[str, Any], value: float | None, state: str) -> None:
        from mlflow.entities import Metric, Param

        metrics = [] if value is None else [Metric("best_validation", value, milliseconds(), 0)]
        named = [Param(name, str(setting)) for name, setting in sorted(params.items())]
        self._client.log_batch(self._run(index), metrics=metrics, params=named)
        self._client.set_tag(self._run(index), "optuna.state", state)
        self._client.set_terminated(self._run(index), "KILLED" if state == "PRUNED" else "FINISHED")

    def finish(self, best_index: int, best_value: float) -> dict[str, Any]:
        self._client.log_metric(self._parent, "best_validation", best_value)
        self._client.set_tag(self._parent, "best_trial", str(best_index + 1))
        self._client.set_terminated(self._parent, "FINISHED")
        count = len(_finished(self._study))
        return {"parent": self._parent, "trials": [self._run(index) for index in range(count)]}

    def _run(self, index: int) -> str:
        return str(self._study.user_attrs[self._attribute(index)])

    @staticmethod
    def _attribute(index: int) -> str:
        return f"{_RUN}_{index}"
