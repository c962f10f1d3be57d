"""Settings of the generative model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from segue.settings import HOW_TRAINING_RUNS, Settings

# What the house model's towers read, HSTU's among them, and no model without such towers.
OF_TOWERS = frozenset(
    {
        "code_tower",
        "code_tower_scores",
        "dense_tower",
        "pooled_tower",
        "pooled_temperature",
        "pooled_rate",
        "pooled_identity_dropout",
        "content_scale",
        "identity_dropout",
    }
)


class TigerSettings(Settings):
    """What TIGER has and the others have not."""

    targets: int = Field(4, ge=1)  # events of a history that a training step predicts, drawn anew each step
    user_tokens: int = Field(
        0, ge=0
    )  # that users are hashed to; 0: none, and users leave no trace in the weights
    relative_buckets: int = Field(32, ge=8)  # of the distance between two tokens
    relative_distance: int = Field(128, ge=8)  # tokens; farther ones share the last bucket


class HstuSettings(Settings):
    """What HSTU has and the others have not."""

    interleaved: bool = (
        False  # whether what is known of past events has a position of its own behind its item
    )

    ranking_weight: float = Field(0.0, ge=0)  # of the target-aware ranking loss; 0: no such head
    ranking_targets: int = Field(8, ge=1)  # events of a history that it is computed for, drawn anew each step
    ranking_negatives: int = Field(32, ge=1)  # drawn from the catalogue, beside the target


class CobraSettings(Settings):
    """What COBRA has and the others have not."""

    tau: float = Field(1.0, gt=0)  # of BeamFusion: how sharply the beam's codes are weighed


class GenerativeSettings(Settings):
    """The generative model and how it is trained. Temperatures divide cosines; smaller means sharper.

    What stands here means the same for every model that reads it (docs/models.md says which do); the sections
    below hold what only one of them has.
    """

    retired: ClassVar[frozenset[str]] = frozenset(
        {"batch_size"}
    )  # histories, until batches were filled by events
    absent: ClassVar[Mapping[str, Any]] = {"pooled_tower": False}
    operational: ClassVar[frozenset[str]] = HOW_TRAINING_RUNS

    @classmethod
    def stored(cls, value: Mapping[str, Any]) -> Self:
        """As :meth:`Settings.stored`: before the pooled expert had a temperature and an identity dropout, it had the others'."""
        earlier = {
            f"pooled_{name}": value[theirs]
            for name, theirs in (
                ("temperature", "dense_temperature"),
                ("identity_dropout", "identity_dropout"),
            )
            if theirs in value
        }
        return super().stored({**earlier, **value})

    model: str = "house"  # house, tiger, hstu, cobra, or an entry point of segue.generative
    dimensions: int = Field(64, ge=4)
    layers: int = Field(2, ge=1)
    heads: int = Field(2, ge=1)
    dropout: float = Field(0.2, ge=0, lt=1)
    max_length: int = Field(100, ge=1)  # events of a history that are read, the newest
    code_temperature: float = Field(0.1, gt=0)  # where it begins: each level learns its own
    dense_temperature: float = Field(0.07, gt=0)
    code_weight: float = Field(1.0, gt=0)  # of the code head's loss
    dense_weight: float = Field(1.0, ge=0)  # of the dense head's loss
    code_tower: Literal["shared", "own", "content"] = (
        "shared"  # item vectors and encoder of the code head: the dense head's, its own, or its own without identities
    )
    dense_tower: Literal["described", "identities"] = (
        "described"  # what the dense head's tower knows items by: content, codes and identities, or these alone
    )
    code_tower_scores: bool = False  # whether the code head's own tower is an expert of the dense head, too
    pooled_tower: bool = True  # whether the dense head has a second expert, which pools histories
    pooled_temperature: float = Field(0.1, gt=0)
    pooled_rate: float = Field(1.0, gt=0)  # that it learns at, in times of the learning rate
    pooled_identity_dropout: float = Field(0.2, ge=0, le=1)
    content_scale: float = Field(0.1, gt=0)  # of what an item's vector takes from content beside its identity
    identity_dropout: float = Field(
        0.2, ge=0, le=1
    )  # how often an item must do with content and codes; 1: always
    learning_rate: float = Field(4e-3, gt=0)  # falls linearly to a tenth over ``epochs``
    weight_decay: float = Field(0.0, ge=0)
    batch_events: int = Field(1024, ge=1)  # padded positions of a training step
    averaging: float = Field(0.99, ge=0, lt=1)  # decay a step of the moving average of the weights; 0: none
    epochs: int = Field(8, ge=1)
    patience: int = Field(4, ge=1)  # epochs without a better validation
    precision: Literal["fp32", "bf16"] = "bf16"
    threads: int = Field(2, ge=1)
    device: Literal["cpu", "cuda"] = "cpu"  # that trains; either serves what the other trained
    accumulate: int = Field(
        1, ge=1
    )  # micro-batches that a step's batch is worked on in: less memory, the same step
    checkpoint_minutes: float | None = Field(10.0, ge=0)  # between checkpoints inside an epoch; null: none
    checkpoint_steps: int = Field(0, ge=0)  # or after so many steps; 0: by the clock alone
    seed: int = 17
    tiger: TigerSettings = TigerSettings()
    hstu: HstuSettings = HstuSettings()
    cobra: CobraSettings = CobraSettings()

    @model_validator(mode="after")
    def _heads_share_the_dimensions(self) -> GenerativeSettings:
        if self.dimensions % (2 * self.heads):
            raise ValueError(
                f"dimensions {self.dimensions} must be a multiple of twice the heads ({self.heads}): "
                "each head turns its numbers in pairs"
            )
        if self.pooled_tower and self.dense_weight == 0:
            raise ValueError("pooled_tower is part of the dense head: give dense_weight a value above 0")
        if self.code_tower_scores and (self.code_tower == "shared" or self.dense_weight == 0):
            raise ValueError(
                "code_tower_scores makes the code head's tower a second one of the dense head: "
                "give code_tower own or content, and dense_weight a value above 0"
            )
        if self.dense_tower == "identities" and self.code_tower == "shared":
            raise ValueError(
                "dense_tower identities knows items by nothing that the code head could say: "
                "give code_tower own or content"
            )
        return self


class TuningSettings(Settings):
    """The Optuna study."""

    trials: int = Field(3, ge=1)
    epochs: int | None = Field(None, ge=1)  # of a trial; None: those of the generative model
    warmup_epochs: int = Field(3, ge=0)  # of a trial, before it may be pruned
    workers: int = Field(
        1, ge=1
    )  # processes that try side by side; above 1 a study is not repeated trial by trial
    seed: int = 17
