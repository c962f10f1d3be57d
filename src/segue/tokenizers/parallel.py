"""Fixed blocks of rows on several threads: the same bytes whatever their number.

The blocks depend on the data alone, every block is one single-threaded computation, and results come back in the
order of the blocks. So the number of threads decides how long it takes and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

Result = TypeVar("Result")


def workers() -> int:
    """``OMP_NUM_THREADS`` where it is set, or else the processors that this process may use."""
    configured = os.environ.get("OMP_NUM_THREADS", "")
    if configured.isdigit() and int(configured) > 0:
        return int(configured)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def one_thread() -> AbstractContextManager[object]:
    """BLAS sums in another order on another number of threads; on one, equal inputs give equal bytes."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    limits: AbstractContextManager[object] = threadpool_limits(limits=1)
    return limits


@contextmanager
def torch_threads_kept() -> Iterator[None]:
    """Who sets torch to one thread inside leaves it as it was."""
    import torch

    threads = torch.get_num_threads()
    try:
        yield
    finally:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


def map_blocks(function: Callable[[slice], Result], rows: int, block: int) -> list[Result]:
    """``function`` of the slices 0:block, block:2·block, … of ``rows`` rows, in that order."""
    slices = [slice(low, min(low + block, rows)) for low in range(0, rows, block)]
    if len(slices) <= 1:
        return [function(each) for each in slices]
    with one_thread():
        threads = min(workers(), len(slices))
        if threads == 1:
            return [function(each) for each in slices]
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(function, slices))
