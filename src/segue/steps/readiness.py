"""Step ``readiness``: what the data can carry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from segue.artifacts import read_json, write_json
from segue.data.readiness import readiness, sequence_lengths
from segue.items import Items
from segue.schema import Split
from segue.steps.runner import StepContext


def run(context: StepContext) -> None:
    """Writes ``readiness.json``; the plot goes to the reports as ``readiness.png``."""
    folder = context.inputs["splits"]
    items = Items.load(folder)
    events = pl.read_parquet(folder / "interactions.parquet")
    splits: Any = read_json(folder / "splits.json")
    report = readiness(items.table, events, splits, confidence=context.params.evaluation.confidence)
    write_json(context.output / "readiness.json", report)

    plot = context.reports / "readiness.png"
    _plot(plot, context.params.data.title or context.dataset, events, len(items))
    context.record["plots"] = [str(plot)]
    context.record["test_reads"] = 1  # the cold share of the test targets is counted, no model is judged
    context.metrics["median_sequence_length"] = report["sequence_length"]["quantiles"]["0.5"]
    context.metrics["density"] = report["size"]["density"]
    context.metrics["cold_item_share"] = report["cold"]["item_share"]
    for name, value in report["detectable"]["metrics"].items():
        if value["difference"] is not None:
            context.metrics[f"detectable_{name.replace('@', '_at_')}"] = value["difference"]


def _plot(path: Path, title: str, events: pl.DataFrame, items: int) -> None:
    """Sequence lengths as a histogram, and events by item from the most to the least popular."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lengths = sequence_lengths(events)
    popularity = np.bincount(events[Split.ITEM_INDEX].to_numpy(), minlength=items)
    popularity = np.sort(popularity[popularity > 0])[::-1]
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    left.hist(lengths, bins=np.unique(np.geomspace(1, lengths.max() + 1, 40).astype(int)), color="#4477aa")
    left.axvline(float(np.median(lengths)), color="#cc6677", label=f"median {np.median(lengths):g}")
    left.set(xscale="log", xlabel="events of a user", ylabel="users", title="Sequence length")
    left.legend(frameon=False)
    right.plot(np.arange(1, len(popularity) + 1), popularity, color="#4477aa")
    right.set(xscale="log", yscale="log", xlabel="rank of the item", ylabel="events", title="Item popularity")
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
