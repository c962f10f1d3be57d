from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.execution.plan.active import ActiveExecution

from assets.resources import Graph
from orchestration import __main__ as command
from orchestration.__main__ import QUIET
from orchestration.failures import failures
from orchestration.jobs import _day_two_job, _retrain_job
from segue.errors import DataError


def told(
    assets: list[dg.AssetsDefinition], resources: dict[str, dg.ResourceDefinition] | None = None
) -> list[str]:
    defs = dg.Definitions(assets=assets, resources=resources, jobs=[dg.define_asset_job("everything")])
    with dg.DagsterInstance.ephemeral() as instance:
        result = defs.resolve_job_def("everything").execute_in_process(
            instance=instance, raise_on_error=False, run_config=QUIET
        )
    assert not result.success
    return list(failures(result.all_events))


def test_what_the_user_can_mend_is_told_once_without_a_stack(capfd: pytest.CaptureFixture[str]) -> None:
    @dg.asset
    def refused() -> None:
        try:
            raise DataError("row 7 has no user: name one")
        except DataError as error:
            raise dg.Failure(description=str(error), allow_retries=False) from error

    @dg.asset(deps=[refused])
    def later() -> None: ...

    assert told([refused, later]) == ["error in refused: row 7 has no user: name one"]
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("job", [_day_two_job, _retrain_job])
def test_a_loop_that_is_refused_says_why_and_no_more(
    job: Callable[[str], dg.JobDefinition], workspace_root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        result = job("ml-100k").execute_in_process(
            instance=instance,
            resources={"graph": Graph(root=str(workspace_root))},
            raise_on_error=False,
            run_config=QUIET,
        )
    (line,) = failures(result.all_events)
    assert re.fullmatch(r"error in ml_100k__\w+: nothing is deployed .*", line)
    assert capfd.readouterr().err == ""


def test_a_bug_is_told_with_its_stack() -> None:
    @dg.asset
    def broken() -> None:
        raise ZeroDivisionError("by nothing")

    (line,) = told([broken])
    assert line.startswith("error in broken: ")
    assert "ZeroDivisionError: by nothing" in line
    assert "test_failures.py" in line


def test_a_run_that_fails_before_its_steps_is_told() -> None:
    @dg.resource
    def database() -> None:
        raise RuntimeError("no such database")

    @dg.asset(required_resource_keys={"database"})
    def waiting() -> None: ...

    lines = told([waiting], {"database": database})
    assert any("no such database" in line for line in lines)


def test_a_step_that_was_stopped_is_no_bug() -> None:
    @dg.asset
    def long() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)

    assert told([long]) == ["long was stopped: the same command goes on from what is finished"]


def test_a_stop_between_two_steps_is_no_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    @dg.asset
    def one() -> None: ...

    @dg.asset(deps=[one])
    def two() -> None: ...

    done = ActiveExecution.handle_event

    def stopped_after_one(execution: ActiveExecution, event: dg.DagsterEvent) -> None:
        done(execution, event)
        if event.is_step_success and event.step_key == "one":
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(ActiveExecution, "handle_event", stopped_after_one)
    (line,) = told([one, two])
    assert line == "two was stopped: the same command goes on from what is finished"


def test_a_stop_outside_of_the_run_leaves_no_stack(
    monkeypatch: pytest.MonkeyPatch, workspace_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.chdir(workspace_root)
    monkeypatch.setattr(command, "_run", stopped)
    monkeypatch.setattr(sys, "argv", ["orchestration", "graph", "--dataset", "ml-100k"])
    monkeypatch.setenv("SEGUE_DATASET", "ml-100k")  # which the command sets: put back after the test
    assert command.main() == 130
    assert capsys.readouterr().err == "stopped: the same command goes on from what is finished\n"
