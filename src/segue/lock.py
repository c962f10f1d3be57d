"""One lock per dataset holds both engines and every step.

The lock is ``flock(2)`` on ``state/<dataset>/lock``: the kernel releases it when its holder dies, however it dies. It
is re-entrant within a process, and a child process started under it is let in through ``SEGUE_LOCK_HOLDER`` as long as
that very ancestor still holds it.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from segue.errors import LockedError

HOLDER = "SEGUE_LOCK_HOLDER"
_held: dict[Path, int] = {}
_guard = threading.RLock()


@contextmanager
def dataset_lock(state: Path, *, wait_seconds: float = 3600.0, purpose: str = "") -> Iterator[None]:
    """Hold the dataset whose state folder is ``state``.

    Waits up to ``wait_seconds``, saying once on stderr who holds it. Raises LockedError after that.
    """
    path = (state / "lock").resolve()
    with _guard:
        inside = path in _held
        if inside:
            _held[path] += 1
    if inside or _let_in(path):
        try:
            yield
        finally:
            if inside:
                with _guard:
                    _held[path] -= 1
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        _acquire(file.fileno(), path, wait_seconds)
        file.seek(0)
        file.truncate()
        json.dump({"pid": os.getpid(), "purpose": purpose or " ".join(sys.argv[:4])}, file)
        file.flush()
        with _guard:
            _held[path] = 1
        before = os.environ.get(HOLDER)
        os.environ[HOLDER] = f"{path}:{os.getpid()}"
        try:
            yield
        finally:
            if before is None:
                os.environ.pop(HOLDER, None)
            else:
                os.environ[HOLDER] = before
            with _guard:
                del _held[path]
            fcntl.flock(file.fileno(), fcntl.LOCK_UN)


def holder(path: Path) -> str:
    """Who wrote the lock file last, for a message."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return f"process {record['pid']} ({record['purpose']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _let_in(path: Path) -> bool:
    """Whether an ancestor of this process holds the lock and started it on purpose."""
    if (token := os.environ.get(HOLDER)) is None:
        return False
    try:
        pid = json.loads(path.read_text(encoding="utf-8"))["pid"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return token == f"{path}:{pid}" and pid in _ancestors()


def _ancestors() -> set[int]:
    found: set[int] = set()
    pid = os.getpid()
    while pid > 1 and pid not in found:
        found.add(pid)
        try:
            status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
        except OSError:  # no /proc (macOS): the direct parent is all that can be known
            found.add(os.getppid())
            break
        pid = int(status.rpartition(")")[2].split()[1])
    return found


def _acquire(descriptor: int, path: Path, wait_seconds: float) -> None:
    deadline = time.monotonic() + wait_seconds
    announced = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not announced:
                print(f"waiting: {holder(path)} works on {path.parent.name}", file=sys.stderr, flush=True)
                announced = True
            if time.monotonic() >= deadline:
                raise LockedError(
                    f"{holder(path)} has held {path} for over {wait_seconds:.0f} s: wait for it or stop it"
                ) from None
            time.sleep(0.2)
