"""How the incumbent's models are chosen: NDCG@10 over the full catalogue on the validation targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from segue.data.sequences import Sequences
from segue.protocols import HistoryBatch
from segue.schema import Part
from segue.training.batches import target_batches

CUTOFF = 10
_BATCH = 128


@dataclass(frozen=True)
class Vocabulary:
    """The items that a model has rows for: those that occur in what it is trained on."""

    items: npt.NDArray[np.int64]  # [V] item indices, ascending
    rows: npt.NDArray[np.int64]  # [N] the row of each item, -1: none

    @classmethod
    def of(cls, sequences: Sequences, n_items: int) -> Vocabulary:
        items = np.unique(sequences.items).astype(np.int64)
        rows = np.full(n_items, -1, dtype=np.int64)
        rows[items] = np.arange(len(items))
        return cls(items, rows)

    def apply(self, sequences: Sequences) -> Sequences:
        """The sequences in rows instead of item indices; -1 where an item has none."""
        return Sequences(
            items=self.rows[sequences.items].astype(np.int32),
            timestamps=sequences.timestamps,
            offsets=sequences.offsets,
            validation_at=sequences.validation_at,
            test_at=sequences.test_at,
            user_ids=sequences.user_ids,
        )


class Validation:
    """The validation targets of a group of users, ready to be ranked after every epoch.

    Everything is in rows of one vocabulary. The history of a target is training data, so it has rows
    throughout; a target without a row is a miss.
    """

    def __init__(self, sequences: Sequences, rows: int, max_length: int) -> None:
        """``sequences``: already in rows."""
        self._sequences = sequences
        self._targets = sequences.targets(Part.VALIDATION.value)
        self._max_length = max_length
        self._seen = np.zeros((len(self._targets), rows), dtype=bool)
        for row, (user, position) in enumerate(self._targets):
            self._seen[row, sequences.user(user)[0][:position]] = True

    def __len__(self) -> int:
        return len(self._targets)

    def ndcg(self, users: Callable[[HistoryBatch], Tensor], items: Tensor) -> float:
        """Mean NDCG@10 of user vectors [B, d] against item vectors [V, d]; seen items are filtered, ties
        cost.
        """
        total = 0.0
        with torch.inference_mode():
            for batch, wanted, rows in target_batches(
                self._sequences, self._targets, batch_size=_BATCH, max_length=self._max_length
            ):
                scores = (users(batch) @ items.T).float().cpu().numpy()
                scores[self._seen[rows]] = -np.inf
                total += float(gains(scores, wanted).sum())
        return total / len(self._targets)


def gains(scores: npt.NDArray[np.float32], targets: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """[B] 1 / log2(rank + 1) where the target's rank is at most 10, else 0, for scores [B, V].

    A target of -1, or whose score is -inf, is a miss; among equal scores the target comes last.
    """
    own = scores[np.arange(len(targets)), np.maximum(targets, 0)]
    rank = (scores >= own[:, None]).sum(axis=1)
    hit = (targets >= 0) & np.isfinite(own) & (rank <= CUTOFF)
    return np.where(hit, 1.0 / np.log2(rank + 1.0), 0.0)
