"""Step ``text_embeddings``: a vector for every item's text."""

from __future__ import annotations

import numpy as np

from segue.artifacts import write_json
from segue.canonical import sha256_of
from segue.encoders.cache import encode_cached
from segue.encoders.registry import text_encoder
from segue.encoders.text import TEMPLATE, item_texts
from segue.items import Items, ItemVectors
from segue.steps.runner import StepContext


def run(context: StepContext) -> None:
    """Writes ItemVectors and ``encoder.json``. An item without any text is absent, its vector zero.

    Vectors are cached by text under ``state/<dataset>/cache/text``, so that only new texts are encoded.
    """
    items = Items.load(context.inputs["splits"])
    settings = context.params.encoders
    encoder = text_encoder(settings)
    texts = item_texts(items.table)
    present = np.array([bool(text) for text in texts], dtype=bool)
    # The settings that decide a vector are in the name: another length or batch shape is another cache.
    key = sha256_of([encoder.weights_sha256, settings.text_max_tokens, settings.text_batch_size])
    cache = context.workspace.state(context.dataset) / "cache" / "text" / f"{key}.parquet"
    found, encoded = encode_cached(encoder, [text for text in texts if text], cache, context.progress)
    vectors = np.zeros((len(items), encoder.dimensions), dtype=np.float32)
    vectors[present] = found
    ItemVectors(vectors=vectors, present=present, item_ids=items.ids).save(context.output)
    write_json(
        context.output / "encoder.json",
        {
            "name": encoder.name,
            "kind": "text",
            "weights_sha256": encoder.weights_sha256,
            "dimensions": encoder.dimensions,
            "template": TEMPLATE,
            "max_tokens": settings.text_max_tokens,
        },
    )
    context.record["texts_encoded"] = encoded
    context.metrics["items_without_text"] = int((~present).sum())
