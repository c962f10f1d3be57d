"""Items by the company they keep: a truncated SVD of shifted positive PMI (Levy & Goldberg 2014).

Two events of one user are a pair where at most ``window`` steps lie between them. With ``#(i, j)`` pairs of
i and j, ``#(i)`` pairs with i and ``D`` pairs in all, the matrix is

    SPPMI(i, j) = max(0, log(#(i, j) D / (#(i) #(j))) - log k)                 (their eq. 10 and 12)

and the vectors are ``U sqrt(S)`` of its rank-d factorization (their eq. 14), scaled to unit length. Pairs
of an item with itself do not count: repeating an item says nothing about others.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.sparse
import scipy.sparse.linalg
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from segue.data.sequences import Sequences
from segue.encoders.protocol import Vectors
from segue.encoders.settings import EncoderSettings
from segue.encoders.text import unit
from segue.items import ItemVectors


def cooccurrences(sequences: Sequences, items: int, window: int) -> scipy.sparse.csr_array:
    """[N, N] symmetric counts of pairs at most ``window`` steps apart; the diagonal is zero."""
    events = np.asarray(sequences.items, dtype=np.int64)
    offsets = np.asarray(sequences.offsets, dtype=np.int64)
    user = np.repeat(np.arange(len(sequences)), offsets[1:] - offsets[:-1])
    counts = scipy.sparse.csr_array((items, items), dtype=np.float64)
    for distance in range(1, min(window, len(events) - 1) + 1):
        left, right = events[:-distance], events[distance:]
        pair = (user[:-distance] == user[distance:]) & (left != right)
        ones = np.ones(int(pair.sum()), dtype=np.float64)
        counts = (
            counts + scipy.sparse.coo_array((ones, (left[pair], right[pair])), shape=(items, items)).tocsr()
        )
    both = (counts + counts.T).tocsr()
    both.sort_indices()
    return both


def shifted_ppmi(counts: scipy.sparse.csr_array, shift: float) -> scipy.sparse.csr_array:
    """Shifted positive PMI of symmetric pair counts; ``shift`` is k. Where nothing was counted it is zero."""
    pairs = counts.tocoo()
    total = counts.sum()
    margin = np.asarray(counts.sum(axis=1)).ravel()
    row, column = pairs.coords
    value = np.log(pairs.data * total / (margin[row] * margin[column])) - np.log(shift)
    keep = value > 0
    matrix = scipy.sparse.coo_array((value[keep], (row[keep], column[keep])), shape=counts.shape).tocsr()
    matrix.sort_indices()
    return matrix


def factorize(matrix: scipy.sparse.csr_array, dimensions: int, seed: int) -> Vectors:
    """[N, dimensions] ``U sqrt(S)``; columns beyond the rank that can be computed are zero.

    The same on every run: a seeded start vector, one thread, and in each column the entry of largest size
    is positive.
    """
    filled = np.flatnonzero(np.diff(matrix.indptr))
    vectors = np.zeros((matrix.shape[0], dimensions), dtype=np.float32)
    dense = matrix[filled][:, filled]
    rank = min(dimensions, len(filled) - 1)
    if rank < 1:
        return vectors
    start = np.random.default_rng(seed).standard_normal(len(filled))
    with threadpool_limits(limits=1):
        left, sizes, _ = scipy.sparse.linalg.svds(dense, k=rank, v0=start, solver="arpack")
    order = np.argsort(-sizes, kind="stable")
    left, sizes = left[:, order], sizes[order]
    signs = np.sign(left[np.abs(left).argmax(axis=0), np.arange(rank)])
    vectors[filled, :rank] = left * np.where(signs == 0, 1, signs) * np.sqrt(sizes)
    return vectors


def collaborative_vectors(
    training: Sequences, items: int, *, dimensions: int, window: int, shift: float, seed: int
) -> tuple[Vectors, npt.NDArray[np.bool_]]:
    """[N, D] unit vectors and [N] bool. ``training``: the regular users' training part and nothing else.

    Absent is an item that no training event names, or that stands in no pair with a positive PMI.
    """
    matrix = shifted_ppmi(cooccurrences(training, items, window), shift)
    vectors = unit(factorize(matrix, dimensions, seed))
    return vectors, np.abs(vectors).sum(axis=1) > 0


def told_by_company(training: Sequences, item_ids: list[str], settings: EncoderSettings) -> ItemVectors:
    """:func:`collaborative_vectors` of ``item_ids``, as ``settings`` say."""
    vectors, present = collaborative_vectors(
        training,
        len(item_ids),
        dimensions=settings.collaborative_dimensions,
        window=settings.collaborative_window,
        shift=settings.collaborative_shift,
        seed=settings.seed,
    )
    return ItemVectors(vectors=vectors, present=present, item_ids=item_ids)


def carried_over(kept: ItemVectors, item_ids: list[str]) -> ItemVectors:
    """The kept vectors in the order of ``item_ids``; new items are absent, so the space does not move."""
    row_of = {item: row for row, item in enumerate(kept.item_ids)}
    rows = np.array([row_of.get(item, -1) for item in item_ids], dtype=np.int64)
    known = rows >= 0
    vectors = np.zeros((len(item_ids), kept.vectors.shape[1]), dtype=np.float32)
    vectors[known] = kept.vectors[rows[known]]
    present = np.zeros(len(item_ids), dtype=bool)
    present[known] = kept.present[rows[known]]
    return ItemVectors(vectors=vectors, present=present, item_ids=item_ids)


def consumed_together(
    training: Sequences, items: int, *, window: int, count: int, seed: int
) -> npt.NDArray[np.int64]:
    """[count, 2] pairs of items at most ``window`` steps apart, drawn in proportion to how often they are.

    ``training``: the regular users' training part and nothing else. Empty where no two items stand together.
    """
    counts = scipy.sparse.triu(cooccurrences(training, items, window), k=1).tocoo()
    if not counts.nnz:
        return np.zeros((0, 2), dtype=np.int64)
    generator = np.random.default_rng(seed)
    drawn = generator.choice(counts.nnz, size=count, p=counts.data / counts.data.sum())
    pairs = np.stack(counts.coords, axis=1).astype(np.int64)[drawn]
    mirrored = generator.random(count) < 0.5
    pairs[mirrored] = pairs[mirrored][:, ::-1]
    return pairs
