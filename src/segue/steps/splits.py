"""Step ``splits``: items and events in order, users set aside, train / validation / test."""

from __future__ import annotations

from typing import Any

import polars as pl

from segue.artifacts import read_json, write_json
from segue.data.splits import make_splits
from segue.errors import ArtifactError
from segue.items import ITEMS_FILE
from segue.steps.runner import StepContext


def run(context: StepContext) -> None:
    """Writes items.parquet, interactions.parquet and splits.json. Raises DataError as make_splits does."""
    source = context.inputs["validation"]
    facts: Any = read_json(source / "source.json")
    if not isinstance(facts, dict) or not {"has_timestamps", "ordered"} <= set(facts):
        raise ArtifactError(
            f"{source / 'source.json'} lacks has_timestamps or ordered: run ingest and validation again"
        )
    tables = make_splits(
        pl.read_parquet(source / "interactions.parquet"),
        pl.read_parquet(source / "catalogue.parquet"),
        context.params.splits,
        has_timestamps=bool(facts["has_timestamps"]),
        ordered=bool(facts["ordered"]),
    )
    tables.items.write_parquet(context.output / ITEMS_FILE)
    tables.interactions.write_parquet(context.output / "interactions.parquet")
    write_json(context.output / "splits.json", tables.summary)
    for name in ("users", "items", "interactions", "new_users", "replay_users"):
        context.metrics[name] = tables.summary[name]
    if tables.summary["tied_last_steps"] is not None:
        context.metrics["tied_last_steps"] = tables.summary["tied_last_steps"]
    for protocol, reason in tables.summary["refused"].items():
        if reason is not None:
            context.progress(f"{protocol} is not possible: {reason}")
