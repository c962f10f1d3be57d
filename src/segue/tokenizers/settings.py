"""Settings of the codebook and the item map."""

from __future__ import annotations

import math

from pydantic import Field, field_validator

from segue.settings import Settings


class TokenizerSettings(Settings):
    name: str = "residual_kmeans"  # an entry point of segue.tokenizers
    level_sizes: tuple[int, ...] = (64, 32, 32)  # the last level disambiguates
    dimensions: int = Field(96, ge=1)  # of the fused item vectors
    iterations: int = Field(25, ge=1)
    modality_weights: dict[str, float] = Field(
        default_factory=lambda: {"text": 1.0, "attribute": 1.0, "collaborative": 2.0}
    )
    seed: int = Field(17, ge=0, lt=2**31)
    neighbours: int = Field(10, ge=1)  # of the quality report's neighbour agreement

    @field_validator("level_sizes")
    @classmethod
    def _at_least_two_levels(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if len(sizes) < 2 or min(sizes) < 1:
            raise ValueError(
                "level_sizes needs at least two levels (the last one disambiguates), each of 1 code or more"
            )
        if math.prod(sizes) >= 2**62:
            raise ValueError(f"level_sizes {sizes} name more IDs than a 64-bit integer can count")
        return sizes

    @field_validator("modality_weights")
    @classmethod
    def _positive_weights(cls, weights: dict[str, float]) -> dict[str, float]:
        for name, weight in weights.items():
            if not 0 <= weight < float("inf"):
                raise ValueError(
                    f"the weight of modality {name!r} must be finite and not negative, it is {weight}"
                )
        if not any(weight > 0 for weight in weights.values()):
            raise ValueError("at least one modality needs a weight above 0")
        return weights


class DriftSettings(Settings):
    """When the day-two job retrains instead of keeping."""

    max_new_item_share: float = 0.3  # items since the weights were trained: above it, retrain
    max_new_event_share: float = 0.2  # events since the weights were trained: above it, retrain
    max_inserted_share: float = 0.5  # items that the codebook was not fitted on: above it, a new codebook
    max_distance_ratio: float = 1.5  # reconstruction error of inserted items over that of held-out ones
    max_full_prefix_share: float = 0.5  # of the prefixes in use: above it, a new codebook
    min_inserted_items: int = 20  # fewer inserted items than this say nothing about the codebook


class SemanticIdSettings(Settings):
    """The report on the semantic IDs: what it shows, and what it warns of."""

    theme_words: int = Field(6, ge=1)  # keywords of a prefix
    examples: int = Field(3, ge=0)  # items shown of a prefix, the most popular ones of the training part
    page_prefixes: int = Field(1500, ge=1)  # on the page; all are in themes.parquet
    thumbnails: int = Field(60, ge=0)  # pictures on the page
    least_unique_item_rate: float = Field(0.1, ge=0, le=1)  # items alone on their prefix / items
    least_first_level_usage: float = Field(0.5, ge=0, le=1)  # codes in use on the first level / its size
    most_excess_collision_rate: float = Field(0.75, ge=0, le=1)  # (items - prefixes in use) / items
