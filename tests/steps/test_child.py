from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from segue.steps.child import run_child

# A child that takes its time to tidy up.
TIDY = """
import pathlib, time
pathlib.Path("begun").touch()
try:
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(1)
    pathlib.Path("tidied").touch()
    raise SystemExit(3)
"""
PARENT = """
import pathlib, sys
from segue.steps.child import run_child
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


@pytest.mark.parametrize(
    ("everybody", "grace"), [(True, "50"), (False, "0.5")], ids=["from a terminal", "alone"]
)
def test_an_interrupted_child_ends_by_itself(tmp_path: Path, everybody: bool, grace: str) -> None:
    (tmp_path / "child.py").write_text(textwrap.dedent(TIDY))
    parent = subprocess.Popen([sys.executable, "-c", PARENT, grace], cwd=tmp_path, start_new_session=True)
    try:
        until = time.monotonic() + 60
        while not (tmp_path / "begun").exists():
            assert time.monotonic() < until
            assert parent.poll() is None
            time.sleep(0.02)
        if everybody:
            os.killpg(parent.pid, signal.SIGINT)
        else:
            parent.send_signal(signal.SIGINT)
        assert parent.wait(timeout=60) == 130
    finally:
        if parent.poll() is None:
            os.killpg(parent.pid, signal.SIGKILL)
