"""Everything Dagster sees. `dg check defs` loads this module."""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg

from assets.factory import assets_for
from assets.resources import Graph
from orchestration.datasets import datasets
from orchestration.jobs import jobs_for
from orchestration.schedules import schedules_for
from orchestration.sensors import sensors_for


def definitions_for(names: Sequence[str]) -> dg.Definitions:
    """The whole graph of each dataset, under its own key prefix."""
    return dg.Definitions(
        assets=[asset for name in names for asset in assets_for(name)],
        jobs=[job for name in names for job in jobs_for(name)],
        schedules=[schedule for name in names for schedule in schedules_for(name)],
        sensors=[sensor for name in names for sensor in sensors_for(name)],
        resources={"graph": Graph()},
        # A process a step costs three to seven seconds each; the steps of one dataset run one after another anyway.
        executor=dg.in_process_executor,
    )


defs = definitions_for(datasets())
