"""Step ``semantic_id_report``: what the semantic IDs say, for people: quality, themes and the page."""

from __future__ import annotations

import numpy as np
import polars as pl

from segue.artifacts import read_json, write_json
from segue.data.images import named_images
from segue.data.sequences import Sequences
from segue.encoders.collaborative import cooccurrences
from segue.errors import ArtifactError
from segue.items import Items
from segue.reporting.semantic_ids_page import write_semantic_ids_page
from segue.schema import Catalogue, UserGroup
from segue.steps.runner import StepContext
from segue.tokenizers.agreement import co_consumption, prefix_groups
from segue.tokenizers.item_map import ItemMap
from segue.tokenizers.quality_check import findings
from segue.tokenizers.themes import TABLE, prefix_themes


def run(context: StepContext) -> None:
    """Writes ``quality.json`` (the item map's, with co-consumption, use of each code and findings) and
    ``themes.parquet``; the page goes to the reports. Only the regular users' training part is read.
    """
    settings = context.params.semantic_ids
    items = Items.load(context.inputs["splits"])
    item_map = ItemMap.load(context.inputs["item_map"])
    codes = item_map.align(items).codes[: len(items)]
    path = context.inputs["item_map"] / "quality.json"
    quality = read_json(path)
    if not isinstance(quality, dict) or "room" not in quality:
        raise ArtifactError(f"{path} is damaged: run the step item_map again")
    training = Sequences.load(context.inputs["sequences"] / UserGroup.REGULAR.value).training_part()
    together = cooccurrences(training, len(items), context.params.encoders.collaborative_window)
    quality["item_map_id"] = item_map.item_map_id
    quality["co_consumption"] = co_consumption(together, prefix_groups(codes[:, :-1]))
    quality["items_per_code"] = [
        np.sort(np.bincount(codes[:, level], minlength=size))[::-1].tolist()
        for level, size in enumerate(item_map.level_sizes)
    ]
    quality["findings"] = findings(quality, settings)
    write_json(context.output / "quality.json", quality)
    named = pl.Series(Catalogue.IMAGE, named_images(items.table, context.params.data), dtype=pl.String)
    themes = prefix_themes(
        items.table.with_columns(named),
        codes,
        item_map.level_sizes,
        words=settings.theme_words,
        examples=settings.examples,
    )
    themes.write_parquet(context.output / TABLE)
    page = write_semantic_ids_page(
        context.reports,
        context.output,
        dataset=context.dataset,
        params=context.params,
        workspace=context.workspace,
    )
    context.record["plots"] = [str(page)]
    context.metrics["prefixes"] = themes.height
    context.metrics["findings"] = len(quality["findings"])
    for name in ("unique_item_rate", "excess_collisions"):
        context.metrics[name] = quality[name]
    for kind in ("by_depth", "by_chance"):
        for depth, value in enumerate(quality["co_consumption"][kind], start=1):
            if value is not None:
                context.metrics[f"co_consumption_{kind}_{depth}"] = value
    context.progress(f"wrote {page}")
    for finding in quality["findings"]:
        context.progress(f"warning: {finding['told']}")
