"""Exposures on this machine's disk while the database is away; they follow when it is back.

Each process appends to a file of its own, a JSON object a line, flushed to disk before :meth:`Spool.append`
returns, and holds a lock on it as long as it writes. Whoever replays takes every file that no living process
holds. A row that reaches the database twice, because of a kill between commit and removal, counts once: exposures
have ids.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from io import FileIO
from pathlib import Path

from segue.serving.store import Exposure

logger = logging.getLogger("segue.serving")

_ROWS_A_WRITE = 500


class Spool:
    """A folder of spooled exposures. Thread- and process-safe."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._file: FileIO | None = None

    def append(self, exposures: Sequence[Exposure]) -> None:
        """On return they are on disk. Raises OSError where they are not (a full disk, a missing permission)."""
        lines = "".join(json.dumps(asdict(one), ensure_ascii=True) + "\n" for one in exposures).encode()
        with self._lock:
            try:
                file = self._file or self._open()
                written = file.write(lines)
                if written != len(lines):
                    raise OSError(f"only {written} of {len(lines)} bytes could be written to {self._folder}")
                os.fsync(file.fileno())
            except OSError:
                self._let_go()  # a half line at its end is no row; the next ones begin a new file
                raise

    def pending(self) -> bool:
        """Whether anything waits to be replayed."""
        return any(self._folder.glob("*.jsonl"))

    def replay(self, write: Callable[[Sequence[Exposure]], None]) -> int:
        """Hand everything to ``write`` and remove it; the number of exposures.

        What ``write`` raises is raised; nothing is removed then that was not written. A file that cannot be
        understood is set aside and logged.
        """
        with self._lock:
            self._let_go()
        count = 0
        for path in sorted(self._folder.glob("*.jsonl")):
            with path.open("rb") as file:
                try:
                    fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:  # another process writes to it, or replays it
                    continue
                if not path.exists():  # another process replayed it in between
                    continue
                try:
                    batches = list(_batches(file.read()))
                except (
                    TypeError,
                    ValueError,
                ):  # another version's rows: they must not hold up all others for ever
                    logger.exception("%s cannot be read; it is kept as .unreadable", path)
                    path.rename(path.with_suffix(".unreadable"))
                    continue
                for batch in batches:
                    write(batch)
                    count += len(batch)
                path.unlink()
        return count

    def close(self) -> None:
        """Let go of the file, so that another process may replay it."""
        with self._lock:
            self._let_go()

    def _open(self) -> FileIO:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{uuid.uuid4().hex}.jsonl"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        self._file = FileIO(descriptor, "ab")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)  # the file's name must survive too
        finally:
            os.close(folder)
        return self._file

    def _let_go(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _batches(content: bytes) -> Iterator[list[Exposure]]:
    # What follows the last line feed was being written when its process died: it was never acknowledged.
    lines = content[: content.rfind(b"\n") + 1].splitlines()
    for start in range(0, len(lines), _ROWS_A_WRITE):
        yield [Exposure(**json.loads(line)) for line in lines[start : start + _ROWS_A_WRITE]]
