from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from segue.errors import LockedError
from segue.lock import dataset_lock

HOLD = """
import sys, time
from pathlib import Path
from segue.lock import dataset_lock
with dataset_lock(Path(sys.argv[1]), purpose="a test"):
    print("held", flush=True)
    time.sleep(30)
"""
ENTER = """
import sys
from pathlib import Path
from segue.lock import dataset_lock
with dataset_lock(Path(sys.argv[1]), wait_seconds=0.1):
    print("in")
"""


def start(code: str, state: Path, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, str(state)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment or dict(os.environ),
    )


def test_it_is_reentrant(tmp_path: Path) -> None:
    with dataset_lock(tmp_path), dataset_lock(tmp_path):
        pass
    with dataset_lock(tmp_path, wait_seconds=0):
        pass


def test_another_process_waits_and_is_told_who_holds_it(tmp_path: Path) -> None:
    other = start(HOLD, tmp_path)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(LockedError, match="a test"), dataset_lock(tmp_path, wait_seconds=0.2):
            pass
    finally:
        other.kill()
        other.wait()


def test_sigkill_frees_it(tmp_path: Path) -> None:
    other = start(HOLD, tmp_path)
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    os.kill(other.pid, signal.SIGKILL)
    other.wait()
    began = time.monotonic()
    with dataset_lock(tmp_path, wait_seconds=5):
        assert time.monotonic() - began < 5


def test_a_child_of_the_holder_is_let_in(tmp_path: Path) -> None:
    with dataset_lock(tmp_path):
        child = start(ENTER, tmp_path)
        assert child.communicate(timeout=20)[0] == "in\n"


def test_a_stale_token_lets_nobody_in(tmp_path: Path) -> None:
    holder = start(HOLD, tmp_path)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        forged = {**os.environ, "SEGUE_LOCK_HOLDER": f"{(tmp_path / 'lock').resolve()}:{holder.pid}"}
        intruder = start(ENTER, tmp_path, forged)
        assert "in" not in (intruder.communicate(timeout=20)[0] or "")
        assert intruder.returncode != 0
    finally:
        holder.kill()
        holder.wait()
