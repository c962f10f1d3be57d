"""Item-to-item collaborative filtering: cosine between the items' users, shrunk, the nearest neighbours kept.

Sarwar et al., "Item-based collaborative filtering recommendation algorithms" (WWW 2001), with the
shrinkage that Bell & Koren (KDD 2007) put on similarities of little support.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file
from scipy import sparse

from segue.cascade.alignment import load_item_ids, rows_of, save_item_ids
from segue.data.sequences import Sequences
from segue.errors import ArtifactError
from segue.items import Items
from segue.paths import Request

NEIGHBOURS = "neighbours.safetensors"


@dataclass(frozen=True)
class ItemKnn:
    """``similarity[i, j]``: how much item i in a history speaks for item j."""

    similarity: sparse.csr_matrix  # [N, N] float32, at most ``neighbours`` entries a row, zero diagonal
    item_ids: list[str]  # [N]
    half_life: float | None  # events after which a history item counts half; None: all count alike

    @classmethod
    def fit(
        cls,
        sequences: Sequences,
        item_ids: list[str],
        *,
        neighbours: int,
        shrinkage: float,
        half_life: float | None = None,
    ) -> ItemKnn:
        """similarity(i, j) = c_ij / (sqrt(c_ii c_jj) + shrinkage), c_ij = users who consumed both.

        Of each row the ``neighbours`` largest are kept; equal ones by item index.
        """
        n = len(item_ids)
        users = np.repeat(np.arange(len(sequences)), np.diff(sequences.offsets))
        seen = sparse.csr_matrix(
            (np.ones(len(users), dtype=np.float32), (users, np.asarray(sequences.items))),
            shape=(len(sequences), n),
        )
        seen.data[:] = 1.0  # repeated events were summed: a user counts once
        together = (seen.T @ seen).tocsr()
        counts = together.diagonal()
        together.setdiag(0)
        together.eliminate_zeros()
        rows = np.repeat(np.arange(n), np.diff(together.indptr))
        norms = np.sqrt(counts[rows] * counts[together.indices])
        together.data = (together.data / (norms + shrinkage)).astype(np.float32)
        return cls(_largest_per_row(together, neighbours), item_ids, half_life)

    def scores(self, requests: Sequence[Request]) -> sparse.csr_matrix:
        """[B, N] float32: the sum over the history, newer items counting more. Seen items are not removed."""
        lengths = np.array([len(request.history) for request in requests], dtype=np.int64)
        rows = np.repeat(np.arange(len(requests)), lengths)
        items = np.concatenate([np.empty(0, dtype=np.int64), *(request.history for request in requests)])
        weights = np.ones(len(items), dtype=np.float32)
        if self.half_life is not None:
            starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
            age = np.repeat(lengths, lengths) - 1 - (np.arange(len(items)) - starts)
            weights = np.exp2(-age / self.half_life).astype(np.float32)
        histories = sparse.csr_matrix(
            (weights, (rows, items)), shape=(len(requests), self.similarity.shape[0]), dtype=np.float32
        )
        return (histories @ self.similarity).tocsr()

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        matrix = self.similarity
        save_file(
            {
                "indptr": matrix.indptr.astype(np.int64),
                "indices": matrix.indices.astype(np.int32),
                "data": matrix.data.astype(np.float32),
                "half_life": np.array([np.nan if self.half_life is None else self.half_life]),
            },
            folder / NEIGHBOURS,
        )
        save_item_ids(self.item_ids, folder)

    @classmethod
    def load(cls, folder: Path, items: Items) -> ItemKnn:
        """Aligned with ``items``; items that it does not know have no neighbours. Raises ArtifactError."""
        if not (folder / NEIGHBOURS).is_file():
            raise ArtifactError(f"{folder / NEIGHBOURS} is missing: run the step incumbent again")
        arrays = load_file(folder / NEIGHBOURS)
        ids = load_item_ids(folder)
        own = sparse.csr_matrix(
            (arrays["data"], arrays["indices"], arrays["indptr"]), shape=(len(ids), len(ids))
        )
        rows = rows_of(items, ids)
        known = np.flatnonzero(rows >= 0)
        place = sparse.csr_matrix(
            (np.ones(len(known), dtype=np.float32), (known, rows[known])), shape=(len(items), len(ids))
        )
        half_life = float(arrays["half_life"][0])
        aligned = (place @ own @ place.T).tocsr()
        return cls(aligned, items.ids, None if np.isnan(half_life) else half_life)


def _largest_per_row(matrix: sparse.csr_matrix, k: int) -> sparse.csr_matrix:
    """Each row's ``k`` largest entries, equal ones by column; rows sorted by column."""
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    order = np.lexsort((matrix.indices, -matrix.data, rows))
    rank = np.arange(len(order)) - matrix.indptr[rows[order]]
    kept = order[rank < k]
    smaller = sparse.csr_matrix((matrix.data[kept], (rows[kept], matrix.indices[kept])), shape=matrix.shape)
    smaller.sort_indices()
    return smaller


def dense(scores: sparse.csr_matrix) -> npt.NDArray[np.float32]:
    """[B, N] with -inf where nothing speaks for an item."""
    found: npt.NDArray[np.float32] = scores.toarray().astype(np.float32)
    return np.where(found > 0, found, np.float32(-np.inf))
