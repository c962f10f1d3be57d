"""Settings of the generative model."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from segue.settings import Settings


class GenerativeSettings(Settings):
    """The house model and how it is trained. Temperatures divide cosines; smaller means sharper."""

    retired: ClassVar[frozenset[str]] = frozenset(
        {"batch_size"}
    )  # histories, until batches were filled by events

    model: str = "house"  # ``house``, or an entry point of segue.generative
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
    seed: int = 17


class TuningSettings(Settings):
    """The Optuna study."""

    trials: int = Field(3, ge=1)
    epochs: int | None = Field(None, ge=1)  # of a trial; None: those of the generative model
    warmup_epochs: int = Field(3, ge=0)  # of a trial, before it may be pruned
    seed: int = 17
