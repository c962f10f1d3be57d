"""What was measured here: readiness, the pilot's evidence, the serving check, run records, and what has been served."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from segue.artifacts import read_json
from segue.errors import ArtifactError
from segue.migration.decide import DECISION_FILE, Decision, read_decision
from segue.migration.ledger import Ledger
from segue.migration.settings import MigrationSettings
from segue.params import Params
from segue.schema import Stage
from segue.serving.store import open_store, store_exists
from segue.workspace import Workspace

TRAINING_STEPS: Final = ("incumbent", "incumbent_refit", "tuning", "generative_model", "refit")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Null or empty: never measured here. ``records``: the last run record of every step that trains. ``exposures``: lists
    that the online store knows and no replay asked for; ``feedback`` likewise.
    ``taken_over``: steps that trained nothing in their last run, by the step whose weights they took."""

    settings: MigrationSettings
    readiness: Mapping[str, Any] | None = None
    pilot: Decision | None = None
    check: Mapping[str, Any] | None = None
    records: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    taken_over: Mapping[str, str] = field(default_factory=dict)
    stage: Stage | None = None
    rollbacks: int = 0
    exposures: int = 0
    feedback: int = 0


def gather_facts(workspace: Workspace, dataset: str, params: Params) -> Facts:
    """Raises ArtifactError where a file is damaged, StateError where the ledger was tampered with."""
    data = workspace.data(dataset)
    pilot = data / "pilot_decision" / DECISION_FILE
    ledger = Ledger.open(workspace, dataset)
    try:
        ledger.verify()
        revisions = ledger.revisions()
    finally:
        ledger.close()
    counts = {"exposures": 0, "feedback": 0}
    if store_exists(workspace, dataset):
        store = open_store(workspace, dataset)
        try:
            counts = store.genuine_counts()  # a replay shows that the chain works, not that there is a public
        finally:
            store.close()
    training = _optional(data / "generative_model" / "training.json") or {}
    return Facts(
        settings=params.migration,
        readiness=_optional(data / "readiness" / "readiness.json"),
        pilot=read_decision(pilot) if pilot.is_file() else None,
        check=_optional(data / "serving_check" / "check.json"),
        records={
            step: record
            for step in TRAINING_STEPS
            if (record := _optional(workspace.run_record(dataset, step))) is not None
        },
        taken_over={"generative_model": "tuning"} if training.get("from_trial") else {},
        stage=revisions[-1].deployment.stage if revisions else None,
        rollbacks=sum(revision.event == "rollback" for revision in revisions),
        exposures=counts["exposures"],
        feedback=counts["feedback"],
    )


def _optional(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    value = read_json(path)
    if not isinstance(value, dict):
        raise ArtifactError(f"{path} must hold a JSON object: run the step that writes it again")
    return value
