"""SIGTERM ends a block as Ctrl-C does, through every ``finally``, so that the processes it started are stopped."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Within it SIGTERM raises SystemExit with the status that a shell gives to it. For the main thread."""

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        del frame
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
