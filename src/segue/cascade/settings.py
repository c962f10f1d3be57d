"""Settings of the incumbent cascade."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from segue.settings import HOW_TRAINING_RUNS, Settings


class TwoTowerSettings(Settings):
    """Two towers over content and ids (Yi et al. 2019), with a softmax loss."""

    retired: ClassVar[frozenset[str]] = frozenset(
        {"batch_size"}
    )  # histories, until batches were filled by events
    operational: ClassVar[frozenset[str]] = HOW_TRAINING_RUNS

    dimensions: int = Field(64, ge=2)
    max_length: int = Field(100, ge=2)
    loss: Literal["full_softmax", "in_batch"] = (
        "full_softmax"  # in_batch for catalogues too large for the full one
    )
    negatives: int = Field(2048, ge=1)  # of the in-batch loss
    temperature: float = Field(0.1, gt=0)
    id_dropout: float = Field(0.2, ge=0, lt=1)  # how often an item must do with its content alone in training
    learning_rate: float = Field(3e-3, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    batch_events: int = Field(1024, ge=1)  # padded positions of a training step
    averaging: float = Field(0.99, ge=0, lt=1)  # decay a step of the moving average of the weights; 0: none
    epochs: int = Field(20, ge=1)
    patience: int = Field(3, ge=1)
    precision: Literal["fp32", "bf16"] = "bf16"
    accumulate: int = Field(
        1, ge=1
    )  # micro-batches that a step's batch is worked on in: less memory, the same step
    checkpoint_minutes: float | None = Field(10.0, ge=0)  # between checkpoints inside an epoch; null: none
    checkpoint_steps: int = Field(0, ge=0)  # or after so many steps; 0: by the clock alone
    seed: int = 17


class SasrecSettings(Settings):
    """SASRec (Kang & McAuley 2018) with a softmax loss over the catalogue or over sampled negatives."""

    retired: ClassVar[frozenset[str]] = frozenset(
        {"batch_size"}
    )  # histories, until batches were filled by events
    operational: ClassVar[frozenset[str]] = HOW_TRAINING_RUNS

    dimensions: int = Field(64, ge=2)
    layers: int = Field(2, ge=1)
    heads: int = Field(2, ge=1)
    dropout: float = Field(0.3, ge=0, lt=1)
    max_length: int = Field(100, ge=2)
    loss: Literal["full_softmax", "sampled_softmax"] = "full_softmax"
    negatives: int = Field(2048, ge=1)
    temperature: float = Field(0.1, gt=0)  # 1: dot products; below 1: cosine scores over the temperature
    learning_rate: float = Field(4e-3, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    batch_events: int = Field(1024, ge=1)  # padded positions of a training step
    averaging: float = Field(0.99, ge=0, lt=1)  # decay a step of the moving average of the weights; 0: none
    epochs: int = Field(24, ge=1)
    patience: int = Field(6, ge=1)
    precision: Literal["fp32", "bf16"] = "bf16"
    accumulate: int = Field(
        1, ge=1
    )  # micro-batches that a step's batch is worked on in: less memory, the same step
    checkpoint_minutes: float | None = Field(10.0, ge=0)  # between checkpoints inside an epoch; null: none
    checkpoint_steps: int = Field(0, ge=0)  # or after so many steps; 0: by the clock alone
    trials: int = Field(4, ge=1)  # of the study; 1: the settings above, untuned
    seed: int = 17

    @model_validator(mode="after")
    def _heads_share_the_dimensions(self) -> Self:
        if self.dimensions % self.heads:
            raise ValueError(f"dimensions {self.dimensions} must be a multiple of the heads ({self.heads})")
        return self


class EsasrecSettings(SasrecSettings):
    """eSASRec (Tikhonovich et al. 2025): SASRec's settings, and what its layers and its negatives have besides."""

    loss: Literal["full_softmax", "sampled_softmax"] = "sampled_softmax"
    feed_forward: int = Field(4, ge=1)  # the inner width of a layer's SwiGLU, in times of ``dimensions``
    popularity_share: float = Field(
        0.5, ge=0, le=1
    )  # of the negatives, drawn by frequency; the rest uniformly


class CascadeSettings(Settings):
    """recall -> rank -> select."""

    recall_per_route: int = Field(200, ge=1)
    item_knn_neighbours: int = Field(200, ge=1)
    item_knn_shrinkage: float = Field(10.0, ge=0)
    item_knn_half_life: float | None = Field(5.0, gt=0)  # events of the history; None: all count alike
    popularity_half_life_days: float | None = Field(None, gt=0)
    unknown_items: Literal["behind", "among"] = "behind"  # those that SASRec knows; see segue.cascade.rank
    two_tower: TwoTowerSettings = TwoTowerSettings()
    sasrec: SasrecSettings = SasrecSettings()
    threads: int = Field(2, ge=1)
