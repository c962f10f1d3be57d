"""Step ``codebook``: fit the frozen fusion and quantizers, or hand on the kept ones unchanged."""

from __future__ import annotations

import shutil

from segue.artifacts import MANIFEST, write_json
from segue.items import Items
from segue.steps.runner import StepContext
from segue.tokenizers.codebook import Codebook
from segue.tokenizers.embeddings import load_modalities
from segue.tokenizers.quality import codes_quality, heldout_error, plot_usage


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
    modalities, encoders = load_modalities(context.inputs, items)
    codebook = Codebook.fit(modalities, encoders, settings)
    vectors, _ = codebook.fuse(modalities)
    prefixes = codebook.encode(vectors)
    quality = codes_quality(codebook, vectors, prefixes, neighbours=settings.neighbours, seed=settings.seed)
    quality["heldout_error"] = heldout_error(vectors, settings)
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
