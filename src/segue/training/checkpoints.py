"""Checkpoints that a training resumes from bit for bit, wherever they were made.

Between epochs nothing random has to be kept: batches and torch's generators are functions of the seed and the epoch's
number. Inside an epoch a checkpoint also holds how many of its batches are done, the sums behind the epoch's metrics, and
the state of every generator that dropout and sampling draw from, of each process that trains."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from segue.artifacts import read_json, write_json
from segue.errors import ArtifactError
from segue.training.distributed import gathered, leads, processes, rank, told_by_first

Metrics = dict[str, float]

_TENSORS = "checkpoint.safetensors"
_STATE = "checkpoint.json"
_CPU, _GPU = "cpu", "cuda"


@dataclass(slots=True)
class State:
    """Where a training is, beside the weights and the optimizer."""

    epoch: int = 0  # whole ones
    batch: int = 0  # batches of the next epoch that are done
    steps: int = 0
    best_epoch: int = 0
    best_value: float | None = None
    history: list[Metrics] = field(default_factory=list)
    average: dict[str, Tensor] = field(default_factory=dict)  # empty where there is none
    best: dict[str, Tensor] = field(default_factory=dict)  # the weights that are kept
    sums: dict[str, Tensor] = field(default_factory=dict)  # this process's, of the batches that are done
    generators: dict[str, Tensor] = field(default_factory=dict)  # to go on with inside an epoch


def weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the model's state."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def generator_states(device: torch.device) -> dict[str, Tensor]:
    """Of torch's generators that training on ``device`` draws from."""
    states = {_CPU: torch.get_rng_state()}
    if device.type == _GPU:
        states[_GPU] = torch.cuda.get_rng_state(device)
    return states


def set_generators(states: dict[str, Tensor], device: torch.device) -> None:
    """Go on where :func:`generator_states` stood."""
    torch.set_rng_state(states[_CPU])
    if device.type == _GPU:
        torch.cuda.set_rng_state(states[_GPU], device)


def saved_history(folder: Path) -> list[Metrics]:
    """The epochs behind the checkpoint in ``folder``, empty where there is none: a resumed training reports
    none of them again."""
    if not (folder / _STATE).is_file():
        return []
    history: list[Metrics] = _read(folder)["history"]
    return history


def save(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: State, *, identity: str
) -> None:
    """Called by every process, written by the first. Tensors first, under a name of their own; the JSON that
    names them last, so a kill leaves the old pair or the new."""
    inside = state.batch > 0
    device = next(model.parameters()).device
    others = gathered((generator_states(device), _on_cpu(state.sums))) if inside else []
    if not leads():
        return
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"model/{name}": value.contiguous() for name, value in model.state_dict().items()}
    tensors |= {f"best/{name}": value.contiguous() for name, value in state.best.items()}
    tensors |= {f"average/{name}": value.contiguous() for name, value in state.average.items()}
    for index, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{name}": value.contiguous() for name, value in values.items()}
    for process, (generators, sums) in enumerate(others):
        tensors |= {f"process/{process}/generator/{name}": value for name, value in generators.items()}
        tensors |= {f"process/{process}/sum/{name}": value for name, value in sums.items()}
    file = f"step-{state.steps}-{state.epoch}-{_TENSORS}"
    temporary = folder / f".{file}"
    save_file(tensors, temporary)
    _flush(temporary)
    os.replace(temporary, folder / file)
    write_json(
        folder / _STATE,
        {
            "identity": identity,
            "tensors": file,
            "processes": processes(),
            "epoch": state.epoch,
            "batch": state.batch,
            "steps": state.steps,
            "best_epoch": state.best_epoch,
            "best_value": state.best_value,
            "history": state.history,
        },
    )
    for pattern in (f"*-{_TENSORS}", f".*-{_TENSORS}"):  # the former, and what a kill left half written
        for old in folder.glob(pattern):
            if old.name != file:
                old.unlink()


def resume(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, *, identity: str
) -> State | None:
    """Weights and optimizer as they were, and where training was; None where ``folder`` holds no checkpoint.

    With several processes all of them read it, so the folder must be one that they share. Raises ArtifactError for a
    checkpoint of other settings, of another model or of another number of processes, and for a damaged one.
    """
    state = _resume(folder, model, optimizer, identity) if (folder / _STATE).is_file() else None
    place = None if state is None else (state.epoch, state.steps)
    if told_by_first(place) != place:
        raise ArtifactError(
            f"process {rank()} does not see the first one's checkpoint in {folder}: the processes must share that folder"
        )
    return state


def _resume(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, identity: str) -> State:
    saved = _read(folder)
    if saved["identity"] != identity:
        raise ArtifactError(
            f"{folder} holds the checkpoint of other settings or another model: remove the folder"
        )
    if saved["processes"] != processes():
        raise ArtifactError(
            f"{folder} holds the checkpoint of {saved['processes']} processes that trained together, now there are "
            f"{processes()}: start as many again, or remove the folder"
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
    own = _under(tensors, f"process/{rank()}/")
    return State(
        epoch=saved["epoch"],
        batch=saved["batch"],
        steps=saved["steps"],
        best_epoch=saved["best_epoch"],
        best_value=saved["best_value"],
        history=saved["history"],
        average=_under(tensors, "average/"),
        best=_under(tensors, "best/"),
        sums=_under(own, "sum/"),
        generators=_on_cpu(_under(own, "generator/")),
    )


def _read(folder: Path) -> dict[str, Any]:
    saved = read_json(folder / _STATE)
    assert isinstance(saved, dict)
    return saved


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.cpu() for name, value in tensors.items()}


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
