"""Training, validating and tuning a generative model: what the steps call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from segue.data.sequences import Sequences
from segue.decoding.settings import DecodingSettings
from segue.errors import DataError
from segue.generative.binding import learnable
from segue.generative.path import fused, path_of
from segue.generative.registry import unread_settings
from segue.generative.settings import GenerativeSettings, TuningSettings
from segue.generative.store import new_model
from segue.protocols import BoundItems, DenseHead, HistoryBatch, ReadsContext, TrainableRecommender
from segue.training.batches import sequence_batches, target_batches
from segue.training.gradients import EventCount
from segue.training.loop import FitResult, FitSettings, fit, saved_history
from segue.training.study import StudyResult, TrialHandle, run_study
from segue.training.throughput import throughput
from segue.training.tracking import Tracking

Progress = Callable[[str], None]
Report = Callable[[int, dict[str, float]], None]

_CUTOFF = 10
_BATCH = {"cpu": 64, "cuda": 1024}  # histories that are validated together: caches there, launches here
_TRAINING_FUSION = 0.5  # what epochs and trials are compared by; the weight that serves is chosen afterwards
_TRAINING_BEAM = 50
_SPACE = {  # name: low, high, whether on a logarithmic scale
    "learning_rate": (1e-3, 6e-3, True),
    "dropout": (0.1, 0.4, False),
    "code_temperature": (0.1, 0.4, True),
    "dense_temperature": (0.05, 0.15, True),
}


@dataclass(frozen=True, slots=True)
class Trained:
    """A model with its best weights, and how it came by them."""

    model: TrainableRecommender
    result: FitResult
    throughput: dict[
        str, float
    ]  # of this process; see segue.training.throughput. Empty where it made no step


def train(
    sequences: Sequences,
    items: BoundItems,
    settings: GenerativeSettings,
    *,
    validation: Sequences | None,
    epochs: int | None = None,
    checkpoints: Path | None,
    report: Report | None = None,
    progress: Progress,
) -> Trained:
    """Train a new model on all events of ``sequences``.

    ``validation`` (the same users, with their validation targets) stops training early and picks the best
    epoch; None trains for exactly ``epochs``, along the learning-rate schedule of ``settings.epochs``."""
    if not len(sequences.items):
        raise DataError("there is no event to train on: splits left the regular users nothing")
    model = new_model(settings, items, sequences.vocabulary)
    if sequences.vocabulary is not None and not isinstance(model, ReadsContext):
        progress(f"{settings.model} reads no context: the declared features are left alone")
    assert isinstance(model, nn.Module)
    seen = np.bincount(np.asarray(sequences.items), minlength=len(items.active)) > 0
    model.adopt(torch.from_numpy(seen) & items.active)

    def batches(epoch: int) -> Iterable[HistoryBatch]:
        return sequence_batches(
            sequences,
            batch_events=settings.batch_events,
            max_length=settings.max_length,
            seed=settings.seed,
            epoch=epoch,
            users=settings.tiger.user_tokens > 0,
        )

    result = fit(
        model,
        batches=batches,
        loss=model.loss,
        validate=None if validation is None else _validator(model, items, validation),
        settings=FitSettings.of(
            settings,
            epochs=epochs or settings.epochs,
            decay_epochs=settings.epochs,
            threads=settings.threads,
        ),
        checkpoints=checkpoints,
        report=report,
        progress=progress,
        events=events_of(model),
    )
    measured = throughput(model, result, loss=model.loss, batches=batches, precision=settings.precision)
    return Trained(model, result, measured)


def events_of(model: TrainableRecommender) -> EventCount:
    """How many events of a batch the losses of ``model`` are means over: those whose items can be generated, unless the
    model counts otherwise and says so by a method ``loss_events(batch)``."""
    own: EventCount | None = getattr(model, "loss_events", None)
    if own is not None:
        return own

    return lambda batch: learnable(model.trie, batch.to(model.trie.leaf_of.device)).sum()


def _validator(model: TrainableRecommender, items: BoundItems, sequences: Sequences) -> Callable[[], float]:
    """NDCG@10 of the fused list at an equal weight (of the code head's, where there is no other), from a beam
    that is narrower than the one that serves."""
    decoding = DecodingSettings(beam_width=_TRAINING_BEAM, dense_candidates=_TRAINING_BEAM)
    weight = _TRAINING_FUSION if isinstance(model, DenseHead) else 0.0
    return lambda: validation_ndcg(model, items, sequences, decoding, weights=(weight,))[weight]


def validation_ndcg(
    model: TrainableRecommender,
    items: BoundItems,
    sequences: Sequences,
    decoding: DecodingSettings,
    *,
    weights: Sequence[float],
    part: Literal["validation", "test"] = "validation",
) -> dict[float, float]:
    """NDCG@10 of what would be served, for each weight of the dense score: full catalogue, seen items
    filtered.

    A target that neither head proposes is a miss. Raises DataError where no user has a validation target.
    """
    targets = sequences.targets(part)
    if not targets:
        raise DataError(f"no regular user has a {part} target: the data is too small for the split")
    # The candidates do not depend on the weight; one above 0 takes a dense head.
    path = path_of(model, items, decoding, dense_weight=max(weights))
    device = next(model.parameters()).device.type
    gains: dict[float, list[npt.NDArray[np.float64]]] = {weight: [] for weight in weights}
    for batch, wanted, rows in target_batches(
        sequences, targets, batch_size=_BATCH[device], max_length=model.max_length
    ):
        allowed = items.active.expand(len(rows), -1).clone()
        for row, place in enumerate(rows):
            user, position = targets[place]
            allowed[row, torch.from_numpy(sequences.user(user)[0][:position].astype(np.int64))] = False
        found = path.candidates(batch, allowed, at_least=_CUTOFF)
        for weight in weights:
            gains[weight].append(
                _gains(fused(found, weight).cpu(), found.items.cpu(), torch.from_numpy(wanted))
            )
    return {weight: float(np.concatenate(parts).mean()) for weight, parts in gains.items()}


def _gains(scores: Tensor, items: Tensor, targets: Tensor) -> npt.NDArray[np.float64]:
    """[B] 1 / log2(rank + 1) of each target among the candidates, 0 below the cut-off. Ties count against
    it."""
    hit = items == targets.unsqueeze(1)
    own = scores.masked_fill(~hit, -torch.inf).amax(dim=1, keepdim=True)
    rank = (scores >= own).sum(dim=1)
    gain = torch.where(own.squeeze(1).isneginf() | (rank > _CUTOFF), 0.0, 1 / torch.log2(rank.double() + 1))
    return gain.numpy()


def choose_fusion(
    model: TrainableRecommender, items: BoundItems, sequences: Sequences, decoding: DecodingSettings
) -> tuple[float, dict[float, float]]:
    """The weight of the dense score that is best on validation (of equals, the smallest), and every
    weight's NDCG@10. A model without a dense head has the weight 0 alone."""
    grid = decoding.fusion_grid if isinstance(model, DenseHead) else (0.0,)
    values = validation_ndcg(model, items, sequences, decoding, weights=grid)
    return max(sorted(values), key=lambda weight: values[weight]), values


@dataclass(frozen=True, slots=True)
class Tuned:
    """The study's outcome, and the best trial's own model."""

    settings: GenerativeSettings  # with the epochs that a full training takes
    trial_settings: GenerativeSettings  # with those that the trial was given
    best: Trained
    study: StudyResult


Data = tuple[Sequences, BoundItems]
Source = Callable[[], Data]


def tune(
    sequences: Sequences,
    items: BoundItems,
    settings: GenerativeSettings,
    tuning: TuningSettings,
    *,
    name: str,
    storage: Path | str,
    checkpoints: Path,
    tracking: Tracking | None,
    progress: Progress,
    source: Source | None = None,
) -> Tuned:
    """Choose learning rate, dropout, both temperatures (as far as the model reads them) and the history's
    length by validation NDCG@10.

    The settings as they stand are tried first. Every trial keeps its seed, and its checkpoints under
    ``checkpoints``, so that an interrupted study goes on inside the trial that it was at.

    ``tuning.workers`` processes try side by side; each reads the data by ``source`` (picklable), or without one is sent
    it as it is.
    """
    base = settings if tuning.epochs is None else settings.model_copy(update={"epochs": tuning.epochs})
    objective = _Objective(source or partial(_as_given, sequences, items), base, checkpoints)
    study = run_study(
        objective,
        name=name,
        storage=storage,
        trials=tuning.trials,
        seed=tuning.seed,
        first=_point(base),
        warmup_epochs=tuning.warmup_epochs,
        workers=tuning.workers,
        tracking=tracking,
        progress=progress,
    )
    trial_settings = _with_params(base, study.best_params)
    # Read back from the best trial's checkpoint; trained again where a finished study lost its checkpoints.
    best = objective.trained(trial_settings, study.best_index, None, progress)
    return Tuned(trial_settings.model_copy(update={"epochs": settings.epochs}), trial_settings, best, study)


class _Objective:
    """A trial's best validation NDCG@10. Pickled to the workers, each of which reads the data once."""

    def __init__(self, source: Source, settings: GenerativeSettings, checkpoints: Path) -> None:
        self._source, self._settings, self._checkpoints = source, settings, checkpoints
        self._data: tuple[Sequences, Sequences, BoundItems] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_data": None}

    def __call__(self, handle: TrialHandle) -> float:
        chosen = suggest(handle, self._settings)

        def report(epoch: int, metrics: dict[str, float]) -> None:
            handle.report(epoch, metrics["validation"], metrics)

        for epoch, metrics in enumerate(saved_history(self._folder(handle.index))):
            report(epoch, metrics)
        trained = self.trained(chosen, handle.index, report, handle.progress)
        if trained.throughput:
            handle.measured(trained.throughput)
        assert trained.result.best_value is not None
        return trained.result.best_value

    def trained(
        self, settings: GenerativeSettings, index: int, report: Report | None, progress: Progress
    ) -> Trained:
        """The model of trial ``index``, from its checkpoints as far as they go."""
        if self._data is None:
            sequences, items = self._source()
            self._data = sequences.training_part(), sequences, items
        training, sequences, items = self._data
        return train(
            training,
            items,
            settings,
            validation=sequences,
            checkpoints=self._folder(index),
            report=report,
            progress=lambda line: progress(f"trial {index + 1}: {line}"),
        )

    def _folder(self, index: int) -> Path:
        return self._checkpoints / f"trial-{index}"


def _as_given(sequences: Sequences, items: BoundItems) -> Data:
    return sequences, items


def suggest(handle: TrialHandle, settings: GenerativeSettings) -> GenerativeSettings:
    """The search space, widened where ``settings`` lie outside it."""
    trial = handle.trial
    params: dict[str, Any] = {}
    for name, (low, high, log) in _space(settings).items():
        value = float(getattr(settings, name))
        params[name] = trial.suggest_float(name, min(low, value), max(high, value), log=log)
    params["max_length"] = trial.suggest_categorical("max_length", _lengths(settings))
    return _with_params(settings, params)


def _space(settings: GenerativeSettings) -> dict[str, tuple[float, float, bool]]:
    unread = unread_settings(settings.model)
    return {name: bounds for name, bounds in _SPACE.items() if name not in unread}


def _lengths(settings: GenerativeSettings) -> list[int]:
    return sorted({settings.max_length, 2 * settings.max_length})


def _point(settings: GenerativeSettings) -> dict[str, Any]:
    """``settings`` as a point of the search space."""
    return {name: getattr(settings, name) for name in (*_space(settings), "max_length")}


def _with_params(settings: GenerativeSettings, params: dict[str, Any]) -> GenerativeSettings:
    """Rounded, so that what is written down is exactly what was used, and short."""
    rounded = {
        name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in params.items()
    }
    return settings.model_copy(update=rounded)
