"""Step ``drift``: how far the new data is from what is kept."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from segue.artifacts import read_json, write_json
from segue.errors import ArtifactError
from segue.items import Items
from segue.steps.runner import StepContext
from segue.tokenizers.codebook import Codebook
from segue.tokenizers.drift import drift_report, nothing_kept
from segue.tokenizers.item_map import ItemMap


def run(context: StepContext) -> None:
    """Writes ``drift.json``: kept, verdict, reasons, figures, thresholds."""
    settings = context.params.drift
    kept = {name: context.kept(name) for name in ("splits", "codebook", "item_map")}
    kept_splits, kept_map = kept["splits"], kept["item_map"]
    if kept_splits is None or kept_map is None or kept["codebook"] is None:
        report = nothing_kept([name for name, folder in kept.items() if folder is None], settings)
    else:
        path = context.inputs["codebook"] / "quality.json"
        quality = read_json(path)
        if not isinstance(quality, dict) or "heldout_error" not in quality:
            raise ArtifactError(f"{path} is damaged: make the codebook again")
        report = drift_report(
            codebook=Codebook.load(context.inputs["codebook"]),
            current=ItemMap.load(context.inputs["item_map"]),
            kept=ItemMap.load(kept_map),
            trained_items=Items.load(kept_splits).ids,
            events=_events(context.inputs["splits"]),
            kept_events=_events(kept_splits),
            heldout_error=quality["heldout_error"],
            settings=settings,
        )
    write_json(context.output / "drift.json", report)
    context.metrics["verdict"] = report["verdict"]
    context.metrics.update({name: value for name, value in report["figures"].items() if value is not None})
    context.progress(f"{report['verdict']} ({'; '.join(report['reasons'])})")


def _events(splits: Path) -> int:
    return int(pl.scan_parquet(splits / "interactions.parquet").select(pl.len()).collect().item())
