"""The resource through which assets reach the library: a workspace and parameter overrides."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import dagster as dg
from pydantic import Field

from segue.params import Params, load_params
from segue.steps.registry import STEPS
from segue.steps.runner import Outcome, run_step
from segue.workspace import Workspace

HOST_PID = "segue/pid"  # tag of a run: the process that it runs in
_NUMBER = {step.name: number for number, step in enumerate(STEPS, start=1)}


class Graph(dg.ConfigurableResource):
    """Runs steps. ``overrides`` are ``section.key=value``, as on the command line."""

    root: str = Field(default="", description="The checkout; empty: found as the command line finds it")
    overrides: list[str] = Field(default_factory=list, description="section.key=value, over the profile")

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Say in which process the run runs, whoever started it: the page, a sensor, the schedule or a command line.

        By that tag a run which a kill left open is known to be dead.
        """
        if context.instance is not None and context.run is not None:
            context.instance.add_run_tags(context.run.run_id, {HOST_PID: str(os.getpid())})

    def workspace(self) -> Workspace:
        return Workspace(Path(self.root).resolve()) if self.root else Workspace.find()

    def params(self, dataset: str) -> Params:
        return load_params(
            self.workspace(), dataset, self.overrides, origin="overrides of the run's configuration:"
        )

    def run(self, dataset: str, step: str) -> Outcome:
        """Bring one step up to date and say so on stderr."""
        where = f"[{_NUMBER[step]:2}/{len(STEPS)}] {step}"
        print(f"{where} …", file=sys.stderr, flush=True)
        outcome = run_step(self.workspace(), dataset, step, self.params(dataset), engine="dagster")
        told = outcome.message or outcome.status.replace("_", " ")
        print(f"{where}: {told} ({outcome.seconds:.1f} s)", file=sys.stderr, flush=True)
        return outcome
