"""Step ``collaborative_embeddings``: a vector for every item from who consumed it with what."""

from __future__ import annotations

import shutil

from segue.artifacts import write_json
from segue.canonical import sha256_of, sha256_of_file
from segue.data.sequences import Sequences
from segue.encoders.collaborative import carried_over, told_by_company
from segue.errors import ArtifactError
from segue.items import Items, ItemVectors
from segue.schema import UserGroup
from segue.steps.runner import StepContext

ENCODER = "encoder.json"


def run(context: StepContext) -> None:
    """Writes ItemVectors and ``encoder.json``. Only the regular users' training part is read.

    Where the base keeps an earlier artifact, its items keep their vectors and new items are absent (the
    codebook imputes them from their content), because two factorizations do not share a space.
    """
    items = Items.load(context.inputs["splits"])
    kept = context.kept("collaborative_embeddings")
    if kept is not None:
        if not (kept / ENCODER).is_file():
            raise ArtifactError(f"{kept / ENCODER} is missing: keep collaborative_embeddings again")
        vectors = carried_over(ItemVectors.load(kept), items.ids)
        vectors.save(context.output)
        shutil.copyfile(kept / ENCODER, context.output / ENCODER)
    else:
        settings = context.params.encoders
        training = Sequences.load(context.inputs["sequences"] / UserGroup.REGULAR.value).training_part()
        vectors = told_by_company(training, items.ids, settings)
        vectors.save(context.output)
        files = (ItemVectors.FILE, ItemVectors.IDS)
        write_json(
            context.output / ENCODER,
            {
                "name": "sppmi_svd",
                "kind": "collaborative",
                "weights_sha256": sha256_of({name: sha256_of_file(context.output / name) for name in files}),
                "dimensions": settings.collaborative_dimensions,
                "window": settings.collaborative_window,
                "shift": settings.collaborative_shift,
            },
        )
    context.metrics["items_without_training_pairs"] = int((~vectors.present).sum())
