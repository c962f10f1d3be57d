from __future__ import annotations

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
