"""`make ui`: Dagster's webserver and daemon, and MLflow's server, on loopback, over the state of this checkout."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

from orchestration.instance import close_dead_runs, home, open_instance
from segue.workspace import Workspace

STOP_SECONDS = 10.0


def commands(workspace: Workspace, dagster_port: int, mlflow_port: int) -> dict[str, list[str]]:
    """The three processes. ``dagster dev`` is not used: it is slow to stop and keeps a temporary instance."""
    here = Path(sys.executable).parent
    location = ["-m", "orchestration.definitions", "-d", str(workspace.root)]
    return {
        "mlflow": [
            str(here / "mlflow"),
            "server",
            "--backend-store-uri",
            workspace.mlflow_uri,
            "--artifacts-destination",
            str(workspace.mlflow_artifacts),
            "--host",
            "127.0.0.1",
            "--port",
            str(mlflow_port),
        ],
        "webserver": [
            str(here / "dagster-webserver"), "-h", "127.0.0.1", "-p", str(dagster_port), *location,
        ],
        "daemon": [str(here / "dagster-daemon"), "run", *location],
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dagster-port", type=int, default=3070)
    parser.add_argument("--mlflow-port", type=int, default=5000)
    arguments = parser.parse_args()
    workspace = Workspace.find()
    environment = {**os.environ, "DAGSTER_HOME": str(home(workspace)), "PYTHONPATH": str(workspace.root)}
    (workspace.root / "state").mkdir(exist_ok=True)
    with open_instance(workspace) as instance:
        for run_id in close_dead_runs(instance):
            print(f"closed run {run_id}, which a kill had left open", file=sys.stderr, flush=True)
    processes = {
        name: subprocess.Popen(command, cwd=workspace.root, env=environment, start_new_session=True)
        for name, command in commands(workspace, arguments.dagster_port, arguments.mlflow_port).items()
    }
    print(f"Dagster  http://127.0.0.1:{arguments.dagster_port}", flush=True)
    print(f"MLflow   http://127.0.0.1:{arguments.mlflow_port}", flush=True)
    print("Ctrl-C stops all three.", flush=True)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        while all(process.poll() is None for process in processes.values()):
            time.sleep(0.5)
        ended = next(name for name, process in processes.items() if process.poll() is not None)
        print(f"{ended} ended with {processes[ended].returncode}: the others are stopped", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    finally:
        _stop(processes)


def _interrupt(number: int, frame: FrameType | None) -> None:
    del number, frame
    raise KeyboardInterrupt


def _stop(processes: dict[str, subprocess.Popen[bytes]]) -> None:
    for process in processes.values():
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    for process in processes.values():
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
