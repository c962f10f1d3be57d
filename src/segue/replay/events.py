"""Which events are replayed, and in which order.

A user's events keep their order, and each is sent after the list that was asked for before it. Users do not influence one
another (a deployed model is frozen), so they go side by side: wave n holds every user's n-th event, by time. A wave's lists
can then be made by one call.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from segue.canonical import sha256_of_file
from segue.errors import ArtifactError, DataError
from segue.items import ITEMS_FILE
from segue.schema import Interactions, Split, UserGroup


@dataclass(frozen=True, slots=True)
class ReplayEvent:
    """What a user did next, ``position`` counted from 0 within the user."""

    user_id: str
    position: int
    item_id: str


@dataclass(frozen=True, slots=True)
class ReplayEvents:
    """Every event of the replay users; ``snapshot`` is the hash of the file that they come from."""

    table: pl.DataFrame  # user_id, position, item_id, timestamp; sorted by (position, timestamp, user_id)
    snapshot: str

    @classmethod
    def read(cls, splits: Path, *, most: int | None = None) -> ReplayEvents:
        """Of the folder ``splits``; ``most``: the first so many of each user.

        Raises ArtifactError where the splits are missing, DataError where no user was set aside for replay.
        """
        file = splits / "interactions.parquet"
        if not file.is_file():
            raise ArtifactError(f"{file} is missing: run the step splits first")
        ids = pl.scan_parquet(splits / ITEMS_FILE).select(Split.ITEM_INDEX, Interactions.ITEM)
        events = (
            pl.scan_parquet(file)
            .filter(pl.col(Split.GROUP) == UserGroup.REPLAY.value)
            .join(ids, on=Split.ITEM_INDEX, how="inner")
            .select(Interactions.USER, Split.POSITION, Interactions.ITEM, Interactions.TIMESTAMP)
        )
        if most is not None:
            events = events.filter(pl.col(Split.POSITION) < most)
        table = events.sort(
            Split.POSITION, Interactions.TIMESTAMP, Interactions.USER, nulls_last=True
        ).collect()
        if table.is_empty():
            raise DataError(
                f"{splits} sets no user aside for replay: give splits.replay_user_share in the profile and run the graph again"
            )
        return cls(table, sha256_of_file(file))

    @property
    def users(self) -> int:
        return self.table[Interactions.USER].n_unique()

    def __len__(self) -> int:
        return self.table.height

    def waves(self, at_most: int) -> Iterator[list[ReplayEvent]]:
        """Lists of at most ``at_most`` events, no user twice in one, every user's events in order."""
        for _, group in self.table.group_by(Split.POSITION, maintain_order=True):
            rows = [
                ReplayEvent(user, position, item)
                for user, position, item in group.select(
                    Interactions.USER, Split.POSITION, Interactions.ITEM
                ).iter_rows()
            ]
            for start in range(0, len(rows), at_most):
                yield rows[start : start + at_most]
