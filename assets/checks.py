"""Asset checks: how the page shows a gate. A failing check of severity ERROR comes with a failing step; a HOLD is a
warning and fails no run, because a decision that says HOLD is a step that succeeded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from segue.artifacts import read_json
from segue.errors import SegueError
from segue.workspace import Workspace

Reading = tuple[bool, str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Gate:
    """A check of one step: ``read`` looks at the finished artifact and says passed, why, and figures."""

    name: str
    description: str
    blocking: bool
    read: Callable[[Path], Reading]


def _validation(folder: Path) -> Reading:
    results: Any = read_json(folder / "results.json")
    failed = [row for row in results["expectations"] if not row["success"]]
    return not failed, f"{len(failed)} of {len(results['expectations'])} expectations failed", {}


def _content(folder: Path) -> Reading:
    report: Any = read_json(folder / "quality.json")
    findings = report["findings"]
    rows = [
        f"| {name} | {entry['items']} | {entry['coverage']:.1%} | {entry['duplicates']['share']:.1%} "
        f"| {entry['near_duplicates']['share']:.1%} |"
        for name, entry in report["modalities"].items()
    ]
    head = ["| modality | items | coverage | the same twice | nearly the same |", "|---|---|---|---|---|"]
    why = "; ".join(f"{finding['modality']}: {finding['told']}" for finding in findings)
    return (
        not findings,
        why or "nothing passes a threshold",
        {"modalities": dg.MetadataValue.md("\n".join(head + rows))},
    )


def _item_map(folder: Path) -> Reading:
    codes = pl.read_parquet(folder / "item_map.parquet", columns=["codes"])["codes"]
    quality: Any = read_json(folder / "quality.json")
    told = f"{len(codes)} items, {codes.n_unique()} semantic IDs; before the last level {quality['unique_rate']:.1%} were unique"
    return codes.n_unique() == len(codes), told, {"prefixes_in_use": int(quality["prefixes_in_use"])}


def _semantic_ids(folder: Path) -> Reading:
    quality: Any = read_json(folder / "quality.json")
    told = [finding["told"] for finding in quality["findings"]]
    figures = {
        "unique_item_rate": float(quality["unique_item_rate"]),
        "first_level_usage": float(quality["levels"][0]["usage"]),
        "excess_collisions": int(quality["excess_collisions"]),
    }
    return not told, "; ".join(told) or "every figure keeps to its threshold", figures


def _serving(folder: Path) -> Reading:
    check: Any = read_json(folder / "check.json")
    bad = int(check["invalid_items"]) + int(check["seen_items"]) + int(check["errors"])
    return bad == 0, f"{check['requests']} requests: {bad} invalid, seen or failed answers", {}


def _decision(folder: Path) -> Reading:
    decision: Any = read_json(folder / "decision.json")
    reasons = "; ".join(decision["reasons"])
    return (
        decision["outcome"] == "PROMOTE",
        f"{decision['outcome']}: {reasons}",
        {
            "outcome": decision["outcome"],
            "reasons": dg.MetadataValue.md("\n".join(f"- {r}" for r in decision["reasons"])),
        },
    )


_GATE = Gate(
    "gate", "What the policy says of the evidence; `deployment` enforces it again, alone.", False, _decision
)

CHECKS: dict[str, Gate] = {
    "validation": Gate("great_expectations", "Every expectation of both suites holds.", True, _validation),
    "content_quality": Gate(
        "content",
        "Coverage, duplicates and unusable pictures keep to the thresholds of `encoders.quality`.",
        False,
        _content,
    ),
    "item_map": Gate("collision_free", "No two active items share a semantic ID.", True, _item_map),
    "semantic_id_report": Gate(
        "semantic_id_quality",
        "Items alone on their prefix, codes in use and collisions keep to the thresholds of `semantic_ids`.",
        False,
        _semantic_ids,
    ),
    "serving_check": Gate("served_lists", "Every answered item is valid and unseen.", False, _serving),
    "pilot_decision": _GATE,
    "hybrid_decision": _GATE,
    "full_decision": _GATE,
    "refresh_decision": _GATE,
}


def check_specs(key: dg.AssetKey, step: str) -> list[dg.AssetCheckSpec]:
    gate = CHECKS.get(step)
    if gate is None:
        return []
    return [dg.AssetCheckSpec(gate.name, asset=key, description=gate.description, blocking=gate.blocking)]


def check_results(
    workspace: Workspace, dataset: str, step: str, *, error: SegueError | None = None
) -> Iterator[dg.AssetCheckResult]:
    """The step's check, evaluated on its artifact; with ``error``, failed with the error's message."""
    gate = CHECKS.get(step)
    if gate is None:
        return
    passed, why, metadata = (False, str(error), {}) if error else gate.read(workspace.step(dataset, step))
    yield dg.AssetCheckResult(
        passed=passed,
        check_name=gate.name,
        asset_key=dg.AssetKey([dataset, step]),
        severity=dg.AssetCheckSeverity.ERROR if gate.blocking else dg.AssetCheckSeverity.WARN,
        description=why,
        metadata=metadata,
    )
