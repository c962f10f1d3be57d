"""The identity of a recipe: how a model is made, not which model came out.

Daily items and weekly retrains keep the recipe, so that an experiment's evidence counts on through them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segue.canonical import sha256_of


def recipe_id(
    *,
    generative: Mapping[str, Any],
    codebook_id: str,
    incumbent: Mapping[str, Any] | str,
    rules: Mapping[str, Any],
    features: Mapping[str, Any] | None = None,
) -> str:
    """Hex SHA-256 of everything that makes two experiments the same experiment.

    ``generative``: the resolved model configuration and training settings, after tuning; ``incumbent``: the
    incumbent's configuration with its chosen settings, or its id; ``rules``: what every list obeys;
    ``features``: definitions of the request features that a model reads. Weights, item maps, histories and
    what is re-estimated with the weights (the fusion weight) are no part.
    """
    return sha256_of(
        {
            "generative": dict(generative),
            "codebook_id": codebook_id,
            "incumbent": incumbent if isinstance(incumbent, str) else dict(incumbent),
            "rules": dict(rules),
            "features": dict(features or {}),
        }
    )
