"""Step ``sequences``: jagged, memory-mapped event sequences of every group of users."""

from __future__ import annotations

import polars as pl

from segue.data.sequences import from_events
from segue.schema import UserGroup
from segue.steps.runner import StepContext


def run(context: StepContext) -> None:
    """Writes ``regular/``, ``new/`` and ``replay/``, each a saved :class:`segue.data.sequences.Sequences`."""
    events = pl.read_parquet(context.inputs["splits"] / "interactions.parquet")
    for group in UserGroup:
        sequences = from_events(events, group)
        sequences.save(context.output / group.value)
        context.metrics[f"{group.value}_users"] = len(sequences)
        context.metrics[f"{group.value}_events"] = len(sequences.items)
