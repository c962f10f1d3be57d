"""The embedding steps' artifacts, as the codebook and the item map read them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from segue.errors import ArtifactError, ConfigurationError
from segue.items import Items, ItemVectors
from segue.tokenizers.codebook import EncoderIdentity

SUFFIX = "_embeddings"


def load_modalities(
    inputs: Mapping[str, Path], items: Items
) -> tuple[dict[str, ItemVectors], dict[str, EncoderIdentity]]:
    """Every input called ``<modality>_embeddings``, by modality, with the encoder that made it.

    Raises ArtifactError where vectors are not of exactly these items in this order.
    """
    modalities: dict[str, ItemVectors] = {}
    encoders: dict[str, EncoderIdentity] = {}
    for step, folder in inputs.items():
        if step.endswith(SUFFIX):
            name = step.removesuffix(SUFFIX)
            modalities[name] = ItemVectors.load(folder)
            encoders[name] = EncoderIdentity.load(folder)
            if modalities[name].item_ids != items.ids:
                raise ArtifactError(
                    f"{folder} has vectors of other items than the splits: run the step {step} again"
                )
    return modalities, encoders


def check_modalities(weights: Mapping[str, float], steps: Iterable[str], *, where: str = "tokenizer") -> None:
    """Raises ConfigurationError where the ``modality_weights`` of ``where`` give a weight above 0 to a modality that none of
    ``steps`` (called ``<modality>_embeddings``) makes."""
    known = sorted(step.removesuffix(SUFFIX) for step in steps if step.endswith(SUFFIX))
    for name, weight in weights.items():
        if weight > 0 and name not in known:
            raise ConfigurationError(
                f"{where}.modality_weights.{name}: there is no modality {name!r}; known: {', '.join(known)}"
            )
