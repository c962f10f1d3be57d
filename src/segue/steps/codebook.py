"""Step ``codebook``: fit the frozen fusion and quantizers, or hand on the kept ones unchanged."""

from __future__ import annotations

import shutil

from segue.artifacts import MANIFEST, write_json
from segue.data.sequences import Sequences
from segue.encoders.collaborative import consumed_together
from segue.items import Items
from segue.schema import UserGroup
from segue.steps.runner import StepContext
from segue.tokenizers.alignment import Alignment, Pairs
from segue.tokenizers.codebook import Codebook
from segue.tokenizers.embeddings import check_modalities, load_modalities
from segue.tokenizers.quality import codes_quality, heldout_error, plot_usage
from segue.tokenizers.retrieval import cross_modal_recall


def run(context: StepContext) -> None:
    """Writes ``codebook.safetensors``, ``codebook.json`` and ``quality.json``."""
    if (kept := context.kept("codebook")) is not None:
        codebook = Codebook.load(kept)
        shutil.copytree(kept, context.output, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST))
        context.progress(f"kept codebook {codebook.codebook_id[:12]}")
        if (asked := context.params.tokenizer.level_sizes) != codebook.level_sizes:
            context.progress(
                f"it has level sizes {codebook.level_sizes}; tokenizer.level_sizes {asked} are for the next"
            )
        context.metrics["codebook_id"] = codebook.codebook_id
        return
    settings = context.params.tokenizer
    items = Items.load(context.inputs["splits"])
    check_modalities(settings.modality_weights, context.inputs)
    modalities, encoders = load_modalities(context.inputs, items)
    pairs = _pairs(context, len(items)) if settings.fusion == Alignment.name else None
    codebook = Codebook.fit(modalities, encoders, settings, pairs)
    vectors, _ = codebook.fuse(modalities)
    prefixes = codebook.encode(vectors)
    quality = codes_quality(codebook, vectors, prefixes, neighbours=settings.neighbours, seed=settings.seed)
    quality["heldout_error"] = heldout_error(vectors, settings)
    if pairs is not None:
        context.progress("how well a text or a picture finds an item that the alignment never saw")
        quality["retrieval"] = cross_modal_recall(modalities, pairs, settings)
        for name, figures in quality["retrieval"].items():
            context.metrics[f"{name}_recall_at_{figures['k']}"] = round(figures["recall"], 4)
    codebook.save(context.output)
    write_json(context.output / "quality.json", quality)
    plot = context.reports / "codebook_usage.png"
    plot_usage(prefixes, codebook.level_sizes, plot)
    context.record["plots"] = [str(plot)]
    context.metrics["codebook_id"] = codebook.codebook_id
    context.metrics["dimensions"] = codebook.dimensions
    for name in ("unique_rate", "collisions", "reconstruction_error", "neighbour_agreement"):
        context.metrics[name] = quality[name]
    context.progress(
        f"codebook {codebook.codebook_id[:12]}: {len(items)} items on {quality['prefixes_in_use']} prefixes, "
        f"relative reconstruction error {quality['reconstruction_error']:.3f}"
    )


def _pairs(context: StepContext, items: int) -> Pairs:
    """Items that the regular users consumed together in the training part."""
    settings = context.params.tokenizer
    regular = Sequences.load(context.inputs["sequences"] / UserGroup.REGULAR.value)
    return consumed_together(
        regular.training_part(),
        items,
        window=settings.alignment.window,
        count=settings.alignment.pairs,
        seed=settings.seed,
    )
