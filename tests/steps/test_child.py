from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from segue.steps.child import run_child

# A child that takes its time to tidy up.
TIDY = """
import pathlib, time
try:
    pathlib.Path("begun").touch()
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(1)
    pathlib.Path("tidied").touch()
    raise SystemExit(3)
"""
# One that hears nothing but the last word.
DEAF = """
import os, pathlib, signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path("pid").write_text(str(os.getpid()))
pathlib.Path("begun").touch()
time.sleep(60)
"""
PARENT = """
import pathlib, sys
from segue.steps import child
child._TERMINATED_SECONDS = 0.2
run_child = child.run_child
try:
    run_child([sys.executable, "-c", pathlib.Path("child.py").read_text()], grace_seconds=float(sys.argv[1]))
except KeyboardInterrupt:
    raise SystemExit(130 if pathlib.Path("tidied").exists() else 1)
"""


def test_the_return_code_and_both_outputs_as_one_text() -> None:
    done = run_child(
        [sys.executable, "-c", "import sys; print(1, flush=True); print(2, file=sys.stderr); sys.exit(7)"],
        capture=True,
    )
    assert (done.returncode, done.stdout) == (7, "1\n2\n")


@contextmanager
def waiting(folder: Path, child: str, grace: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits for its child, which has begun."""
    (folder / "child.py").write_text(child)
    parent = subprocess.Popen([sys.executable, "-c", PARENT, grace], cwd=folder, start_new_session=True)
    try:
        until = time.monotonic() + 60
        while not (folder / "begun").exists():
            assert time.monotonic() < until
            assert parent.poll() is None
            time.sleep(0.02)
        yield parent
    finally:
        if parent.poll() is None:
            os.killpg(parent.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("everybody", "grace"), [(True, "50"), (False, "0.5")], ids=["from a terminal", "alone"]
)
def test_an_interrupted_child_ends_by_itself(tmp_path: Path, everybody: bool, grace: str) -> None:
    with waiting(tmp_path, TIDY, grace) as parent:
        if everybody:
            os.killpg(parent.pid, signal.SIGINT)
        else:
            parent.send_signal(signal.SIGINT)
        assert parent.wait(timeout=60) == 130


@pytest.mark.parametrize("grace", ["50", "0.1"], ids=["within the grace", "after it"])
def test_a_second_interrupt_leaves_no_child_behind(tmp_path: Path, grace: str) -> None:
    with waiting(tmp_path, DEAF, grace) as parent:
        parent.send_signal(signal.SIGINT)
        time.sleep(1)
        assert parent.poll() is None  # it waits for the child
        parent.send_signal(signal.SIGINT)
        assert parent.wait(timeout=60) == 1
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "pid").read_text()), 0)


def test_an_error_leaves_no_child_behind(tmp_path: Path) -> None:
    begun = tmp_path / "pid"
    code = (
        "import os, pathlib, sys, time; pathlib.Path(sys.argv[1]).write_text(str(os.getpid())); "
        "sys.stdout.buffer.write(b'\\xff'); sys.stdout.close(); sys.stderr.close(); os.close(1); os.close(2); time.sleep(60)"
    )
    with pytest.raises(UnicodeDecodeError):
        run_child([sys.executable, "-c", code, str(begun)], capture=True)
    with pytest.raises(ProcessLookupError):
        os.kill(int(begun.read_text()), 0)
