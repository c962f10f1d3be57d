"""Settings of the codebook and the item map."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from segue.settings import Settings


class BalanceSettings(Settings):
    """Of the tokenizer balanced_residual_kmeans."""

    slack: float = Field(
        0.1, ge=0, le=10
    )  # a code takes at most (1 + slack) times its even share of the items
    rounds: int = Field(4, ge=1)  # of sharing out evenly and moving the centroids


class RqVaeSettings(Settings):
    """Of the tokenizer rqvae."""

    latent: int = Field(32, ge=1)  # dimensions that are quantized
    hidden: tuple[int, ...] = (128, 64)  # of the encoder; the decoder is its mirror image
    commitment: float = Field(0.25, ge=0)
    epochs: int = Field(200, ge=1)
    patience: int = Field(20, ge=1)  # epochs without a lower held-out error
    batch_size: int = Field(1024, ge=1)
    learning_rate: float = Field(0.001, gt=0)
    sinkhorn: bool = False  # even use of the last quantized level while fitting
    sinkhorn_epsilon: float = Field(
        0.05, gt=0
    )  # in mean squared distances: smaller is nearer to the cheapest
    sinkhorn_iterations: int = Field(50, ge=1)


class AlignmentSettings(Settings):
    """Of the fusion contrastive (see :mod:`segue.tokenizers.alignment`)."""

    steps: int = Field(800, ge=1)
    batch_size: int = Field(512, ge=2)  # pairs of items; the others of the batch are the negatives
    temperature: float = Field(0.07, gt=0)
    learning_rate: float = Field(0.003, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    modality_dropout: float = Field(0.5, ge=0, lt=1)
    self_pair_share: float = Field(0.25, ge=0, le=1)  # of a batch: an item beside itself
    pairs: int = Field(200_000, ge=1)  # drawn from the training part
    window: int = Field(10, ge=1)  # events between the two items of a pair, at most


class TokenizerSettings(Settings):
    name: str = "residual_kmeans"  # an entry point of segue.tokenizers
    level_sizes: tuple[int, ...] = (64, 32, 32)  # the last level disambiguates
    # concat_pca: modalities side by side, projected on their principal axes. contrastive: one space learnt from
    # which items are consumed together.
    fusion: Literal["concat_pca", "contrastive"] = "concat_pca"
    alignment: AlignmentSettings = AlignmentSettings()
    dimensions: int = Field(96, ge=1)  # of the fused item vectors
    iterations: int = Field(25, ge=1)
    modality_weights: dict[str, float] = Field(
        default_factory=lambda: {"text": 1.0, "image": 1.0, "attribute": 1.0, "collaborative": 2.0}
    )
    seed: int = Field(17, ge=0, lt=2**31)
    neighbours: int = Field(10, ge=1)  # of the quality report's neighbour agreement
    # extra_level: a prefix is shared by as many items as the last level has codes. reassign: by prefix_capacity at
    # most; the items beyond it go to the nearest prefix with room, and the model hardly needs the last level.
    collisions: Literal["extra_level", "reassign"] = "extra_level"
    prefix_capacity: int | None = Field(None, ge=1)  # of reassign
    balance: BalanceSettings = BalanceSettings()
    rqvae: RqVaeSettings = RqVaeSettings()

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

    @model_validator(mode="after")
    def _capacity_of_reassignment(self) -> Self:
        if self.collisions == "reassign" and self.prefix_capacity is None:
            raise ValueError(
                "collisions: reassign needs a prefix_capacity: how many items may share a prefix"
            )
        if self.collisions == "extra_level" and self.prefix_capacity is not None:
            raise ValueError(
                "prefix_capacity belongs to collisions: reassign; extra_level uses the last level"
            )
        if self.prefix_capacity is not None and self.prefix_capacity > self.level_sizes[-1]:
            raise ValueError(
                f"prefix_capacity {self.prefix_capacity} is more than the last level's {self.level_sizes[-1]} codes"
            )
        return self


class DriftSettings(Settings):
    """When the day-two job retrains instead of keeping."""

    max_new_item_share: float = Field(0.3, ge=0)  # items since the weights were trained: above it, retrain
    max_new_event_share: float = Field(0.2, ge=0)  # events since the weights were trained: above it, retrain
    max_inserted_share: float = Field(
        0.5, ge=0
    )  # items that the codebook was not fitted on: above it, a new codebook
    max_distance_ratio: float = Field(
        1.5, gt=0
    )  # reconstruction error of inserted items over that of held-out ones
    max_full_prefix_share: float = Field(0.5, ge=0)  # of the prefixes in use: above it, a new codebook
    min_inserted_items: int = Field(20, ge=0)  # fewer inserted items than this say nothing about the codebook


class SemanticIdSettings(Settings):
    """The report on the semantic IDs: what it shows, and what it warns of."""

    theme_words: int = Field(6, ge=1)  # keywords of a prefix
    examples: int = Field(3, ge=0)  # items shown of a prefix, the most popular ones of the training part
    page_prefixes: int = Field(1500, ge=1)  # on the page; all are in themes.parquet
    thumbnails: int = Field(60, ge=0)  # pictures on the page
    least_unique_item_rate: float = Field(0.1, ge=0, le=1)  # items alone on their prefix / items
    least_first_level_usage: float = Field(0.5, ge=0, le=1)  # codes in use on the first level / its size
    most_excess_collision_rate: float = Field(0.75, ge=0, le=1)  # (items - prefixes in use) / items
