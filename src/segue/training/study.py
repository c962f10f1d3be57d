"""A small Optuna study that can be interrupted, and shows itself in MLflow.

By itself, one trial after the other, it gives the same answer each time: the n-th finished trial's sampler is seeded by
(seed, n) and sees the finished trials alone. So a trial that a kill cut short is asked again with the same parameters, and
goes on from its own checkpoints.

With several workers, processes take trials from one study side by side. What a sampler sees then depends on who finished
first, so the study's trials differ from run to run, and may the settings that win; they are recorded. What follows from the
study does not: the best trial, and the first of equals. A trial that a kill cut short is tried again with its parameters, and
from its checkpoints.

Trials live in Optuna's journal storage, or in a database. MLflow gets a parent run with one nested run a trial, written
through an explicit client and run ids, because the fluent interface has one active run per thread and Optuna's callback no
parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import optuna
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from segue.errors import ConfigurationError
from segue.training.tracking import Tracking, experiment_id, milliseconds

Progress = Callable[[str], None]

_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
_INDEX = "index"  # the trial's number among the finished ones
_PARENT = "mlflow_parent"
_RUN = "mlflow_run"
_STARTUP = 3  # trials before TPE suggests
_LEAST_FOR_IMPORTANCE = 4  # completed trials; the importance of a parameter in fewer is noise altogether


@dataclass(frozen=True, slots=True)
class TrialHandle:
    """What an objective is given: parameters to suggest, epochs to report."""

    trial: optuna.trial.Trial
    index: int  # 0, 1, …; names the trial's checkpoints
    progress: Progress
    _tracker: _RunTracker = field(repr=False)

    def report(self, epoch: int, value: float, metrics: Mapping[str, float] | None = None) -> None:
        """Tell an epoch's validation (higher is better). Raises optuna.TrialPruned where the pruner says
        so."""
        self.trial.report(value, epoch)
        self._tracker.epoch(self.index, epoch, {"validation": value, **(metrics or {})})
        if self.trial.should_prune():
            raise optuna.TrialPruned

    def measured(self, metrics: Mapping[str, float]) -> None:
        """Show figures of the whole trial in MLflow, such as its speed."""
        self._tracker.measured(self.index, metrics)


Objective = Callable[[TrialHandle], float]


@dataclass(frozen=True, slots=True)
class StudyResult:
    """``trials`` holds what is deterministic; ``mlflow`` the run ids, which are not."""

    best_index: int
    best_params: dict[str, Any]
    best_value: float
    trials: list[dict[str, Any]]  # index, state, value, params, validation by epoch
    importance: dict[
        str, float
    ]  # of each parameter, summing to 1 (fANOVA); empty where the trials are too few
    mlflow: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What every process that works on a study must know; picklable."""

    name: str
    storage: Path | str
    trials: int
    seed: int
    warmup_epochs: int
    tracking: Tracking | None

    def open(self) -> optuna.Study:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage: Any = self.storage
        if isinstance(self.storage, Path):
            self.storage.parent.mkdir(parents=True, exist_ok=True)
            storage = optuna.storages.JournalStorage(JournalFileBackend(str(self.storage)))
        return optuna.create_study(
            study_name=self.name,
            storage=storage,
            direction="maximize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=1, n_warmup_steps=self.warmup_epochs),
            load_if_exists=True,
        )

    def tracker(self, study: optuna.Study) -> _RunTracker:
        return _NoRuns() if self.tracking is None else _MlflowRuns(self.tracking, study)


def run_study(
    objective: Objective,
    *,
    name: str,
    storage: Path | str,
    trials: int,
    seed: int,
    first: Mapping[str, Any] | None = None,
    warmup_epochs: int = 3,
    workers: int = 1,
    tracking: Tracking | None = None,
    progress: Progress = print,
) -> StudyResult:
    """Maximise ``objective`` over ``trials`` finished trials of the study ``name`` in ``storage``: a journal file, or the
    URL of a database.

    ``first`` is tried before TPE suggests anything. A trial below the median of those before it at the same
    epoch is pruned, from epoch ``warmup_epochs`` on. A study that is found in the storage goes on; a
    finished one is read. With ``workers`` above 1, ``objective`` is pickled to so many processes. Raises
    ConfigurationError for a study without trials, and where a worker died."""
    if trials < 1:
        raise ConfigurationError(f"tuning.trials is {trials}: at least one trial is needed")
    plan = _Plan(
        name=name,
        storage=storage,
        trials=trials,
        seed=seed,
        warmup_epochs=warmup_epochs,
        tracking=tracking,
    )
    study = plan.open()
    tracker = plan.tracker(study)
    if workers > 1:
        _side_by_side(objective, plan, study, first, workers)
        progress(f"{workers} workers finished {trials} trials")
    else:
        _one_by_one(objective, plan, study, tracker, first, progress)
    done = _finished(study)
    complete = [trial for trial in done if trial.state == TrialState.COMPLETE]
    best = max(complete, key=lambda trial: (_value(trial), -trial.user_attrs[_INDEX]))
    return StudyResult(
        best_index=best.user_attrs[_INDEX],
        best_params=dict(best.params),
        best_value=_value(best),
        trials=[_record(trial) for trial in done],
        importance=_importance(study, seed),
        mlflow=tracker.finish(best.user_attrs[_INDEX], _value(best)),
    )


def _one_by_one(
    objective: Objective,
    plan: _Plan,
    study: optuna.Study,
    tracker: _RunTracker,
    first: Mapping[str, Any] | None,
    progress: Progress,
) -> None:
    for left in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(left.number, state=TrialState.FAIL)  # of a process that was killed
    while (index := len(_finished(study))) < plan.trials:
        study.sampler = optuna.samplers.TPESampler(seed=plan.seed * 1009 + index, n_startup_trials=_STARTUP)
        waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        if index == 0 and first is not None and not waiting:
            study.enqueue_trial(dict(first))
        _try(objective, study.ask(), index, plan, study, tracker, progress)


def _side_by_side(
    objective: Objective, plan: _Plan, study: optuna.Study, first: Mapping[str, Any] | None, workers: int
) -> None:
    for left in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):  # of a study that was killed
        study.tell(left.number, state=TrialState.FAIL)
        if left.params and _INDEX in left.user_attrs:
            study.enqueue_trial(left.params, user_attrs={_INDEX: left.user_attrs[_INDEX]})
    if first is not None and not study.get_trials(deepcopy=False):
        study.enqueue_trial(dict(first))
    if len(_finished(study)) >= plan.trials:
        return
    # Not forked: a copy of a process that has threads may wait for them for ever.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(_work_until_told, objective, plan, place) for place in range(workers)]
        try:
            for future in as_completed(futures):
                future.result()
        except BrokenProcessPool as error:
            raise ConfigurationError(
                f"a worker of the study {plan.name} was killed: run it again, it goes on where it was; "
                "where memory ran out, with fewer tuning.workers"
            ) from error


class _Terminated(BaseException):
    """Another worker died, and this one must go too."""


def _work_until_told(objective: Objective, plan: _Plan, place: int) -> None:
    """:func:`_work`, in a process of its own. Told to go, it lets the journal's lock go first: the next study would wait
    half a minute for it."""

    def leave(*_: object) -> None:
        raise _Terminated

    signal.signal(signal.SIGTERM, leave)
    try:
        _work(objective, plan, place)
    except _Terminated:
        os._exit(128 + signal.SIGTERM)


def _work(objective: Objective, plan: _Plan, place: int) -> None:
    """Take trials until as many as are wanted are finished or taken."""
    study = plan.open()
    tracker = plan.tracker(study)
    while True:
        asked = len(study.get_trials(deepcopy=False))
        seed = int(np.random.SeedSequence([plan.seed, place, asked]).generate_state(1)[0])
        study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=_STARTUP, constant_liar=True)
        trial = study.ask()
        ahead = sum(
            other.number < trial.number and other.state != TrialState.FAIL
            for other in study.get_trials(deepcopy=False)
        )
        if ahead >= plan.trials:  # numbers are given once, so all workers agree on who is beyond
            study.tell(trial, state=TrialState.FAIL)
            return
        index = trial.user_attrs.get(_INDEX, trial.number)
        _try(objective, trial, index, plan, study, tracker, _Voice(place))


@dataclass(frozen=True, slots=True)
class _Voice:
    """The progress of a worker, on stderr."""

    place: int

    def __call__(self, line: str) -> None:
        print(f"worker {self.place + 1}: {line}", file=sys.stderr, flush=True)


def _try(
    objective: Objective,
    trial: optuna.trial.Trial,
    index: int,
    plan: _Plan,
    study: optuna.Study,
    tracker: _RunTracker,
    progress: Progress,
) -> None:
    trial.set_user_attr(_INDEX, index)
    tracker.begin(index)
    value: float | None = None
    try:
        value = objective(TrialHandle(trial, index, progress, tracker))
        state = TrialState.COMPLETE
    except optuna.TrialPruned:
        state = TrialState.PRUNED
    study.tell(trial, value, state=state)
    tracker.end(index, trial.params, value, state.name)
    shown = "" if value is None else f", {value:.4f}"
    progress(f"trial {index + 1} of {plan.trials}: {state.name.lower()}{shown}, {_short(trial.params)}")


def _importance(study: optuna.Study, seed: int) -> dict[str, float]:
    """Share of the trials' differences that each parameter explains (Hutter et al. 2014), largest first."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) < _LEAST_FOR_IMPORTANCE or len({trial.value for trial in complete}) == 1:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(share) for name, share in sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))}


def _finished(study: optuna.Study) -> list[FrozenTrial]:
    """By index: what was cut short is finished under a later number of Optuna's, but stays the trial that it was."""
    return sorted(
        study.get_trials(deepcopy=False, states=_FINISHED), key=lambda trial: trial.user_attrs[_INDEX]
    )


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

    def measured(self, index: int, metrics: Mapping[str, float]) -> None: ...

    def end(self, index: int, params: Mapping[str, Any], value: float | None, state: str) -> None: ...

    def finish(self, best_index: int, best_value: float) -> dict[str, Any]: ...


class _NoRuns:
    """No MLflow."""

    def begin(self, index: int) -> None: ...

    def epoch(self, index: int, epoch: int, metrics: Mapping[str, float]) -> None: ...

    def measured(self, index: int, metrics: Mapping[str, float]) -> None: ...

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

    def measured(self, index: int, metrics: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = milliseconds()
        self._client.log_batch(
            self._run(index), metrics=[Metric(name, value, now, 0) for name, value in sorted(metrics.items())]
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
        runs = [self._run(trial.user_attrs[_INDEX]) for trial in _finished(self._study)]
        return {"parent": self._parent, "trials": runs}

    def _run(self, index: int) -> str:
        return str(self._study.user_attrs[self._attribute(index)])

    @staticmethod
    def _attribute(index: int) -> str:
        return f"{_RUN}_{index}"
