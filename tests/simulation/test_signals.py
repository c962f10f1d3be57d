"""What a simulation started ends with it."""

from __future__ import annotations

import os
import signal
import time

import pytest

from segue.simulation.signals import ended_by_sigterm


def work(stopped: list[str]) -> None:
    with ended_by_sigterm():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        finally:
            stopped.append("server")


def test_sigterm_leaves_through_every_finally() -> None:
    before = signal.getsignal(signal.SIGTERM)
    stopped: list[str] = []
    with pytest.raises(SystemExit) as ended:
        work(stopped)
    assert ended.value.code == 128 + signal.SIGTERM
    assert stopped == ["server"]
    assert signal.getsignal(signal.SIGTERM) is before
