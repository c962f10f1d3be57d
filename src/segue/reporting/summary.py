"""``reports/<dataset>/summary.json``: what a run came to, for machines; and what the migration page shows
beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segue.artifacts import read_json, write_json
from segue.migration.decide import DECISION_FILE, Decision, read_decision
from segue.migration.deployment import CURRENT_FILE, Deployment, read_current
from segue.migration.evidence import EVIDENCE_FILE, Evidence, read_evidence

SUMMARY_FILE = "summary.json"
DECISIONS = ("pilot", "hybrid", "full", "refresh")


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """Everything that the pages show."""

    summary: dict[str, Any]
    decisions: dict[str, Decision]
    deployment: Deployment | None  # None: nothing is deployed
    readiness: dict[str, Any]
    quality: dict[str, Any]  # of the semantic IDs
    item_map: dict[str, Any]
    drift: dict[str, Any]
    serving: list[Evidence]
    protocol: dict[str, Any]
    test_reads: int


def gather(
    inputs: Mapping[str, Path], *, deployments: Path, records: Mapping[str, Mapping[str, Any]]
) -> Gathered:
    """Read the artifacts ``inputs`` (by step) and the current document in ``deployments``, if any.

    ``records``: the last run record of each step, in the order in which their times are to be shown. Raises
    ArtifactError where a file is missing or damaged.
    """
    protocol = _mapping(inputs["offline_evaluation"] / "protocol.json")
    decisions = {name: read_decision(inputs[f"{name}_decision"] / DECISION_FILE) for name in DECISIONS}
    current = deployments / CURRENT_FILE
    deployment = read_current(current).deployment if current.is_file() else None
    contenders = _mapping(inputs["offline_evaluation"] / "contenders.json")
    split, k = protocol["split"], protocol["headline_cutoff"]
    summary = {
        "dataset": {
            name: split[name]
            for name in ("users", "items", "interactions", "new_users", "replay_users", "tied_last_steps")
        },
        "contenders": {
            name: {metric: figures[metric] for metric in (f"recall@{k}", f"ndcg@{k}")}
            for name, figures in contenders.items()
        },
        "decisions": {
            name: {
                "outcome": decision.outcome.value,
                "reasons": list(decision.reasons),
                "sha256": decision.sha256,
            }
            for name, decision in decisions.items()
        },
        "deployment": {
            "revision": None if deployment is None else deployment.revision,
            "stage": None if deployment is None else deployment.stage.value,
        },
        "bundle": _mapping(inputs["bundle"] / "bundle.json")["bundle_id"],
        "model_version": records.get("deployment", {}).get("model_version"),
        "bento_tag": _mapping(inputs["bento"] / "bento.json")["tag"],
        "seconds": seconds_by_step(records),
    }
    return Gathered(
        summary=summary,
        decisions=decisions,
        deployment=deployment,
        readiness=_mapping(inputs["readiness"] / "readiness.json"),
        quality=_mapping(inputs["item_map"] / "quality.json"),
        item_map=_mapping(inputs["item_map"] / "item_map.json"),
        drift=_mapping(inputs["drift"] / "drift.json"),
        serving=[
            item
            for step in ("refit_check", "serving_check")
            for item in read_evidence(inputs[step] / EVIDENCE_FILE)
        ],
        protocol=protocol,
        test_reads=int(records.get("offline_evaluation", {}).get("test_reads_in_all", 0)),
    )


def seconds_by_step(records: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """How long the last real run of each step took; the summary, which is still running, is left out."""
    return {
        name: float(record["seconds"])
        for name, record in records.items()
        if name != "summary" and "seconds" in record
    }


def write_summary(reports: Path, summary: Mapping[str, Any]) -> bool:
    """Write ``summary.json``. Returns whether it differs from what was there."""
    path = reports / SUMMARY_FILE
    if path.is_file() and read_json(path) == summary:
        return False
    write_json(path, summary)
    return True


def _mapping(path: Path) -> dict[str, Any]:
    value = read_json(path)
    assert isinstance(value, dict)
    return value
