"""The one training loop: AdamW, bf16 autocast by parameter, early stopping, and checkpoints that resume bit
for bit.

Everything random inside an epoch is a function of the seed and the epoch's number: the batches (see
:mod:`segue.training.batches`) and torch's generators, which are seeded anew at the start of every epoch. So
a run that was interrupted and resumed from the last epoch's checkpoint ends in the same weights as one that
was not."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from segue.artifacts import read_json, write_json
from segue.canonical import sha256_of
from segue.errors import ArtifactError, ConfigurationError
from segue.protocols import HistoryBatch

Metrics = dict[str, float]

_TENSORS = "checkpoint.safetensors"
_STATE = "checkpoint.json"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """What training did. ``best_epoch`` counts from 1: so many epochs made the weights that were kept."""

    best_epoch: int
    best_value: float | None  # of ``validate``; None without one
    epochs: int  # that were run, including those before a resume
    history: list[Metrics]  # one entry an epoch: loss parts, and ``validation`` where there is one
    seconds: float  # of this process alone
    tokens: int  # events seen by this process alone


@dataclass(slots=True)
class _State:
    """What a checkpoint holds beside the tensors of model, optimizer and best weights."""

    epoch: int = 0
    steps: int = 0
    best_epoch: int = 0
    best_value: float | None = None
    history: list[Metrics] = field(default_factory=list)
    average: dict[str, Tensor] = field(default_factory=dict)  # empty where there is none


def fit(
    model: nn.Module,
    *,
    batches: Callable[[int], Iterable[HistoryBatch]],
    loss: Callable[[HistoryBatch], dict[str, Tensor]],
    validate: Callable[[], float] | None,
    settings: FitSettings,
    checkpoints: Path | None,
    report: Callable[[int, Metrics], None] | None = None,
    progress: Callable[[str], None] = print,
) -> FitResult:
    """Train ``model`` in place and leave it, in eval mode, with its best weights.

    With ``settings.averaging`` the weights that are validated and kept are an exponential moving average over
    the steps (Polyak and Juditsky 1992), which forgets its start at once: its decay at step t is at most
    (1 + t) / (10 + t). Training itself goes on from the plain weights.

    ``batches(epoch)`` gives the batches of an epoch (from 0) and must depend on nothing else.
    ``loss(batch)`` returns ``total`` and any parts to be reported. ``validate()`` (higher is better) is
    called after each epoch in eval mode; None trains for exactly ``settings.epochs``. ``report(epoch,
    metrics)`` is called after each epoch (from 0) and may raise, as a pruner does. With ``checkpoints``
    each epoch is saved there, and a call that finds the checkpoint of an equal configuration goes on from
    it; one of another configuration is an ArtifactError.

    Raises ConfigurationError where the loss stops being finite.
    """
    torch.set_num_threads(settings.threads)
    device = next(model.parameters()).device
    optimizer = torch.optim.AdamW(_groups(model, settings.weight_decay), lr=settings.learning_rate)
    state, best = _State(), _weights(model)
    if checkpoints is not None and (checkpoints / _STATE).is_file():
        state, best = _resume(checkpoints, model, optimizer, settings)
        progress(f"goes on after epoch {state.epoch} of {settings.epochs}")
    began, tokens = time.monotonic(), 0
    while state.epoch < settings.epochs and not _out_of_patience(state, settings, validate):
        epoch_began = time.monotonic()
        with _seeded(settings.seed, state.epoch, device):
            metrics, seen = _epoch(model, optimizer, batches(state.epoch), loss, settings, state, device)
        tokens += seen
        speed = seen / max(time.monotonic() - epoch_began, 1e-9)
        with _averaged(model, state.average):
            model.eval()
            if validate is not None:
                metrics["validation"] = float(validate())
            state.epoch += 1
            state.history.append(metrics)
            if validate is None or state.best_value is None or metrics["validation"] > state.best_value:
                state.best_epoch, state.best_value = state.epoch, metrics.get("validation")
                best = _weights(model)
        if checkpoints is not None:
            _save(checkpoints, model, optimizer, settings, state, best)
        figures = " ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        progress(f"epoch {state.epoch}/{settings.epochs}: {figures}, {speed:,.0f} tokens/s")
        if report is not None:
            report(state.epoch - 1, metrics)
    model.load_state_dict(best)
    model.eval()
    return FitResult(
        best_epoch=state.best_epoch,
        best_value=state.best_value,
        epochs=state.epoch,
        history=state.history,
        seconds=time.monotonic() - began,
        tokens=tokens,
    )


def saved_history(checkpoints: Path) -> list[Metrics]:
    """The epochs behind the checkpoint in ``checkpoints``, empty where there is none: a resumed call
    reports none of them again."""
    if not (checkpoints / _STATE).is_file():
        return []
    saved = read_json(checkpoints / _STATE)
    assert isinstance(saved, dict)
    history: list[Metrics] = saved["history"]
    return history


def autocast(device: torch.device, precision: str) -> Any:
    """The autocast context of a recorded precision: bf16, or nothing."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()


def _epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[HistoryBatch],
    loss: Callable[[HistoryBatch], dict[str, Tensor]],
    settings: FitSettings,
    state: _State,
    device: torch.device,
) -> tuple[Metrics, int]:
    model.train()
    sums: dict[str, Tensor] = {}
    count, tokens = 0, 0
    decay = 1 - 0.9 * min(1.0, state.epoch / settings.decay_epochs) if settings.decay_epochs else 1.0
    for batch in batches:
        rate = settings.learning_rate * decay * min(1.0, (state.steps + 1) / max(1, settings.warmup_steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        with autocast(device, settings.precision):
            parts = loss(batch)
        parts["total"].backward()  # type: ignore[no-untyped-call]
        if settings.clip_norm > 0:
            nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
        optimizer.step()
        state.steps += 1
        if settings.averaging > 0:
            _move_average(state, model, settings.averaging)
        count += 1
        tokens += int(batch.lengths.sum())
        for (
            name,
            value,
        ) in parts.items():  # summed on the device: one synchronisation an epoch, not one a step
            sums[name] = sums.get(name, torch.zeros((), device=device)) + value.detach().float()
    metrics = {name: float(value) / max(1, count) for name, value in sums.items()}
    if not all(math.isfinite(value) for value in metrics.values()):
        raise ConfigurationError(
            f"training diverged in epoch {state.epoch + 1} ({metrics}): lower learning_rate or use fp32"
        )
    return metrics, tokens


@torch.no_grad()
def _move_average(state: _State, model: nn.Module, decay: float) -> None:
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
    own = _weights(model)
    model.load_state_dict(average, strict=False)
    try:
        yield
    finally:
        model.load_state_dict(own)


def _out_of_patience(state: _State, settings: FitSettings, validate: Callable[[], float] | None) -> bool:
    return validate is not None and state.epoch - state.best_epoch >= settings.patience and state.epoch > 0


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases, gains and single numbers do not."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


@contextmanager
def _seeded(seed: int, epoch: int, device: torch.device) -> Iterator[None]:
    """Seed torch for one epoch and give the caller's generator state back afterwards."""
    devices = [torch.cuda.current_device()] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed * 1_000_003 + epoch)
        yield


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _identity(model: nn.Module, settings: FitSettings) -> str:
    """What a checkpoint belongs to: settings (but for the length of training) and the shapes of the
    weights."""
    recorded = {name: value for name, value in asdict(settings).items() if name not in ("epochs", "patience")}
    return sha256_of([recorded, {name: list(value.shape) for name, value in model.state_dict().items()}])


def _save(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    settings: FitSettings,
    state: _State,
    best: dict[str, Tensor],
) -> None:
    """Tensors first, under a name of their own; the JSON that names them last, so a kill leaves the old
    pair or the new."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"model/{name}": value.contiguous() for name, value in model.state_dict().items()}
    tensors |= {f"best/{name}": value.contiguous() for name, value in best.items()}
    tensors |= {f"average/{name}": value.contiguous() for name, value in state.average.items()}
    for index, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{name}": value.contiguous() for name, value in values.items()}
    file = f"epoch-{state.epoch}-{_TENSORS}"
    temporary = folder / f".{file}"
    save_file(tensors, temporary)
    os.replace(temporary, folder / file)
    write_json(
        folder / _STATE,
        {
            "identity": _identity(model, settings),
            "tensors": file,
            "epoch": state.epoch,
            "steps": state.steps,
            "best_epoch": state.best_epoch,
            "best_value": state.best_value,
            "history": state.history,
        },
    )
    for old in folder.glob(f"epoch-*-{_TENSORS}"):
        if old.name != file:
            old.unlink()


def _resume(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, settings: FitSettings
) -> tuple[_State, dict[str, Tensor]]:
    saved = read_json(folder / _STATE)
    assert isinstance(saved, dict)
    if saved["identity"] != _identity(model, settings):
        raise ArtifactError(
            f"{folder} holds the checkpoint of other settings or another model: remove the folder"
        )
    if not (folder / saved["tensors"]).is_file():
        raise ArtifactError(f"{folder / saved['tensors']} is missing: remove the folder and train again")
    device = next(model.parameters()).device
    tensors = load_file(folder / saved["tensors"], device=str(device))
    model.load_state_dict(_under(tensors, "model/"))
    layout = optimizer.state_dict()
    values: dict[int, dict[str, Tensor]] = {}
    for name, value in _under(tensors, "optimizer/").items():
        index, _, field_name = name.partition("/")
        values.setdefault(int(index), {})[field_name] = value
    optimizer.load_state_dict({"state": values, "param_groups": layout["param_groups"]})
    state = _State(
        epoch=saved["epoch"],
        steps=saved["steps"],
        best_epoch=saved["best_epoch"],
        best_value=saved["best_value"],
        history=saved["history"],
        average=_under(tensors, "average/"),
    )
    return state, _under(tensors, "best/")


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
