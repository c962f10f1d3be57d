"""What lies in a dataset's folders to be deployed: the bundle, what was measured of it, what was decided about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from segue.bases import REPLACED_MODEL, read_base
from segue.migration.apply import Offer
from segue.migration.decide import DECISION_FILE, Decision, Target, read_decision
from segue.migration.gates import gather, read_facts
from segue.steps.registry import BY_NAME, EVIDENCE_STEPS
from segue.workspace import Workspace

DECISIONS: Final = ("refresh_decision", "pilot_decision", "hybrid_decision", "full_decision")


def read_offer(
    workspace: Workspace, dataset: str, inputs: Mapping[str, Path], told: Callable[[str], None]
) -> Offer:
    """The offer in the folders ``inputs``, by step. ``told`` hears why a decision is passed over.

    Raises ArtifactError where a file is missing or damaged.
    """
    evidence = gather([inputs[name] for name in EVIDENCE_STEPS], dataset)
    return Offer(read_facts(inputs["bundle"]), evidence, decisions_in(workspace, dataset, inputs, told))


def folders(workspace: Workspace, dataset: str) -> dict[str, Path]:
    """The inputs of the step ``deployment``, where they lie now."""
    return {name: workspace.step(dataset, name) for name in BY_NAME["deployment"].inputs}


def decisions_in(
    workspace: Workspace, dataset: str, inputs: Mapping[str, Path], told: Callable[[str], None]
) -> dict[Target, Decision]:
    """By target; a retrain counts only if it was measured beside the model that serves."""
    decisions = {
        decision.target: decision
        for decision in (read_decision(inputs[step] / DECISION_FILE) for step in DECISIONS)
    }
    if Target.REFRESH_RETRAIN in decisions and not _measured_beside_what_serves(
        workspace, dataset, decisions[Target.REFRESH_RETRAIN]
    ):
        told(
            "no retrain: it was measured beside a model that does not serve (any more); `segue day-two` measures it "
            "beside the one that does"
        )
        del decisions[Target.REFRESH_RETRAIN]
    return decisions


def _measured_beside_what_serves(workspace: Workspace, dataset: str, retrain: Decision) -> bool:
    from segue.steps.day_two import served_bundle, served_model

    if retrain.bundle_id == served_bundle(workspace, dataset):
        return True
    # After a retrain was deployed, a further run would measure the next one beside the one before.
    return read_base(workspace, dataset)[REPLACED_MODEL] == served_model(workspace, dataset)
