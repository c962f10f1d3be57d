"""How fast a training was, and which share of the machine's matrix products it used (MFU).

The FLOPs of any model are counted by torch as they happen, forward and backward, on a batch without padding: padding is
computed, but is no work that was asked for. They are divided by the best matrix product that this machine does in the same
precision on the same threads, measured on the spot."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from segue.protocols import HistoryBatch
from segue.training.distributed import processes
from segue.training.flops import matmul_peak, mfu
from segue.training.gradients import LossFunction
from segue.training.jagged import padded
from segue.training.loop import FitResult

_SAMPLE = 32  # batches whose mean length is that of the one that is counted
_PEAK_SIZE = {"cpu": 1024, "cuda": 8192}
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def throughput(
    model: nn.Module,
    result: FitResult,
    *,
    loss: LossFunction,
    batches: Callable[[int], Iterable[HistoryBatch]],
    precision: str,
) -> dict[str, float]:
    """``tokens_per_second`` (events of the steps alone), ``flops_per_token``, ``peak_flops`` of all processes, ``mfu``.

    Empty where ``result``'s call made no step, being resumed at its end. ``model`` is left in eval mode, its gradients
    and the caller's generators as they were.
    """
    if result.tokens_per_second <= 0:
        return {}
    device = next(model.parameters()).device
    sample = list(islice(batches(0), _SAMPLE))
    per_token = counted_flops_per_token(model, loss, sample)
    peak = processes() * _peak(precision, device.type, torch.get_num_threads())
    return {
        "tokens_per_second": result.tokens_per_second,
        "flops_per_token": per_token,
        "peak_flops": peak,
        "mfu": mfu(per_token, result.tokens_per_second, peak),
    }


def counted_flops_per_token(model: nn.Module, loss: LossFunction, sample: list[HistoryBatch]) -> float:
    """Training FLOPs of one event of a batch as large as those of ``sample`` are on average, without padding."""
    batch = unpadded(sample)
    training = model.training
    gradients = [parameter.grad for parameter in model.parameters()]
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[device.index or 0] if device.type == "cuda" else []):
        model.train()
        # Attention as two products: the fused kernels of a CPU are counted as nothing.
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), padded():
            total: Any = loss(batch)["total"]
            total.backward()
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        parameter.grad = gradient
    model.train(training)
    return float(counter.get_total_flops()) / int(batch.lengths.sum())


def unpadded(sample: list[HistoryBatch]) -> HistoryBatch:
    """One batch of the mean length and of the mean number of events of ``sample``, made of its events; its histories are
    nobody's, which the FLOPs do not see."""
    lengths = torch.cat([batch.lengths for batch in sample])
    events = int(lengths.sum())
    length = max(1, round(events / max(1, int((lengths > 0).sum()))))
    rows = max(1, min(events // length, round(events / len(sample) / length)))

    users = sample[0].users

    def cut(name: str) -> Tensor:
        values = []
        for batch in sample:
            inside = torch.arange(batch.items.shape[1]) < batch.lengths.unsqueeze(1)
            values.append(getattr(batch, name)[inside])
        flat = torch.cat(values)[: rows * length]
        return flat.view(rows, length, *flat.shape[1:])

    return HistoryBatch(
        items=cut("items"),
        timestamps=cut("timestamps").sort(dim=1).values,
        lengths=torch.full((rows,), length),
        users=None if users is None else users.repeat(rows)[:rows],
        contexts=None if sample[0].contexts is None else cut("contexts"),
    )


@cache
def _peak(precision: str, device: str, threads: int) -> float:
    """Once a process: it takes a fraction of a second, and does not change."""
    return matmul_peak(_DTYPES[precision], device=device, size=_PEAK_SIZE[device], threads=threads)
