"""Another program that does the work while this process waits for it."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

GRACE_SECONDS = 10.0
_TERMINATED_SECONDS = 5.0


def run_child(
    command: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    capture: bool = False,
    grace_seconds: float = GRACE_SECONDS,
) -> subprocess.CompletedProcess[str]:
    """``command`` to its end, its return code not judged; with ``capture`` its stdout and stderr as one text.

    Ctrl-C in a terminal reaches the child, too. It is given the time to end by itself (to close its run, release its
    locks and say where it was), where :func:`subprocess.run` kills it after a quarter of a second. One that is still there
    after ``grace_seconds`` may never have heard of it, and is interrupted once more; it may take as long as it needs, and
    a second Ctrl-C ends it. Whatever is raised here, the child is gone by then.
    """
    process = subprocess.Popen(
        list(command),
        cwd=cwd,
        env=env,
        text=True,
        stdout=subprocess.PIPE if capture else None,
        stderr=subprocess.STDOUT if capture else None,
    )
    try:
        output, _ = process.communicate()
    except KeyboardInterrupt:
        try:
            _wait_interrupted(process, grace_seconds)
        except BaseException:
            _end(process)
            raise
        raise
    except BaseException:
        _end(process)
        raise
    return subprocess.CompletedProcess(list(command), process.returncode, output)


def _wait_interrupted(process: subprocess.Popen[str], grace_seconds: float) -> None:
    try:
        process.communicate(timeout=grace_seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        process.communicate()


def _end(process: subprocess.Popen[str]) -> None:
    """Terminated, and killed where that does not help."""
    process.terminate()
    try:
        process.wait(timeout=_TERMINATED_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
