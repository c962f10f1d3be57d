"""Step ``refresh_decision``: may the new bundle take the place of the one that serves, at the same stage?"""

from __future__ import annotations

from segue.artifacts import read_json
from segue.errors import ArtifactError
from segue.migration.decide import DECISION_FILE, write_decision
from segue.migration.gates import gate, gather, read_facts, refresh_class
from segue.steps.registry import EVIDENCE_STEPS
from segue.steps.runner import StepContext


def run(context: StepContext) -> None:
    """Writes ``decision.json``; its target says of which class the refresh is. What is kept decides that.

    The drift report is told among the reasons, without any weight: the day-two loop has acted on it already,
    by what it kept.
    """
    path = context.inputs["drift"] / "drift.json"
    drift = read_json(path)
    if not isinstance(drift, dict) or "verdict" not in drift:
        raise ArtifactError(f"{path} has no verdict: run the step drift again")
    target, hold_because = refresh_class(context.base)
    decision = gate(
        target,
        gather([context.inputs[name] for name in EVIDENCE_STEPS], context.dataset),
        read_facts(context.inputs["bundle"]),
        context.params.migration,
        notes=[f"drift says: {drift['verdict']}"],
        hold_because=hold_because,
    )
    write_decision(context.output / DECISION_FILE, decision)
    context.metrics["outcome"] = decision.outcome.value
    context.metrics["class"] = target.value
    context.progress(f"{target} {decision.outcome}: {'; '.join(decision.reasons)}")
