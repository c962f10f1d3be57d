"""Several processes that train one model together: data parallelism by torch's DDP (Li et al. 2020).

``torchrun`` starts the processes and describes them in the environment. All of them make the same batches and keep the
same weights; each works on its share of a batch's histories. The first one alone validates, writes and reports, and tells
the others what they must know. Without ``torchrun`` there is one process, and every function here costs nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from segue.errors import ConfigurationError

T = TypeVar("T")

# The others wait while the first process validates or waits for a lock; one that dies is noticed by torchrun at once.
_PATIENCE = timedelta(hours=6)


def announced() -> int:
    """How many processes ``torchrun`` started, from its environment; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "MASTER_ADDR" in os.environ else 1


def processes() -> int:
    """How many train together."""
    return dist.get_world_size() if _grouped() else 1


def rank() -> int:
    """Which of them this one is; the first one is 0."""
    return dist.get_rank() if _grouped() else 0


def leads() -> bool:
    """Whether this process validates, writes and reports."""
    return rank() == 0


@contextmanager
def process_group() -> Iterator[None]:
    """The processes of ``torchrun``, joined: gloo between CPUs, NCCL between GPUs, each process with a GPU of its own.

    Without ``torchrun``, or inside a group that stands already, nothing happens.
    """
    if announced() == 1 or _grouped():
        yield
        return
    if gpus := torch.cuda.device_count():
        torch.cuda.set_device(_place() % gpus)
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=_PATIENCE)
    try:
        yield
        dist.barrier()  # nobody leaves while another still speaks
    finally:
        dist.destroy_process_group()


def check_device(device: torch.device) -> None:
    """Raises ConfigurationError where processes would have to share a GPU, which NCCL does not do."""
    gpus = torch.cuda.device_count()
    if processes() > 1 and device.type == "cuda" and _place() >= gpus:
        raise ConfigurationError(
            f"process {_place() + 1} of this machine has no GPU of its own, there are {gpus}: "
            f"start at most {gpus} processes a machine, or train on device cpu"
        )


def told_by_first(value: T) -> T:
    """The first process's ``value`` (picklable), in all of them."""
    if not _grouped():
        return value
    box: list[Any] = [value]
    dist.broadcast_object_list(box, src=0)
    told: T = box[0]
    return told


def gathered(value: T) -> list[T]:
    """Every process's ``value`` (picklable), by rank, in the first process; in the others an empty list."""
    if not _grouped():
        return [value]
    found: list[Any] | None = [None] * processes() if leads() else None
    dist.gather_object(value, found, dst=0)
    return found or []


def summed(value: torch.Tensor) -> torch.Tensor:
    """The sum of every process's ``value``, in all of them."""
    if _grouped():
        dist.all_reduce(value)
    return value


def _place() -> int:
    """Of this process among those of its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def _grouped() -> bool:
    return dist.is_available() and dist.is_initialized()
