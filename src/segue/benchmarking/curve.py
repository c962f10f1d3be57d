"""What a training went through, kept beside its checkpoints, so that a resumed one still knows all of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from segue.artifacts import read_json, write_json

Report = Callable[[int, dict[str, float]], None]


class Curve:
    """Epochs with their losses, their validation, and how long each took.

    ``seconds`` of an epoch are those of its training steps; ``wall_seconds`` since the epoch before (or since this
    process began to train), validation and checkpoints included.
    """

    def __init__(self, folder: Path, events: int, report: Report | None = None) -> None:
        """``events``: of an epoch; may be set anew before one is told. ``report`` is called after each epoch, too, and may
        raise."""
        self._file = folder / "curve.json"
        self.events, self._report = events, report
        self._began = time.monotonic()
        found = read_json(self._file) if self._file.is_file() else []
        assert isinstance(found, list)
        self.epochs: list[dict[str, Any]] = found

    def add(self, epoch: int, metrics: dict[str, float]) -> None:
        """An epoch, from 0. One that a killed process had told before its checkpoint was made is told again."""
        now = time.monotonic()
        speed = metrics.get("tokens_per_second", 0.0)
        told = {
            **metrics,
            "seconds": self.events / speed if speed > 0 else 0.0,
            "wall_seconds": now - self._began,
        }
        # A kill after a checkpoint and before its epoch was told leaves a hole: it took about as long as this one.
        hole = [{"seconds": told["seconds"], "wall_seconds": told["wall_seconds"]}]
        self.epochs[epoch:] = [*hole * (epoch - len(self.epochs)), told]
        self._began = now
        write_json(self._file, self.epochs)
        if self._report is not None:
            self._report(epoch, metrics)

    @property
    def train_seconds(self) -> float:
        """Of all training steps."""
        return sum(float(epoch["seconds"]) for epoch in self.epochs)

    @property
    def wall_seconds(self) -> float:
        return sum(float(epoch["wall_seconds"]) for epoch in self.epochs)
