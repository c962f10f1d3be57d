"""One asset a step, made from the registry, with the dataset as key prefix.

Dagster reads annotations at run time, so this module does not postpone them.
"""

from collections.abc import Iterator

import dagster as dg

from assets.checks import check_results, check_specs
from assets.metadata import outcome_metadata
from assets.resources import Graph
from segue.errors import SegueError
from segue.steps.registry import STEPS, Step
from segue.steps.runner import code_version, read_record


def asset_key(dataset: str, step: str) -> dg.AssetKey:
    return dg.AssetKey([dataset, step])


def group_name(dataset: str, step: Step) -> str:
    """Dagster's group names allow no hyphens."""
    return f"{dataset.replace('-', '_')}__{step.group}"


def failure_of(error: SegueError) -> dg.Failure:
    """What the user can mend stops a run with its message, and no second try."""
    return dg.Failure(description=str(error), allow_retries=False)


def assets_for(dataset: str) -> list[dg.AssetsDefinition]:
    """The whole graph of one dataset."""
    return [_asset(dataset, step) for step in STEPS]


def _asset(dataset: str, step: Step) -> dg.AssetsDefinition:
    @dg.asset(
        key=asset_key(dataset, step.name),
        deps=[asset_key(dataset, name) for name in step.inputs],
        description=step.description,
        group_name=group_name(dataset, step),
        code_version=code_version((*step.code, f"steps.{step.name}"))[:16],
        kinds={"python", step.kind},
        tags={"segue/dataset": dataset, "segue/always": str(step.always).lower()},
        check_specs=check_specs(asset_key(dataset, step.name), step.name),
    )
    def run(
        context: dg.AssetExecutionContext, graph: Graph
    ) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
        workspace = graph.workspace()
        try:
            outcome = graph.run(dataset, step.name)
        except SegueError as error:
            # The check is how the page shows the gate; the failure is what stops the graph.
            yield from check_results(workspace, dataset, step.name, error=error)
            raise failure_of(error) from error
        context.log.info(f"{step.name}: {outcome.status} {outcome.message}")
        record = outcome.record or read_record(workspace, dataset, step.name)
        assert outcome.manifest is not None
        yield dg.MaterializeResult(
            metadata=outcome_metadata(workspace, outcome, record),
            data_version=dg.DataVersion(outcome.manifest.content_sha256),
        )
        yield from check_results(workspace, dataset, step.name)

    return run
