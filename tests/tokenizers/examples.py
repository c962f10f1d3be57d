"""Small synthetic catalogues with the modalities that the encoders give."""

from __future__ import annotations

import numpy as np
import polars as pl

from segue.items import Items, ItemVectors
from segue.tokenizers.codebook import Codebook, EncoderIdentity
from segue.tokenizers.settings import TokenizerSettings

ENCODERS = {
    name: EncoderIdentity(name=name, weights_sha256=f"{name}-1") for name in ("text", "collaborative")
}
SMALL = TokenizerSettings(level_sizes=(6, 4, 4), dimensions=6, iterations=8)


def modalities(count: int, *, seed: int = 0, first: int = 0, cold: float = 0.2) -> dict[str, ItemVectors]:
    """Text (8-d) and collaborative (5-d, linear in the text plus noise) vectors of items ``i0000``, …"""
    rng = np.random.default_rng(seed)
    groups = np.random.default_rng(99).normal(size=(7, 8))
    text = groups[rng.integers(0, 7, count)] + 0.4 * rng.normal(size=(count, 8))
    behaviour = text @ np.random.default_rng(98).normal(size=(8, 5)) + 0.1 * rng.normal(size=(count, 5))
    touched = rng.random(count) >= cold
    ids = [f"i{first + row:04d}" for row in range(count)]
    return {
        "text": ItemVectors(text.astype(np.float32), np.ones(count, dtype=bool), ids),
        "collaborative": ItemVectors(
            np.where(touched[:, None], behaviour, 0).astype(np.float32), touched, list(ids)
        ),
    }


def codebook(count: int = 60, settings: TokenizerSettings = SMALL) -> Codebook:
    return Codebook.fit(modalities(count), ENCODERS, settings)


def items(ids: list[str]) -> Items:
    return Items(
        pl.DataFrame(
            {"item_index": range(len(ids)), "item_id": ids, "train_count": [1] * len(ids)},
            schema={"item_index": pl.Int32, "item_id": pl.String, "train_count": pl.Int64},
        )
    )
