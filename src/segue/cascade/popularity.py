"""Popularity: the fallback that always answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from segue.cascade.alignment import load_item_ids, rows_of, save_item_ids
from segue.data.sequences import Sequences
from segue.errors import ArtifactError
from segue.items import Items

COUNTS = "counts.safetensors"
SECONDS_A_DAY = 86_400.0


@dataclass(frozen=True)
class Popularity:
    """How often each item was consumed, old events counting less where a half life is set."""

    counts: npt.NDArray[np.float32]  # [N]
    item_ids: list[str]  # [N]

    @classmethod
    def fit(
        cls, sequences: Sequences, item_ids: list[str], *, half_life_days: float | None = None
    ) -> Popularity:
        """From every event of ``sequences``. An event that is h half lives older than the newest counts 2^-h.

        Data without timestamps (all zero) counts every event once, whatever the half life.
        """
        weights = None
        if half_life_days is not None and len(sequences.timestamps):
            age = (sequences.timestamps.max() - np.asarray(sequences.timestamps)) / SECONDS_A_DAY
            weights = np.exp2(-age / half_life_days)
        counts = np.bincount(sequences.items, weights=weights, minlength=len(item_ids))
        return cls(counts.astype(np.float32), item_ids)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file({"counts": self.counts}, folder / COUNTS)
        save_item_ids(self.item_ids, folder)

    @classmethod
    def load(cls, folder: Path, items: Items) -> Popularity:
        """Aligned with ``items``; an item that was not counted has 0. Raises ArtifactError without the
        file.
        """
        if not (folder / COUNTS).is_file():
            raise ArtifactError(f"{folder / COUNTS} is missing: run the step incumbent again")
        counts = load_file(folder / COUNTS)["counts"]
        rows = rows_of(items, load_item_ids(folder))
        return cls(np.where(rows >= 0, np.append(counts, np.float32(0))[rows], np.float32(0)), items.ids)
