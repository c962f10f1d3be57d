"""Step ``sequences``: jagged, memory-mapped event sequences of every group of users."""

from __future__ import annotations

import polars as pl

from segue.data.context import Vocabulary
from segue.data.sequences import from_events
from segue.schema import Part, Split, UserGroup
from segue.steps.runner import StepContext


def run(context: StepContext) -> None:
    """Writes ``regular/``, ``new/`` and ``replay/``, each a saved :class:`segue.data.sequences.Sequences`.

    The vocabulary of declared context features is that of the regular users' training part, in all three."""
    events = pl.read_parquet(context.inputs["splits"] / "interactions.parquet")
    vocabulary = None
    if features := context.params.data.context:
        training = events.filter(
            (pl.col(Split.GROUP) == UserGroup.REGULAR.value) & (pl.col(Split.PART) == Part.TRAIN.value)
        )
        vocabulary = Vocabulary.fit(features, training)
        context.metrics["context_values"] = sum(vocabulary.sizes) - len(vocabulary.sizes)
    for group in UserGroup:
        sequences = from_events(events, group, vocabulary)
        sequences.save(context.output / group.value)
        context.metrics[f"{group.value}_users"] = len(sequences)
        context.metrics[f"{group.value}_events"] = len(sequences.items)
