"""Step ``bootstrap``: revision 1, the incumbent serves everybody before any generative model exists."""

from __future__ import annotations

from segue.migration.gates import read_facts
from segue.migration.ledger import Ledger
from segue.migration.state_machine import StateMachine
from segue.steps.runner import StepContext


def run(context: StepContext) -> None:
    """Acts on an empty ledger only; says "no change" otherwise, before anything heavy is imported."""
    ledger = Ledger.open(context.workspace, context.dataset)
    try:
        ledger.verify()
        current = ledger.current()
        if current is None:
            _deploy(context, ledger)
        else:
            ledger.project()  # a kill between commit and projection is mended here
            context.message = f"no change: revision {current.revision} serves already"
        first = ledger.revisions()[0].deployment
        if read_facts(context.inputs["incumbent_bundle"]).bundle_id == first.champion.bundle:
            _record(context, first.champion.bundle)  # where an older version or a kill left it out
    finally:
        ledger.close()
    # Revision 1 never changes, so neither does the receipt, whatever is deployed later.
    context.receipt = {
        "revision": first.revision,
        "stage": first.stage.value,
        "bundle": first.champion.bundle,
    }
    context.progress(context.message)


def _deploy(context: StepContext, ledger: Ledger) -> None:
    from segue.registry.bundle import publish
    from segue.registry.mlflow_registry import MlflowRegistry
    from segue.registry.projection import project

    folder = context.inputs["incumbent_bundle"]
    bundles = context.workspace.bundles(context.dataset)
    facts = read_facts(folder)
    publish(folder, bundles)
    _record(context, facts.bundle_id)
    registry = MlflowRegistry(context.workspace, context.dataset)
    context.record["model_version"] = registry.register(facts.bundle_id, str(bundles))
    machine = StateMachine(ledger, context.params.migration)
    context.message = machine.bootstrap(facts).message
    project(registry, machine)


def _record(context: StepContext, bundle_id: str) -> None:
    """What day two keeps while, or after a rollback when, this bundle serves."""
    from segue.steps.day_two import INCUMBENT_ALONE, record_served

    record_served(context.workspace, context.dataset, bundle_id, INCUMBENT_ALONE)
