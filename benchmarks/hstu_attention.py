"""HSTU's fused attention on a GPU beside SDPA: ``python -m benchmarks.hstu_attention``.

Milliseconds, forward and with the backward pass, of one layer's attention over 8 histories in bf16: HSTU's fused kernel
(no softmax, but a bias for distances in position and in time, whose gradients it adds up), torch's
scaled_dot_product_attention with its FlashAttention backend, causal, and HSTU's sum as the CPU does it, a stretch of
queries at a time. Jagged: lengths fall evenly from the longest to an eighth of it, which SDPA and the plain sum pad. Without
a GPU every row says that it was not measured.

``--quick`` runs a toy size and writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks import harness
from segue.generative.hstu_layer import HstuLayer
from segue.generative.settings import GenerativeSettings
from segue.training.jagged import runs_jagged

COLUMNS = ("attention", "longest", "jagged", "pass", "ms", "low", "high", "times SDPA")
KERNEL, SDPA, PLAIN = "HSTU, fused", "SDPA, FlashAttention", "HSTU, plain"
HISTORIES = 8
_GAP = 100_000  # seconds between events, at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is measured."""

    lengths: tuple[int, ...] = (1024, 8192)
    heads: int = 4
    width: int = 64  # of a head
    repeats: int = 11
    plain_up_to: int = 1024  # positions; beyond, its backward pass keeps more than a GPU has


QUICK = Size(lengths=(32,), heads=1, width=16, repeats=1)


def main() -> None:
    harness.main(
        "hstu_attention", __doc__ or "", COLUMNS, measure, notes, size=Size(), quick=QUICK, figure="ms"
    )


def notes(size: Size) -> list[str]:
    return [f"{HISTORIES} histories, {size.heads} heads of {size.width}, medians of {size.repeats} repeats."]


def measure(size: Size) -> list[dict[str, Any]]:
    """A row an attention, length, shape and pass; without figures where no GPU runs the kernel."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = []
    for longest in size.lengths:
        for jagged in (False, True):
            for backward in (False, True):
                names = [KERNEL, SDPA, *([PLAIN] if longest <= size.plain_up_to else [])]
                seconds: dict[str, dict[str, float]] = {}
                if runs_jagged(device, size.width):
                    seconds = harness.median_seconds(
                        _contenders(size, longest, jagged, backward, device, names), size.repeats
                    )
                rows += [_row(name, longest, jagged, backward, seconds) for name in names]
    return rows


def _row(
    name: str, longest: int, jagged: bool, backward: bool, seconds: dict[str, dict[str, float]]
) -> dict[str, Any]:
    taken = seconds.get(name)
    return {
        "attention": name,
        "longest": longest,
        "jagged": "yes" if jagged else "no",
        "pass": "forward and backward" if backward else "forward",
        "ms": taken and 1000 * taken["median"],
        "low": taken and 1000 * taken["low"],
        "high": taken and 1000 * taken["high"],
        "times SDPA": taken and taken["median"] / seconds[SDPA]["median"],
    }


def _contenders(
    size: Size, longest: int, jagged: bool, backward: bool, device: torch.device, names: list[str]
) -> dict[str, Callable[[], None]]:
    from segue.generative.hstu_kernel import jagged_attention

    torch.manual_seed(17)
    settings = GenerativeSettings(dimensions=size.heads * size.width, heads=size.heads, max_length=longest)
    layer = HstuLayer(settings, longest).to(device)
    shares = torch.linspace(1, 1 / 8, HISTORIES) if jagged else torch.ones(HISTORIES)
    lengths = (shares * longest).long()
    inside = torch.arange(longest) < lengths.unsqueeze(1)
    times = torch.randint(_GAP, inside.shape).cumsum(1).to(device)
    shape = (HISTORIES, longest, size.heads, size.width)
    padded = [torch.randn(shape, device=device, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]
    offsets = F.pad(lengths.cumsum(0), (1, 0)).to(device)
    inside = inside.to(device)
    rows = [each.detach()[inside].requires_grad_() for each in padded]
    when = times[inside]

    def fused() -> Tensor:
        return jagged_attention(*rows, when, offsets, *layer.biases, longest)

    def flash() -> Tensor:
        query, key, value = (each.transpose(1, 2) for each in padded)
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return F.scaled_dot_product_attention(query, key, value, is_causal=True)

    def plain() -> Tensor:
        query, key, value = (each.transpose(1, 2) for each in padded)
        with torch.autocast(device.type, torch.bfloat16):  # as it is trained
            return layer.attended(query, key, value, times)

    every: dict[str, tuple[Callable[[], Tensor], list[Tensor]]] = {
        KERNEL: (fused, [*rows, *layer.parameters()]),
        SDPA: (flash, padded),
        PLAIN: (plain, [*padded, *layer.parameters()]),
    }
    return {name: partial(_run, *every[name], backward=backward) for name in names}


def _run(attend: Callable[[], Tensor], learnt: list[Tensor], *, backward: bool) -> None:
    """Once, to its end: a GPU returns before it is done."""
    if backward:
        attend().sum().backward()  # type: ignore[no-untyped-call]
        for each in learnt:
            each.grad = None
    else:
        with torch.no_grad():
            attend()
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
