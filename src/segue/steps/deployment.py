"""Step ``deployment``: publish the bundle and apply what decisions and requests allow.

The only step that changes what serves. It acts under the dataset's lock, and never inside a DVC experiment.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from segue.deployed_params import remember
from segue.migration.apply import Deployer
from segue.migration.evidence import Evidence
from segue.migration.ledger import Ledger
from segue.migration.state_machine import StateMachine
from segue.steps.actors import login
from segue.steps.offers import read_offer
from segue.steps.runner import StepContext, read_record

HEADLINE = ("ndcg@10", "recall@10")  # shown beside the version in MLflow


def run(context: StepContext) -> None:
    """Requests first (somebody waits for an answer), then the decisions, then the projection."""
    from segue.registry.bundle import publish
    from segue.registry.mlflow_registry import MlflowRegistry
    from segue.registry.projection import answer_requests, is_behind, project
    from segue.serving.readable import why_unreadable
    from segue.steps.day_two import record_served

    folder = context.inputs["bundle"]
    bundles = context.workspace.bundles(context.dataset)
    offer = read_offer(context.workspace, context.dataset, context.inputs, context.progress)
    facts = offer.bundle
    ledger = Ledger.open(context.workspace, context.dataset)
    try:
        ledger.verify()
        caught_up = (
            ["current.json had fallen behind the ledger and is written again"] if ledger.project() else []
        )
        machine = StateMachine(ledger, context.params.migration, user=login())
        deployer = Deployer(
            machine, offer, moment=lambda: datetime.now(UTC), unreadable=lambda: why_unreadable(folder)
        )
        publish(folder, bundles)
        record_served(context.workspace, context.dataset, facts.bundle_id)
        registry = MlflowRegistry(context.workspace, context.dataset)
        version = registry.register(
            facts.bundle_id, str(bundles), metrics={**_headline(offer.evidence), **_of_semantic_ids(context)}
        )
        if is_behind(machine.state):
            caught_up.append("MLflow's aliases had fallen behind the ledger and follow it again")
        answered = answer_requests(registry, machine, deployer)
        report = deployer.run()
        remember(context.workspace, context.dataset, context.params)
        for request, change in answered:
            report.add(f"alias {request.alias}", change)
        put_back = project(registry, machine)
        current = ledger.current()
    finally:
        ledger.close()
    assert current is not None, "bootstrap comes before deployment"
    # A kill, or a change by hand, came between the ledger and what is written from it: neither is to be silent.
    report.lines.extend(f"reconciled: {line}" for line in caught_up)
    for line in report.lines:
        context.progress(line)
    context.message = report.message
    if answered and not report.changed and put_back:
        # Nothing that serves changed, and yet something was done: it is not to be passed over in silence.
        context.message = "; ".join(["aliases put back", *report.lines])
    context.record["model_version"] = version
    context.receipt = {
        "revision": current.revision,
        "stage": current.stage.value,
        "bundles": list(current.bundles),
        "model_version": version,
    }
    context.metrics["revision"] = current.revision
    context.metrics["stage"] = current.stage.value


def _headline(evidence: Sequence[Evidence]) -> dict[str, float]:
    return {
        f"{item.path_a}/{item.metric}": item.estimate
        for item in evidence
        if item.kind == "offline" and item.slice == "all" and not item.is_difference
        and item.metric in HEADLINE and item.estimate is not None
    }  # fmt: skip


def _of_semantic_ids(context: StepContext) -> dict[str, float]:
    """The figures of the item map's last run: they go to the version's run in MLflow, beside the headline."""
    metrics = read_record(context.workspace, context.dataset, "item_map").get("metrics", {})
    return {
        f"semantic_ids/{name}": value for name, value in metrics.items() if isinstance(value, int | float)
    }
