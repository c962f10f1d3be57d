"""Step ``deployment``: publish the bundle and apply what decisions and requests allow.

The only step that changes what serves. It acts under the dataset's lock, and never inside a DVC experiment.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from segue.bases import REPLACED_MODEL, read_base
from segue.migration.apply import Deployer, Offer
from segue.migration.decide import DECISION_FILE, Decision, Target, read_decision
from segue.migration.evidence import Evidence
from segue.migration.gates import gather, read_facts
from segue.migration.ledger import Ledger
from segue.migration.state_machine import StateMachine
from segue.steps.registry import EVIDENCE_STEPS
from segue.steps.runner import StepContext, read_record

DECISIONS = ("refresh_decision", "pilot_decision", "hybrid_decision", "full_decision")
HEADLINE = ("ndcg@10", "recall@10")  # shown beside the version in MLflow


def run(context: StepContext) -> None:
    """Requests first (somebody waits for an answer), then the decisions, then the projection."""
    from segue.registry.bundle import publish
    from segue.registry.mlflow_registry import MlflowRegistry
    from segue.registry.projection import answer_requests, project
    from segue.steps.day_two import record_served

    folder = context.inputs["bundle"]
    bundles = context.workspace.bundles(context.dataset)
    facts = read_facts(folder)
    evidence = gather([context.inputs[name] for name in EVIDENCE_STEPS])
    ledger = Ledger.open(context.workspace, context.dataset)
    try:
        ledger.verify()
        ledger.project()
        machine = StateMachine(ledger, context.params.migration)
        deployer = Deployer(
            machine, Offer(facts, evidence, _decisions(context)), moment=lambda: datetime.now(UTC)
        )
        publish(folder, bundles)
        record_served(context.workspace, context.dataset, facts.bundle_id)
        registry = MlflowRegistry(context.workspace, context.dataset)
        version = registry.register(
            facts.bundle_id, str(bundles), metrics={**_headline(evidence), **_of_semantic_ids(context)}
        )
        answered = answer_requests(registry, machine, deployer)
        report = deployer.run()
        for request, change in answered:
            report.add(f"alias {request.alias}", change)
        put_back = project(registry, machine)
        current = ledger.current()
    finally:
        ledger.close()
    assert current is not None, "bootstrap comes before deployment"
    for line in report.lines:
        context.progress(line)
    context.receipt = {"revision": current.revision, "stage": str(current.stage)}
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


def _decisions(context: StepContext) -> dict[Target, Decision]:
    from segue.steps.day_two import served_bundle, served_model

    found = [read_decision(Path(context.inputs[step]) / DECISION_FILE) for step in DECISIONS]
    decisions = {decision.target: decision for decision in found}
    retrain = decisions.get(Target.REFRESH_RETRAIN)
    if retrain is None or retrain.bundle_id == served_bundle(context.workspace, context.dataset):
        return decisions
    beside = read_base(context.workspace, context.dataset)[REPLACED_MODEL]
    if beside != served_model(context.workspace, context.dataset):
        # After a retrain was deployed, a further run would measure the next one beside the one before.
        context.progress(
            "no retrain: it was measured beside a model that does not serve (any more); `segue day-two` measures it "
            "beside the one that does"
        )
        del decisions[Target.REFRESH_RETRAIN]
    return decisions


def _headline(evidence: list[Evidence]) -> dict[str, float]:
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
