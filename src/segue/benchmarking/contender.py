"""What a contender of the quality benchmark is, and what comes of fitting it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segue.benchmarking.answers import Judge
from segue.benchmarking.curve import Report
from segue.benchmarking.space import Space
from segue.benchmarking.world import World
from segue.settings import Settings
from segue.tokenizers.settings import TokenizerSettings

Progress = Callable[[str], None]

CHECKPOINTS = "checkpoints"  # in a fit's folder


@dataclass(frozen=True, kw_only=True)
class Fit:
    """What a contender is fitted with. ``settings`` hold the seed."""

    world: World
    settings: Any  # of the contender's own class
    tokenizer: TokenizerSettings
    folder: Path  # what training keeps, so that it goes on after a kill
    report: Report | None  # told each epoch; raises where a study prunes
    progress: Progress
    parts: Mapping[str, Fitted]  # what the contender needs, by name, of the same seed


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A contender that was chosen by validation and has seen no test target."""

    judge: Judge
    validation: float  # NDCG@10 on the validation targets of the users that models are chosen by
    parameters: int
    train_seconds: float = 0.0  # of training steps
    wall_seconds: float = 0.0  # of training with its validation
    epochs: int = 0  # that were trained
    best_epoch: int = 0  # after which the weights were taken
    curve: list[dict[str, Any]] = field(default_factory=list)  # epoch by epoch
    facts: Mapping[str, Any] = field(default_factory=dict)  # of this kind of model alone
    model: Any = None  # what others are made of: a scorer, or counts


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A model by name. ``code``: the modules, under ``segue``, on whose sources its figures rest."""

    name: str
    settings: type[Settings]
    defaults: Callable[[World], Any]
    fit: Callable[[Fit], Fitted]
    code: tuple[str, ...]
    space: Space = field(default_factory=Space)
    needs: tuple[str, ...] = ()
    generative: bool = False
    seeded: bool = True  # False: equal seeds or not, the model is the same
