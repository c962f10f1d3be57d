"""Step ``pilot_decision``: may the generative path begin to serve?"""

from __future__ import annotations

from pathlib import Path

from segue.artifacts import read_json
from segue.errors import ArtifactError
from segue.migration.decide import DECISION_FILE, Target, write_decision
from segue.migration.gates import gate, gather, read_facts
from segue.steps.registry import EVIDENCE_STEPS
from segue.steps.runner import StepContext


def run(context: StepContext) -> None:
    """Writes ``decision.json``. A HOLD is a step that succeeded."""
    decision = gate(
        Target.PILOT,
        gather([context.inputs[name] for name in EVIDENCE_STEPS], context.dataset),
        read_facts(context.inputs["bundle"]),
        context.params.migration,
        hold_because=_uneven(context.inputs["offline_evaluation"] / "protocol.json"),
    )
    write_decision(context.output / DECISION_FILE, decision)
    context.metrics["outcome"] = decision.outcome.value
    context.progress(f"{decision.outcome}: {'; '.join(decision.reasons)}")


def _uneven(protocol: Path) -> str | None:
    """Why the comparison is none: a contender that saw newer events than the incumbent wins by that alone."""
    said = read_json(protocol)
    if not isinstance(said, dict) or not isinstance(said.get("trained_on"), dict):
        raise ArtifactError(
            f"{protocol} does not say what the models were trained on: run offline_evaluation again"
        )
    incumbent, contender = said["trained_on"].get("incumbent"), said["trained_on"].get("generative_model")
    if incumbent is not None and incumbent == contender:
        return None
    return (
        "the incumbent and the contender were not trained on the same events, so their difference may be one of "
        "age; `segue keep --nothing` and `segue run` train both"
    )
