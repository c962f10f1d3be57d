"""A circuit breaker: a path that keeps failing is left alone for a while, so that nobody waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Breaker:
    """Opens after ``threshold`` failures in a row; after ``cooldown`` seconds lets one request try again.

    Thread-safe. ``clock`` gives seconds and is there for tests.
    """

    def __init__(
        self, threshold: int = 3, cooldown: float = 5.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._threshold = threshold
        self._cooldown = cooldown
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._retry_at = 0.0

    @property
    def is_open(self) -> bool:
        with self._lock:
            return self._failures >= self._threshold

    def allows(self) -> bool:
        """Whether the path may be tried now. While open, one caller per cooldown is let through."""
        with self._lock:
            if self._failures < self._threshold:
                return True
            if self._clock() < self._retry_at:
                return False
            self._retry_at = self._clock() + self._cooldown
            return True

    def succeeded(self) -> None:
        with self._lock:
            self._failures = 0

    def failed(self) -> None:
        with self._lock:
            self._failures += 1
            self._retry_at = self._clock() + self._cooldown
