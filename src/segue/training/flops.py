"""How much arithmetic a model needs, and how much a machine can do: the two halves of model FLOPs
utilisation (MFU).

A matrix product of [m, k] and [k, n] counts 2 m k n. Training counts three times the forward pass (the
backward pass makes two products for each of the forward's), so a parameter in a matrix costs 6 FLOPs a
token (Kaplan et al. 2020, section 2.1; Hoffmann et al. 2022, appendix F); attention is added, lookups,
norms and softmaxes are not counted."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from segue.generative.settings import GenerativeSettings


def house_flops_per_token(
    settings: GenerativeSettings, *, length: int, nodes: Sequence[int], items: int, coded_content: float = 0.0
) -> float:
    """Training FLOPs of the house model for one event of a history of ``length`` events.

    ``nodes`` gives the trie's nodes at depths 1 … L, ``items`` the classes of the dense head's softmax.
    ``coded_content`` is what the tables that are made once a step cost (see :func:`house_table_flops`),
    already divided by the events of a step."""
    d = settings.dimensions
    towers = 1 if settings.code_tower == "shared" else 2
    blocks = settings.layers * 8 * d * d  # 4 d^2 of attention's projections, 4 d^2 of the MLP
    attention = (
        settings.layers * 2 * d * (length + 1)
    )  # every position against every one, as kernels count it
    head = len(nodes) * 5 * d * d + d * sum(nodes)  # two layers of width 2 d, one of d; a score a node
    experts = 1 + settings.pooled_tower + settings.code_tower_scores
    dense = experts * d * items if settings.dense_weight > 0 else 0
    pooling = 4 * d * d + d * (length + 1) if settings.pooled_tower else 0  # an MLP of width 2 d, a mean
    return 6.0 * (towers * (blocks + attention) + head + dense + pooling) + coded_content


def house_table_flops(
    settings: GenerativeSettings, *, content_dimensions: int, nodes: Sequence[int], items: int
) -> float:
    """Training FLOPs of a step's projections: of every item's content, and of every node that has children."""
    d = settings.dimensions
    towers = (1 if settings.code_tower == "shared" else 2) + settings.pooled_tower
    return 6.0 * (towers * items * content_dimensions * d + sum(nodes[:-1]) * d * d)


def matmul_peak(
    dtype: torch.dtype, *, device: str = "cpu", size: int = 2048, repeats: int = 5, threads: int | None = None
) -> float:
    """Measured FLOP/s of the best of ``repeats`` square matrix products: what MFU is divided by on this
    machine."""
    if threads is not None:
        torch.set_num_threads(threads)
    left = torch.randn(size, size, device=device).to(dtype)
    right = torch.randn(size, size, device=device).to(dtype)
    best = float("inf")
    for _ in range(repeats + 1):  # the first one compiles and warms up; a best of several forgets it
        _wait(device)
        began = time.perf_counter()
        left @ right
        _wait(device)
        best = min(best, time.perf_counter() - began)
    return 2.0 * size**3 / best


def mfu(flops_per_token: float, tokens_per_second: float, peak: float) -> float:
    """Share of the measured peak that training uses (Chowdhery et al. 2022, appendix B)."""
    return flops_per_token * tokens_per_second / peak


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
