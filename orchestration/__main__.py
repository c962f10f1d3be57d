"""Start a run in this process: ``python -m orchestration graph|day-two|report --dataset ml-100k``.

The run is recorded in the instance that ``make ui`` shows. Finished steps are committed to DVC by name at the end.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

from segue.errors import SegueError
from segue.workspace import Workspace

# Every failure is told at the end, once and in short (orchestration.failures); its page in `make ui` has all of it.
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def main() -> int:
    arguments = _parser().parse_args()
    workspace = Workspace.find()
    os.environ["SEGUE_DATASET"] = arguments.dataset
    try:
        if arguments.command == "report":
            return _report(workspace, arguments.dataset)
        return _run(workspace, arguments.command, arguments.dataset, arguments.overrides)
    except SegueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped: the same command goes on from what is finished", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m orchestration", description=__doc__)
    parser.add_argument("command", choices=["graph", "day-two", "report"])
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    return parser


def _report(workspace: Workspace, dataset: str) -> int:
    from orchestration.events import report_finished
    from orchestration.instance import open_instance

    with open_instance(workspace) as instance:
        for name in report_finished(instance, workspace, dataset):
            print(f"reported {name}")
    return 0


def _run(workspace: Workspace, command: str, dataset: str, overrides: list[str]) -> int:
    from assets.resources import HOST_PID
    from orchestration.definitions import defs
    from orchestration.failures import failures
    from orchestration.instance import close_dead_runs, open_instance
    from orchestration.jobs import day_two_job_name, graph_job_name

    started = time.monotonic()
    name = graph_job_name(dataset) if command == "graph" else day_two_job_name(dataset)
    with open_instance(workspace) as instance:
        for run_id in close_dead_runs(instance):
            print(f"closed run {run_id}, which a kill had left open", file=sys.stderr)
        result = defs.resolve_job_def(name).execute_in_process(
            instance=instance,
            raise_on_error=False,
            tags={HOST_PID: str(os.getpid()), "segue/dataset": dataset},
            run_config={**QUIET, "resources": {"graph": {"config": {"overrides": overrides}}}},
        )
        if not result.success:
            for line in failures(result.all_events):
                print(line, file=sys.stderr)
            return 1
    _adopt(workspace, dataset)
    print(f"run {result.run_id} took {time.monotonic() - started:.1f} s", file=sys.stderr)
    return 0


def _adopt(workspace: Workspace, dataset: str) -> None:
    """Commit to DVC what DVC does not know yet, once, by name, after the manifests were verified."""
    from segue.params import active_datasets, load_params
    from segue.steps import dvc
    from segue.steps.registry import STEPS
    from segue.steps.runner import is_up_to_date

    if dataset not in active_datasets(workspace):
        return
    params = load_params(workspace, dataset)
    finished = [step.name for step in STEPS if is_up_to_date(workspace, dataset, step, params)]
    unknown = dvc.not_adopted(workspace, dataset, finished)
    if unknown:
        print(f"dvc: adopting {len(unknown)} finished stages …", file=sys.stderr)
        dvc.adopt(workspace, dataset, unknown)


if __name__ == "__main__":
    sys.exit(main())
