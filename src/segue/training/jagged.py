"""Whether histories are read without padding, by fused kernels."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

WIDEST = 128  # numbers of a head that the kernels take
_CAPABILITY = (8, 0)  # of a GPU that multiplies bf16
_TRITON = importlib.util.find_spec("triton") is not None
_padded = ContextVar("_padded", default=False)


def runs_jagged(device: torch.device, width: int) -> bool:
    """Whether histories on ``device`` are read without padding, by the fused kernel, which takes heads of up to
    ``WIDEST`` numbers."""
    return (
        device.type == "cuda"
        and width <= WIDEST
        and not _padded.get()
        and _TRITON
        and torch.cuda.get_device_capability(device) >= _CAPABILITY
    )


@contextmanager
def padded() -> Iterator[None]:
    """Histories are read with padding, by torch's own operators: what counts arithmetic sees those alone."""
    before = _padded.set(True)
    try:
        yield
    finally:
        _padded.reset(before)
