"""Step ``full_decision``: may the generative path serve everybody?"""

from __future__ import annotations

from segue.migration.decide import DECISION_FILE, Target, write_decision
from segue.migration.gates import gate, gather, read_facts
from segue.steps.registry import EVIDENCE_STEPS
from segue.steps.runner import StepContext


def run(context: StepContext) -> None:
    """Writes ``decision.json``. A HOLD is a step that succeeded."""
    decision = gate(
        Target.FULL,
        gather([context.inputs[name] for name in EVIDENCE_STEPS], context.dataset),
        read_facts(context.inputs["bundle"]),
        context.params.migration,
    )
    write_decision(context.output / DECISION_FILE, decision)
    context.metrics["outcome"] = decision.outcome.value
    context.progress(f"{decision.outcome}: {'; '.join(decision.reasons)}")
