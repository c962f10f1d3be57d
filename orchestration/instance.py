"""The Dagster instance of a checkout: under state/dagster, without telemetry."""

from __future__ import annotations

import os
from pathlib import Path

import dagster as dg

from assets.resources import HOST_PID
from segue.artifacts import write_text
from segue.workspace import Workspace

SETTINGS = "telemetry:\n  enabled: false\nnux:\n  enabled: false\n"


def home(workspace: Workspace) -> Path:
    """DAGSTER_HOME: the environment's, else state/dagster, made with its dagster.yaml if it is not there."""
    folder = Path(os.environ.get("DAGSTER_HOME") or workspace.root / "state" / "dagster")
    if not (folder / "dagster.yaml").is_file():
        write_text(folder / "dagster.yaml", SETTINGS)
    return folder


def open_instance(workspace: Workspace) -> dg.DagsterInstance:
    os.environ["DAGSTER_HOME"] = str(home(workspace))
    return dg.DagsterInstance.get()


def close_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Runs that a kill left open are failed, so that the page does not show them running for ever."""
    closed = []
    open_runs = instance.get_runs(filters=dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
    for run in open_runs:
        pid = run.tags.get(HOST_PID)
        if pid is not None and not Path(f"/proc/{pid}").exists():
            instance.report_run_failed(run, message=f"the process {pid} that ran it was killed")
            closed.append(run.run_id)
    return closed
