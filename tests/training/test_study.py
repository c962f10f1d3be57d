from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from optuna import TrialPruned

from segue.errors import ConfigurationError
from segue.training.study import StudyResult, TrialHandle, run_study
from segue.training.tracking import Tracking


def objective(handle: TrialHandle) -> float:
    x = handle.trial.suggest_float("x", -2, 2)
    for epoch in range(3):
        handle.report(epoch, -((x - 1) ** 2) - (2 - epoch))
    return -((x - 1) ** 2)


def study(folder, *, run=objective, trials: int = 5, tracking: Tracking | None = None) -> StudyResult:
    return run_study(
        run,
        name="s",
        storage=folder / "s.journal",
        trials=trials,
        seed=3,
        first={"x": 0.5},
        warmup_epochs=0,
        tracking=tracking,
        progress=lambda line: None,
    )


def test_the_study_is_deterministic_starts_with_what_stands_and_prunes(tmp_path) -> None:
    first, again = study(tmp_path / "a"), study(tmp_path / "b")
    assert first == again
    assert first.trials[0]["params"] == {"x": 0.5}
    assert {trial["state"] for trial in first.trials} == {"complete", "pruned"}
    assert first.best_value == max(trial["value"] for trial in first.trials if trial["value"] is not None)
    assert all(trial["value"] is None for trial in first.trials if trial["state"] == "pruned")


@pytest.mark.parametrize("killed_in", [0, 2])
def test_an_interrupted_study_goes_on(tmp_path, killed_in: int) -> None:
    class Killed(BaseException):
        pass

    ran: list[int] = []

    def dying(handle: TrialHandle) -> float:
        if handle.index == killed_in:
            handle.trial.suggest_float("x", -2, 2)
            raise Killed
        return objective(handle)

    def counting(handle: TrialHandle) -> float:
        ran.append(handle.index)
        return objective(handle)

    with pytest.raises(Killed):
        study(tmp_path, run=dying)
    assert study(tmp_path, run=counting) == study(tmp_path.with_name("whole"))
    assert ran == list(range(killed_in, 5))
    ran.clear()
    study(tmp_path, run=counting)
    assert ran == []  # a finished study is read


def test_trials_are_nested_runs(tmp_path) -> None:
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    tracking = Tracking(uri=uri, artifacts=tmp_path / "artifacts", experiment="tiny", run_name="tuning")
    result = study(tmp_path, trials=3, tracking=tracking)
    client = MlflowClient(tracking_uri=uri)
    parent = client.get_run(result.mlflow["parent"])
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["best_validation"] == pytest.approx(result.best_value)
    assert len(result.mlflow["trials"]) == 3
    for run_id, trial in zip(result.mlflow["trials"], result.trials, strict=True):
        run = client.get_run(run_id)
        assert run.data.tags["mlflow.parentRunId"] == result.mlflow["parent"]
        assert run.data.tags["optuna.state"] == trial["state"].upper()
        assert float(run.data.params["x"]) == pytest.approx(trial["params"]["x"])
        assert len(client.get_metric_history(run_id, "validation")) == len(trial["validation"])
    assert study(tmp_path, trials=3, tracking=tracking).mlflow == result.mlflow


def test_no_trials_is_an_error(tmp_path) -> None:
    with pytest.raises(ConfigurationError, match="trials is 0"):
        study(tmp_path, trials=0)


def test_pruned_everywhere_but_the_first_still_answers(tmp_path) -> None:
    def pruned(handle: TrialHandle) -> float:
        handle.trial.suggest_float("x", -2, 2)
        if handle.index:
            raise TrialPruned
        return 1.0

    assert study(tmp_path, run=pruned).best_index == 0


class Logged:
    """Picklable; leaves a line for each trial that it worked on, goes on once ``together`` processes have left one, and
    dies in the trial that it is told to."""

    def __init__(self, folder: Path, *, dies_in: int | None = None, together: int = 1) -> None:
        self.folder, self.dies_in, self.together = folder, dies_in, together

    def __call__(self, handle: TrialHandle) -> float:
        x = handle.trial.suggest_float("x", -2, 2)
        y = handle.trial.suggest_float("y", -2, 2)
        with (self.folder / "log").open("a") as file:
            file.write(f"{handle.index} {os.getpid()} {x!r} {y!r}\n")
        if handle.index == self.dies_in:
            os.kill(os.getpid(), signal.SIGKILL)
        deadline = time.monotonic() + 60
        while len({process for _, process, *_ in log(self.folder)}) < self.together:
            assert time.monotonic() < deadline, "nobody else works on the study"
            time.sleep(0.02)
        handle.report(0, -(x**2))
        handle.measured({"speed": 1.0})
        return -(x**2) - 0.01 * y**2


def log(folder: Path) -> list[tuple[int, int, str, str]]:
    lines = [line.split() for line in (folder / "log").read_text().splitlines()]
    return [(int(index), int(process), x, y) for index, process, x, y in lines]


def side_by_side(folder: Path, objective: Logged, **changes: Any) -> StudyResult:
    arguments: dict[str, Any] = {
        "storage": folder / "s.journal",
        "trials": 6,
        "seed": 3,
        "first": {"x": 0.5, "y": 1.0},
    }
    return run_study(
        objective,
        name="s",
        **(arguments | {"warmup_epochs": 5, "workers": 2, "progress": lambda line: None} | changes),
    )


def test_workers_share_a_study_that_a_kill_cuts_short(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"a worker .* was killed: run it again"):
        side_by_side(tmp_path, Logged(tmp_path, dies_in=3, together=2))
    before = log(tmp_path)
    result = side_by_side(tmp_path, Logged(tmp_path))
    after = log(tmp_path)[len(before) :]
    # What was cut short is tried again under its own number, with its own parameters, and nothing else is.
    killed = next(entry for entry in before if entry[0] == 3)
    assert [entry[2:] for entry in after if entry[0] == 3] == [killed[2:]]
    done = {trial["index"] for trial in result.trials}
    assert len(result.trials) == len(done) == 6
    assert {0, 3} <= done
    assert result.trials[0]["params"] == {"x": 0.5, "y": 1.0}

    # What follows from the study is read from it.
    assert side_by_side(tmp_path, Logged(tmp_path)) == result
    assert len(log(tmp_path)) == len(before) + len(after)
    best = max(trial["value"] for trial in result.trials)
    assert result.best_value == best
    assert result.best_index == min(trial["index"] for trial in result.trials if trial["value"] == best)
    assert sum(result.importance.values()) == pytest.approx(1)


@pytest.mark.slow
def test_the_trials_of_workers_are_nested_runs_too(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    tracking = Tracking(uri=uri, artifacts=tmp_path / "artifacts", experiment="tiny", run_name="tuning")
    result = side_by_side(tmp_path, Logged(tmp_path, together=2), tracking=tracking)
    assert len(result.mlflow["trials"]) == 6
    client = MlflowClient(tracking_uri=uri)
    for run_id, trial in zip(result.mlflow["trials"], result.trials, strict=True):
        run = client.get_run(run_id)
        assert run.data.tags["mlflow.parentRunId"] == result.mlflow["parent"]
        assert float(run.data.params["x"]) == pytest.approx(trial["params"]["x"])
        assert run.data.metrics["speed"] == 1.0


def test_a_study_may_lie_in_a_database(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    first = side_by_side(tmp_path, Logged(tmp_path), storage=url, workers=1)
    assert side_by_side(tmp_path, Logged(tmp_path), storage=url, workers=1) == first
    assert len(log(tmp_path)) == 6
    assert first == side_by_side(tmp_path, Logged(tmp_path), workers=1)  # wherever it lies


def test_the_importance_is_that_of_what_moves_the_value_and_too_few_trials_have_none(tmp_path: Path) -> None:
    many = side_by_side(tmp_path, Logged(tmp_path), trials=12, workers=1)
    assert list(many.importance) == ["x", "y"]
    assert many.importance["x"] > 0.6
    few = side_by_side(tmp_path, Logged(tmp_path), trials=3, workers=1, storage=tmp_path / "few")
    assert few.importance == {}
