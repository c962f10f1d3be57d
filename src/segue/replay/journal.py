"""What a replay has done so far, so that it can be interrupted and go on without counting anything twice.

Lines of JSON, each flushed to disk before the next step: which lists were shown (written before anything is said about
them), and which events were posted. Users stand in it by the store's keyed hash. An interrupted wave is finished with
the lists that were shown, not with new ones; its feedback and events have the same ids as before, so that the store takes
each once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from segue.errors import StateError

JOURNAL_FILE: Final = "replay.jsonl"


@dataclass(frozen=True, slots=True)
class Shown:
    """A list that was shown before an event. ``hit``: the rank (from 0) at which it held the event's item, or None."""

    user_hash: str
    position: int
    exposure_id: str | None
    arm: str | None
    deployment: int | None
    hit: int | None

    @property
    def key(self) -> tuple[str, int]:
        return self.user_hash, self.position


class Journal:
    """The journal in ``path``. ``identity`` says what is replayed into what: another one is not gone on with."""

    def __init__(self, path: Path, identity: Mapping[str, str]) -> None:
        self.path = path
        self._identity = dict(identity)
        self.shown: dict[tuple[str, int], Shown] = {}
        self.posted: set[tuple[str, int]] = set()
        path.parent.mkdir(parents=True, exist_ok=True)
        # The line that says what is replayed comes with the first list: a run that is refused leaves no journal behind.
        self._headed = False
        if path.is_file() and self._drop_half_a_line():
            self._read(identity)
            self._headed = True
        self._file = path.open("a", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def show(self, lists: Sequence[Shown]) -> None:
        """Remember lists that were shown; on return that is on disk."""
        fields = [
            [one.user_hash, one.position, one.exposure_id, one.arm, one.deployment, one.hit] for one in lists
        ]
        self._write({"shown": fields})
        self.shown.update((one.key, one) for one in lists)

    def post(self, keys: Iterable[tuple[str, int]]) -> None:
        """Remember that these events and the feedback on their lists are in the store."""
        done = list(keys)
        self._write({"posted": done})
        self.posted.update(done)

    def forget(self) -> None:
        """Empty it, for a run that began it and found that it must not go on."""
        self._file.truncate(0)
        self.shown.clear()
        self.posted.clear()
        self._headed = False

    def _write(self, line: Any) -> None:
        if not self._headed:
            self._headed = True
            self._write({"replay": self._identity})
        self._file.write(json.dumps(line, separators=(",", ":")) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _drop_half_a_line(self) -> bool:
        """Cut off what a kill left of a last line (nothing was done after it); whether any whole line is left."""
        text = self.path.read_bytes()
        whole = text.rfind(b"\n") + 1
        if whole < len(text):
            os.truncate(self.path, whole)
        return whole > 0

    def _read(self, identity: Mapping[str, str]) -> None:
        for number, text in enumerate(self.path.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                line = json.loads(text)
            except ValueError as error:
                raise StateError(
                    f"{self.path}, line {number} is damaged: move the file away to replay from the beginning"
                ) from error
            if number == 1:
                self._compare(line.get("replay"), identity)
            for fields in line.get("shown", ()):
                one = Shown(*fields)
                self.shown[one.key] = one
            self.posted.update((user, position) for user, position in line.get("posted", ()))

    def _compare(self, found: Any, identity: Mapping[str, str]) -> None:
        if not isinstance(found, dict):
            raise StateError(f"{self.path} is no journal of a replay: move it away")
        for name, value in identity.items():
            if found.get(name) != value:
                raise StateError(
                    f"{self.path} is of another {name} ({found.get(name)}, now {value}): what it counted is not "
                    "comparable; move it away to replay from the beginning"
                )
