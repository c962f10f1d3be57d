"""Step ``item_map``: every item's semantic ID; revision 1, or the kept map's next revision."""

from __future__ import annotations

from segue.artifacts import write_json
from segue.items import Items
from segue.steps.runner import StepContext
from segue.tokenizers.codebook import Codebook
from segue.tokenizers.embeddings import load_modalities
from segue.tokenizers.item_map import ItemMap
from segue.tokenizers.quality import codes_quality, plot_usage, quality_metrics
from segue.tokenizers.room import room_report


def run(context: StepContext) -> None:
    """Writes the item map with its room and vectors (:meth:`ItemMap.save`), and ``quality.json``."""
    settings = context.params.tokenizer
    items = Items.load(context.inputs["splits"])
    codebook = Codebook.load(context.inputs["codebook"])
    modalities, encoders = load_modalities(context.inputs, items)
    codebook.require_encoders(encoders)
    vectors, present = codebook.fuse(modalities)
    if (kept_folder := context.kept("item_map")) is None:
        item_map = ItemMap.build(codebook, items.ids, vectors, present)
    else:
        kept = ItemMap.load(kept_folder)
        current = set(items.ids)
        gone = [
            item
            for item, out in zip(kept.item_ids, kept.retired, strict=True)
            if not out and item not in current
        ]
        item_map = kept.revise(codebook, items.ids, vectors, present, retire=gone)
    item_map = item_map.align(items)
    item_map.save(context.output)
    active = slice(0, len(items))
    quality = codes_quality(
        codebook,
        item_map.vectors[active],
        item_map.codes[active],
        neighbours=settings.neighbours,
        seed=settings.seed,
    )
    quality["room"] = room_report(codebook, item_map)
    write_json(context.output / "quality.json", quality)
    plot = context.reports / "item_map_usage.png"
    plot_usage(item_map.codes[active], item_map.level_sizes, plot)
    context.record["plots"] = [str(plot)]
    summary = item_map.summary()
    for name in ("item_map_id", "codebook_id", "revision", "items", "inserted", "retired"):
        context.metrics[name] = summary[name]
    context.metrics.update(quality_metrics(quality))
    context.progress(
        f"item map {summary['item_map_id']}: {summary['items']} items, {summary['inserted']} inserted now, "
        f"{summary['retired']} retired"
    )
