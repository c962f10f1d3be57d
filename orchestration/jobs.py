"""Four jobs a dataset: the whole graph, the day-two loop, the evaluation of the running experiment, and a retrain."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import dagster as dg

from assets.factory import asset_key, failure_of
from assets.resources import Graph
from orchestration.datasets import identifier
from orchestration.events import materialization
from segue.errors import SegueError
from segue.lock import dataset_lock
from segue.steps.day_two import day_two, retrain
from segue.steps.registry import STEPS

EVALUATION = (
    "online_evidence",
    "refresh_decision",
    "pilot_decision",
    "hybrid_decision",
    "full_decision",
    "deployment",
)


def jobs_for(dataset: str) -> list[Any]:
    """Asset jobs are resolved by ``Definitions``; their unresolved type is not part of Dagster's public interface."""
    return [_graph_job(dataset), _day_two_job(dataset), _evaluation_job(dataset), _retrain_job(dataset)]


def graph_job_name(dataset: str) -> str:
    return f"{identifier(dataset)}__graph"


def day_two_job_name(dataset: str) -> str:
    return f"{identifier(dataset)}__day_two"


def evaluation_job_name(dataset: str) -> str:
    return f"{identifier(dataset)}__evaluate_experiment"


def retrain_job_name(dataset: str) -> str:
    return f"{identifier(dataset)}__retrain"


def _graph_job(dataset: str) -> Any:
    return dg.define_asset_job(
        graph_job_name(dataset),
        selection=dg.AssetSelection.assets(*(asset_key(dataset, step.name) for step in STEPS)),
        description="The whole graph: what is up to date is not run again.",
        executor_def=dg.in_process_executor,
        tags={"segue/dataset": dataset},
    )


def _shown(context: dg.OpExecutionContext, graph: Graph, dataset: str) -> Callable[[Sequence[str]], None]:
    """Runs steps by name, each a materialization in the op's log."""

    def run_steps(names: Sequence[str]) -> None:
        for name in names:
            outcome = graph.run(dataset, name)
            context.log_event(materialization(graph.workspace(), dataset, outcome))

    return run_steps


@contextmanager
def _in_its_own_words() -> Iterator[None]:
    """What the user can mend stops an op as it stops an asset."""
    try:
        yield
    except SegueError as error:
        raise failure_of(error) from error


def _said(context: dg.OpExecutionContext) -> Callable[[str], None]:
    """Into the op's log, and for whoever started the run in a terminal."""

    def say(message: str) -> None:
        context.log.info(message)
        print(message, file=sys.stderr, flush=True)

    return say


def _day_two_job(dataset: str) -> dg.JobDefinition:
    @dg.op(
        name=f"{identifier(dataset)}__take_in_what_arrived",
        description="Keep what serves, insert, check drift, retrain or keep, refit, bundle, refresh gate, deployment.",
    )
    def take_in(context: dg.OpExecutionContext, graph: Graph) -> str:
        workspace = graph.workspace()
        purpose = "day two under Dagster"
        with _in_its_own_words(), dataset_lock(workspace.state(dataset), purpose=purpose):
            return day_two(
                workspace,
                dataset,
                graph.params(dataset),
                _shown(context, graph, dataset),
                say=_said(context),
            )

    @dg.job(
        name=day_two_job_name(dataset),
        description="The day-two loop over what `segue data append` or the inbox brought.",
        executor_def=dg.in_process_executor,
        tags={"segue/dataset": dataset},
    )
    def job() -> None:
        take_in()

    return job


def _evaluation_job(dataset: str) -> Any:
    """What the running experiment shows by now, the decisions on it, and what they allow. Its inputs are as they were left."""
    return dg.define_asset_job(
        evaluation_job_name(dataset),
        selection=dg.AssetSelection.assets(*(asset_key(dataset, name) for name in EVALUATION)),
        description="Online evidence, decisions, deployment.",
        executor_def=dg.in_process_executor,
        tags={"segue/dataset": dataset},
    )


def _retrain_job(dataset: str) -> dg.JobDefinition:
    @dg.op(
        name=f"{identifier(dataset)}__learn_new_weights",
        description="Keep all that serves but its weights, and run the graph: new ones, measured beside those that they replace.",
    )
    def learn(context: dg.OpExecutionContext, graph: Graph) -> None:
        workspace = graph.workspace()
        purpose = "a retrain under Dagster"
        with _in_its_own_words(), dataset_lock(workspace.state(dataset), purpose=purpose):
            retrain(workspace, dataset, _shown(context, graph, dataset), say=_said(context))

    @dg.job(
        name=retrain_job_name(dataset),
        description="New weights of the same recipe; the refresh gate decides whether they serve.",
        executor_def=dg.in_process_executor,
        tags={"segue/dataset": dataset},
    )
    def job() -> None:
        learn()

    return job
