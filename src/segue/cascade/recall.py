"""Recall: each route proposes its best allowed items. Rows are requests (B), -1 fills what a route cannot."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse

from segue.paths import IndexArray

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]


class DenseIndex:
    """Exact inner-product search over the known items (FAISS ``IndexFlatIP``)."""

    def __init__(self, vectors: Floats, known: Bools) -> None:
        """``vectors`` [N, d], ``known`` [N] which of them may be found."""
        import faiss

        self._items = np.flatnonzero(known)
        self._index = faiss.IndexFlatIP(vectors.shape[1])
        if len(self._items):
            self._index.add(np.ascontiguousarray(vectors[self._items], dtype=np.float32))

    def recall(self, users: Floats, answered: Bools, allowed: Bools, limit: int) -> IndexArray:
        """[B, limit] the best allowed items of user vectors [B, d]; nothing where not ``answered`` [B].

        What a request must not show is dropped after the search, so as many more are searched for as the
        request with the most hidden items hides.
        """
        found = np.full((len(users), limit), -1, dtype=np.int64)
        rows = np.flatnonzero(answered)
        if not len(rows) or not len(self._items):
            return found
        hidden = int((~allowed[np.ix_(rows, self._items)]).sum(axis=1).max())
        _, places = self._index.search(
            np.ascontiguousarray(users[rows], dtype=np.float32), min(len(self._items), limit + hidden)
        )
        found[rows] = first_allowed(self._items[places], allowed[rows], limit)
        return found


def recall_sparse(scores: sparse.csr_matrix, allowed: Bools, limit: int) -> IndexArray:
    """[B, limit] the best allowed items of sparse scores [B, N] above 0; equal scores by item index."""
    rows = np.repeat(np.arange(scores.shape[0]), np.diff(scores.indptr))
    keep = (scores.data > 0) & allowed[rows, scores.indices]
    rows, items, values = rows[keep], scores.indices[keep].astype(np.int64), scores.data[keep]
    order = np.lexsort((items, -values, rows))
    rows, items = rows[order], items[order]
    starts = np.searchsorted(rows, np.arange(scores.shape[0]))
    rank = np.arange(len(rows)) - starts[rows]
    found = np.full((scores.shape[0], limit), -1, dtype=np.int64)
    best = rank < limit
    found[rows[best], rank[best]] = items[best]
    return found


def recall_shared(order: IndexArray, allowed: Bools, limit: int) -> IndexArray:
    """[B, limit] the first allowed items of one order [N] for everybody."""
    hidden = int((~allowed).sum(axis=1).max(initial=0))
    shared = order[: limit + hidden]
    return first_allowed(np.broadcast_to(shared, (len(allowed), len(shared))), allowed, limit)


def first_allowed(items: IndexArray, allowed: Bools, limit: int) -> IndexArray:
    """[B, limit] the first allowed of ``items`` [B, M] (best first) under ``allowed`` [B, N]."""
    fine = np.take_along_axis(allowed, items, axis=1)
    place = np.cumsum(fine, axis=1) - 1
    fine &= place < limit
    rows, columns = np.nonzero(fine)
    found = np.full((len(items), limit), -1, dtype=np.int64)
    found[rows, place[rows, columns]] = items[rows, columns]
    return found
