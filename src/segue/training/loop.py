"""The one training loop: AdamW, bf16 autocast by parameter, early stopping, and checkpoints that resume bit
for bit.

Everything random inside an epoch is a function of the seed and the epoch's number: the batches (see
:mod:`segue.training.batches`) and torch's generators, which are seeded anew at the start of every epoch. A checkpoint
inside an epoch keeps the generators' state beside the number of batches done (see :mod:`segue.training.checkpoints`). So
a run that was killed and resumed ends in the same weights as one that was not, wherever either made its checkpoints.

Under ``torchrun`` several processes train together (see :mod:`segue.training.distributed`)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from segue.canonical import sha256_of
from segue.errors import ConfigurationError
from segue.protocols import HistoryBatch
from segue.settings import Settings
from segue.training import checkpoints as saving
from segue.training.checkpoints import Metrics, State, saved_history, weights
from segue.training.distributed import leads, processes, rank, summed, told_by_first
from segue.training.gradients import EventCount, Gradients, LossFunction, all_events, autocast

__all__ = ["FitResult", "FitSettings", "Metrics", "autocast", "fit", "saved_history"]

# Of FitSettings, what may differ between a run and the one that resumes it.
_NOT_OF_THE_WEIGHTS = ("epochs", "patience", "checkpoint_minutes", "checkpoint_steps")
# Of FitSettings, what every model's settings say under the same names.
_OF_EVERY_MODEL = (
    "epochs",
    "patience",
    "learning_rate",
    "weight_decay",
    "precision",
    "averaging",
    "accumulate",
    "checkpoint_minutes",
    "checkpoint_steps",
    "seed",
)
_CLOCK_STEPS = 16  # several processes ask the first one's clock this often: asking is a message


@dataclass(frozen=True, slots=True, kw_only=True)
class FitSettings:
    """How to train. All of it is recorded; none of it is found by a timing."""

    epochs: int
    learning_rate: float
    patience: int = 5  # epochs without a better validation before training stops
    weight_decay: float = 0.0
    precision: Literal["fp32", "bf16"] = "bf16"
    seed: int = 17
    threads: int = 2
    warmup_steps: int = 50  # the learning rate rises linearly over so many steps
    decay_epochs: int = 0  # and falls linearly, epoch by epoch, to a tenth after so many epochs; 0: it stays
    clip_norm: float = 1.0  # of the gradient; 0: not clipped
    averaging: float = (
        0.0  # decay a step of the moving average of the weights, which is what is kept; 0: none
    )
    accumulate: int = 1  # micro-batches that a step's batch is worked on in
    checkpoint_minutes: float | None = 10.0  # of training between checkpoints inside an epoch; None: none
    checkpoint_steps: int = 0  # steps between them; 0: only by the clock

    @classmethod
    def of(cls, settings: Settings, **others: Any) -> FitSettings:
        """As a model's ``settings`` say; ``others`` by name, instead or besides."""
        told = {name: getattr(settings, name) for name in _OF_EVERY_MODEL}
        return cls(**(told | others))


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """What training did. ``best_epoch`` counts from 1: so many epochs made the weights that were kept."""

    best_epoch: int
    best_value: float | None  # of ``validate``; None without one
    epochs: int  # that were run, including those before a resume
    history: list[Metrics]  # one entry an epoch: loss parts, and ``validation`` where there is one
    seconds: float  # since this call began, validation and checkpoints included
    training_seconds: float  # of its steps alone
    tokens: int  # events seen since this call began, by all processes

    @property
    def tokens_per_second(self) -> float:
        """Of the steps alone; 0 where this call made none."""
        return self.tokens / self.training_seconds if self.training_seconds > 0 else 0.0


def fit(
    model: nn.Module,
    *,
    batches: Callable[[int], Iterable[HistoryBatch]],
    loss: LossFunction,
    validate: Callable[[], float] | None,
    settings: FitSettings,
    checkpoints: Path | None,
    report: Callable[[int, Metrics], None] | None = None,
    progress: Callable[[str], None] = print,
    events: EventCount = all_events,
) -> FitResult:
    """Train ``model`` in place and leave it, in eval mode, with its best weights.

    With ``settings.averaging`` the weights that are validated and kept are an exponential moving average over
    the steps (Polyak and Juditsky 1992), which forgets its start at once: its decay at step t is at most
    (1 + t) / (10 + t). Training itself goes on from the plain weights.

    ``batches(epoch)`` gives the batches of an epoch (from 0) and must depend on nothing else.
    ``loss(batch)`` returns ``total`` and any parts to be reported, each a mean over ``events(batch)`` events
    (matters where a batch is worked on in several pieces). ``validate()`` (higher is better) is
    called after each epoch in eval mode; None trains for exactly ``settings.epochs``. ``report(epoch,
    metrics)`` is called after each epoch (from 0) with ``tokens_per_second`` among the metrics, and may raise, as a
    pruner does. With ``checkpoints`` each epoch is saved there, and what lies inside a long one; a call that finds the
    checkpoint of an equal configuration goes on from it; one of another configuration is an ArtifactError.

    In a group of processes all call it alike. The first one's ``validate``, ``report`` and ``progress`` are called, and
    it writes the checkpoints; all return the same.

    Raises ConfigurationError where the loss stops being finite.
    """
    torch.set_num_threads(settings.threads)
    training = _Training(model, batches, loss, events, settings, checkpoints)
    state = training.state
    if state.steps and leads():
        inside = f" and {state.batch} batches of the next" if state.batch else ""
        progress(f"goes on after epoch {state.epoch} of {settings.epochs}{inside}")
    began = time.monotonic()
    while state.epoch < settings.epochs and not _out_of_patience(state, settings, validate):
        tokens, before = training.tokens, training.seconds
        metrics = training.epoch()
        speed = (training.tokens - tokens) / max(training.seconds - before, 1e-9)
        with _averaged(model, state.average):
            model.eval()
            if validate is not None:
                metrics["validation"] = told_by_first(float(validate()) if leads() else 0.0)
            state.epoch += 1
            state.history.append(metrics)
            if validate is None or state.best_value is None or metrics["validation"] > state.best_value:
                state.best_epoch, state.best_value = state.epoch, metrics.get("validation")
                state.best = weights(model)
        training.save()
        if leads():
            figures = " ".join(f"{name} {value:.4f}" for name, value in metrics.items())
            progress(f"epoch {state.epoch}/{settings.epochs}: {figures}, {speed:,.0f} tokens/s")
            if report is not None:
                report(state.epoch - 1, {**metrics, "tokens_per_second": speed})
    model.load_state_dict(state.best)
    model.eval()
    return FitResult(
        best_epoch=state.best_epoch,
        best_value=state.best_value,
        epochs=state.epoch,
        history=state.history,
        seconds=time.monotonic() - began,
        training_seconds=training.seconds,
        tokens=training.tokens,
    )


class _Training:
    """A model on its way: one epoch after the other, from wherever the last checkpoint was made."""

    def __init__(
        self,
        model: nn.Module,
        batches: Callable[[int], Iterable[HistoryBatch]],
        loss: LossFunction,
        events: EventCount,
        settings: FitSettings,
        folder: Path | None,
    ) -> None:
        self._model, self._batches, self._settings, self._folder = model, batches, settings, folder
        self._device = next(model.parameters()).device
        self._optimizer = torch.optim.AdamW(_groups(model, settings.weight_decay), lr=settings.learning_rate)
        self._identity = _identity(model, settings)
        found = (
            None if folder is None else saving.resume(folder, model, self._optimizer, identity=self._identity)
        )
        self.state = State(best=weights(model)) if found is None else found
        self._gradients = Gradients(
            model, loss, events=events, accumulate=settings.accumulate, precision=settings.precision
        )
        self._saved = time.monotonic()
        self.tokens = 0
        self.seconds = 0.0

    def epoch(self) -> Metrics:
        """The rest of the epoch that the state is in. Returns the means of its losses over all of its batches."""
        state, began = self.state, time.monotonic()
        self._model.train()
        with _seeded(self._settings.seed, state.epoch, self._device):
            if state.batch:
                saving.set_generators(state.generators, self._device)
            for batch in islice(self._batches(state.epoch), state.batch, None):
                self._step(batch)
                if self._due():
                    self.save()
        names = list(state.sums)
        sums = summed(torch.stack([state.sums[name] for name in names])).tolist() if names else []
        metrics = {name: value / state.batch for name, value in zip(names, sums, strict=True)}
        if not all(math.isfinite(value) for value in metrics.values()):
            raise ConfigurationError(
                f"training diverged in epoch {state.epoch + 1} ({metrics}): lower learning_rate or use fp32"
            )
        state.batch, state.sums = 0, {}
        self.seconds += time.monotonic() - began
        return metrics

    def save(self) -> None:
        """A checkpoint, where there is a folder for it."""
        if self._folder is not None:
            saving.save(self._folder, self._model, self._optimizer, self.state, identity=self._identity)
        self._saved = time.monotonic()

    def _step(self, batch: HistoryBatch) -> None:
        state, settings = self.state, self._settings
        decay = 1 - 0.9 * min(1.0, state.epoch / settings.decay_epochs) if settings.decay_epochs else 1.0
        rate = settings.learning_rate * decay * min(1.0, (state.steps + 1) / max(1, settings.warmup_steps))
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group["times"]
        self._optimizer.zero_grad(set_to_none=True)
        losses = self._gradients.add(batch)
        if settings.clip_norm > 0:
            nn.utils.clip_grad_norm_(self._model.parameters(), settings.clip_norm)
        self._optimizer.step()
        state.steps += 1
        state.batch += 1
        if settings.averaging > 0:
            _move_average(state, self._model, settings.averaging)
        self.tokens += int(batch.lengths.sum())
        for (
            name,
            value,
        ) in losses.items():  # summed on the device: one synchronisation an epoch, not one a step
            state.sums[name] = state.sums.get(name, torch.zeros((), device=self._device)) + value

    def _due(self) -> bool:
        """Whether to save inside the epoch; every process must come to the same answer."""
        settings, steps = self._settings, self.state.steps
        if self._folder is None:
            return False
        if settings.checkpoint_steps and steps % settings.checkpoint_steps == 0:
            return True
        if settings.checkpoint_minutes is None or (processes() > 1 and steps % _CLOCK_STEPS):
            return False
        return told_by_first(time.monotonic() - self._saved >= 60 * settings.checkpoint_minutes)


@torch.no_grad()
def _move_average(state: State, model: nn.Module, decay: float) -> None:
    """After ``state.steps`` steps."""
    now = {name: value for name, value in model.state_dict().items() if value.is_floating_point()}
    if not state.average:
        state.average = {name: value.detach().clone() for name, value in now.items()}
        return
    share = 1 - min(decay, (1 + state.steps) / (10 + state.steps))
    torch._foreach_lerp_([state.average[name] for name in now], list(now.values()), share)


@contextmanager
def _averaged(model: nn.Module, average: dict[str, Tensor]) -> Iterator[None]:
    """The model with the averaged weights; afterwards with its own again. Without an average nothing happens."""
    if not average:
        yield
        return
    own = weights(model)
    model.load_state_dict(average, strict=False)
    try:
        yield
    finally:
        model.load_state_dict(own)


def _out_of_patience(state: State, settings: FitSettings, validate: Callable[[], float] | None) -> bool:
    return validate is not None and state.epoch - state.best_epoch >= settings.patience and state.epoch > 0


@runtime_checkable
class LearnsAtSeveralRates(Protocol):
    """A model of which a part learns faster or slower than the rest."""

    def rates(self) -> dict[str, float]:
        """How many times the learning rate the parameters learn at whose names begin so; all others at once that."""
        ...


def _rates(model: nn.Module) -> dict[str, float]:
    return model.rates() if isinstance(model, LearnsAtSeveralRates) else {}


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases, gains and single numbers do not. ``times``: of the learning rate."""
    groups = []
    left = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    for prefix, times in [*_rates(model).items(), ("", 1.0)]:
        chosen = [left.pop(name) for name in [*left] if name.startswith(prefix)]
        groups += [
            {"params": [p for p in chosen if p.ndim >= 2], "weight_decay": weight_decay, "times": times},
            {"params": [p for p in chosen if p.ndim < 2], "weight_decay": 0.0, "times": times},
        ]
    return groups


@contextmanager
def _seeded(seed: int, epoch: int, device: torch.device) -> Iterator[None]:
    """Seed torch for one epoch, each process otherwise, and give the caller's generator state back afterwards."""
    devices = [torch.cuda.current_device()] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed * 1_000_003 + epoch + 2_000_003_000_017 * rank())
        yield


def _identity(model: nn.Module, settings: FitSettings) -> str:
    """What a checkpoint belongs to: settings (but for the length of training and when it is saved) and the shapes of
    the weights."""
    recorded = {name: value for name, value in asdict(settings).items() if name not in _NOT_OF_THE_WEIGHTS}
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    rates = _rates(model)
    return sha256_of([recorded, shapes, *([rates] if rates else [])])
