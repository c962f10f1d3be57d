"""Step ``content_quality``: who has content, what is the same twice or nearly, blank, short or broken."""

from __future__ import annotations

import polars as pl

from segue.artifacts import write_json
from segue.encoders.image_cache import PICTURES_FILE
from segue.encoders.quality import content_quality
from segue.encoders.text import item_texts
from segue.errors import ArtifactError
from segue.items import Items, ItemVectors
from segue.reporting.content_page import write_content_page
from segue.steps.runner import StepContext

MODALITIES = ("text", "image", "attribute", "collaborative")


def run(context: StepContext) -> None:
    """Writes ``quality.json``; the page goes to the reports as ``content.html``."""
    items = Items.load(context.inputs["splits"])
    folders = {name: context.inputs[f"{name}_embeddings"] for name in MODALITIES}
    modalities = {name: ItemVectors.load(folder) for name, folder in folders.items()}
    for name, vectors in modalities.items():
        if vectors.item_ids != items.ids:
            raise ArtifactError(
                f"{folders[name]} has vectors of other items than the splits: run the step {name}_embeddings again"
            )
    report = content_quality(
        modalities,
        texts=item_texts(items.table),
        pictures=pl.read_parquet(folders["image"] / PICTURES_FILE),
        settings=context.params.encoders.quality,
        seed=context.params.encoders.seed,
    )
    write_json(context.output / "quality.json", report)
    page = write_content_page(
        context.reports, report, dataset=context.dataset, title=context.params.data.title or context.dataset
    )
    context.record["plots"] = [str(page)]
    for name, entry in report["modalities"].items():
        context.metrics[f"{name}_coverage"] = entry["coverage"]
        if entry["items"]:
            context.metrics[f"{name}_duplicate_share"] = entry["duplicates"]["share"]
            context.metrics[f"{name}_near_duplicate_share"] = entry["near_duplicates"]["share"]
    context.metrics["findings"] = len(report["findings"])
    for finding in report["findings"]:
        context.progress(f"{finding['modality']}: {finding['told']}")
