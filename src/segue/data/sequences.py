"""Jagged event sequences on disk: flat values and int64 offsets, memory-mapped, so that training starts at once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from segue.artifacts import write_json
from segue.data.context import Vocabulary
from segue.errors import ArtifactError
from segue.paths import user_key
from segue.schema import Part, Split, UserGroup

_ARRAYS = ("items", "timestamps", "offsets", "validation_at", "test_at")
_CONTEXTS = "contexts.npy"


@dataclass(frozen=True)
class Sequences:
    """The events of a group of users, oldest first, user by user.

    ``validation_at`` and ``test_at`` give, per user, the position of the event to be predicted (-1: none): the
    history is ``events[:position]``, the target ``events[position]``. Training sees ``events[:train_end]``.
    """

    items: npt.NDArray[np.int32]  # [E] item indices
    timestamps: npt.NDArray[np.int64]  # [E] seconds
    offsets: npt.NDArray[np.int64]  # [U + 1]
    validation_at: npt.NDArray[np.int32]  # [U]
    test_at: npt.NDArray[np.int32]  # [U]
    user_ids: list[str]  # [U]
    contexts: npt.NDArray[np.int32] | None = None  # [E, F] codes of declared context features
    vocabulary: Vocabulary | None = None  # what the codes mean; both or neither

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def user_keys(self) -> npt.NDArray[np.int64]:
        """[U] :func:`segue.paths.user_key` of each user."""
        return np.array([user_key(user) for user in self.user_ids], dtype=np.int64)

    def user(self, index: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """All events of one user: items [T], timestamps [T]."""
        low, high = int(self.offsets[index]), int(self.offsets[index + 1])
        return self.items[low:high], self.timestamps[low:high]

    def train_end(self, index: int) -> int:
        """How many of the user's events are training events."""
        for position in (self.validation_at[index], self.test_at[index]):
            if position >= 0:
                return int(position)
        return int(self.offsets[index + 1] - self.offsets[index])

    def training_part(self) -> Sequences:
        """Only what training may see."""
        return self.first(np.array([self.train_end(user) for user in range(len(self))], dtype=np.int64))

    def first(self, lengths: npt.NDArray[np.int64]) -> Sequences:
        """The first ``lengths`` [U] events of each user, with nothing to be predicted."""
        keep = np.concatenate(
            [
                np.arange(self.offsets[user], self.offsets[user] + length)
                for user, length in enumerate(lengths)
            ]
            or [np.empty(0, dtype=np.int64)]
        ).astype(np.int64)
        nothing = np.full(len(self), -1, dtype=np.int32)
        return Sequences(
            items=self.items[keep],
            timestamps=self.timestamps[keep],
            offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            validation_at=nothing,
            test_at=nothing,
            user_ids=self.user_ids,
            contexts=None if self.contexts is None else self.contexts[keep],
            vocabulary=self.vocabulary,
        )

    def targets(self, part: Literal["validation", "test"]) -> list[tuple[int, int]]:
        """(user index, position of the target) of every user who has a target in ``part`` and a history before it.

        A split by time labels events of users who arrive after the cut; who has no history is not evaluated.
        """
        at = self.validation_at if part == Part.VALIDATION.value else self.test_at
        return [(user, int(position)) for user, position in enumerate(at) if position > 0]

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name in _ARRAYS:
            np.save(folder / f"{name}.npy", getattr(self, name), allow_pickle=False)
        if self.contexts is not None and self.vocabulary is not None:
            np.save(folder / _CONTEXTS, self.contexts, allow_pickle=False)
            self.vocabulary.save(folder)
        write_json(folder / "users.json", self.user_ids)

    @classmethod
    def load(cls, folder: Path) -> Sequences:
        """Memory-mapped. Raises ArtifactError where a file is missing."""
        import json

        try:
            arrays = {
                name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in _ARRAYS
            }
            vocabulary = Vocabulary.load(folder)
            contexts = (
                None if vocabulary is None else np.load(folder / _CONTEXTS, mmap_mode="r", allow_pickle=False)
            )
            users = json.loads((folder / "users.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{folder} holds no whole sequences: {error}") from error
        return cls(user_ids=users, contexts=contexts, vocabulary=vocabulary, **arrays)


def from_events(events: pl.DataFrame, group: UserGroup, vocabulary: Vocabulary | None = None) -> Sequences:
    """The sequences of ``group`` from ``splits/interactions.parquet`` (sorted by user and position).

    ``vocabulary``: codes of the events' context are kept, too."""
    chosen = events.filter(pl.col(Split.GROUP) == group.value).sort("user_id", Split.POSITION)
    users = chosen.group_by("user_id", maintain_order=True).agg(
        pl.len().alias("length"),
        pl.col(Split.POSITION)
        .filter(pl.col(Split.PART) == Part.VALIDATION.value)
        .min()
        .alias("validation_at"),
        pl.col(Split.POSITION).filter(pl.col(Split.PART) == Part.TEST.value).min().alias("test_at"),
    )
    offsets = np.concatenate([[0], np.cumsum(users["length"].to_numpy())]).astype(np.int64)
    return Sequences(
        items=chosen[Split.ITEM_INDEX].to_numpy().astype(np.int32),
        timestamps=chosen["timestamp"].fill_null(0).to_numpy().astype(np.int64),
        offsets=offsets,
        validation_at=users["validation_at"].fill_null(-1).to_numpy().astype(np.int32),
        test_at=users["test_at"].fill_null(-1).to_numpy().astype(np.int32),
        user_ids=users["user_id"].to_list(),
        contexts=None if vocabulary is None else vocabulary.events(chosen, offsets),
        vocabulary=vocabulary,
    )
