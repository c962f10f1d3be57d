"""Two jobs a dataset: the whole graph, and the day-two loop."""

from collections.abc import Sequence
from typing import Any

import dagster as dg

from assets.factory import asset_key
from assets.resources import Graph
from orchestration.datasets import identifier
from orchestration.events import materialization
from segue.lock import dataset_lock
from segue.steps.day_two import day_two
from segue.steps.registry import STEPS


def jobs_for(dataset: str) -> list[Any]:
    """Asset jobs are resolved by ``Definitions``; their unresolved type is not part of Dagster's public interface."""
    return [_graph_job(dataset), _day_two_job(dataset)]


def graph_job_name(dataset: str) -> str:
    return f"{identifier(dataset)}__graph"


def day_two_job_name(dataset: str) -> str:
    return f"{identifier(dataset)}__day_two"


def _graph_job(dataset: str) -> Any:
    return dg.define_asset_job(
        graph_job_name(dataset),
        selection=dg.AssetSelection.assets(*(asset_key(dataset, step.name) for step in STEPS)),
        description="The whole graph: what is up to date is not run again.",
        executor_def=dg.in_process_executor,
        tags={"segue/dataset": dataset},
    )


def _day_two_job(dataset: str) -> dg.JobDefinition:
    @dg.op(
        name=f"{identifier(dataset)}__take_in_what_arrived",
        description="Keep what serves, insert, check drift, retrain or keep, refit, bundle, refresh gate, deployment.",
    )
    def take_in(context: dg.OpExecutionContext, graph: Graph) -> str:
        workspace = graph.workspace()

        def run_steps(names: Sequence[str]) -> None:
            for name in names:
                outcome = graph.run(dataset, name)
                context.log_event(materialization(workspace, dataset, outcome))

        with dataset_lock(workspace.state(dataset), purpose="day two under Dagster"):
            return day_two(workspace, dataset, graph.params(dataset), run_steps, say=context.log.info)

    @dg.job(
        name=day_two_job_name(dataset),
        description="The day-two loop over what `segue data append` or the inbox brought.",
        executor_def=dg.in_process_executor,
        tags={"segue/dataset": dataset},
    )
    def job() -> None:
        take_in()

    return job
