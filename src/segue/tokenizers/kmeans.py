"""k-means for many rows: Lloyd's algorithm (Lloyd 1982) on a sample that doubles, from a k-means++ start.

A rough solution needs few rows: the first passes see a few thousand of them, and each further one twice as many
(the nested samples of Newling and Fleuret 2016, "Nested mini-batch k-means", here with full passes). The start is
greedy k-means++ (Arthur and Vassilvitskii 2007, section 8). Blocks and their order are fixed, so that the result does
not depend on the number of threads.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from segue.tokenizers.parallel import map_blocks, one_thread

Rows = npt.NDArray[np.float32]

START_PER_CENTROID = 16  # rows that k-means++ chooses from
MAX_START_ROWS = 4096  # … but no more than these, or two a centroid: all their distances are held
TRIALS = 16  # draws of k-means++ for each centroid, the best is taken
FIRST_PER_CENTROID = 16  # rows of the first passes
FIRST_PASSES = 12
PASSES = 2  # on each doubled sample
LAST_PASSES = 1  # on all rows given
_BLOCK = 2048


def k_means(rows: Rows, size: int, seed: int) -> Rows:
    """Centroids [size, d] of ``rows`` [n, d], n > size. Deterministic for equal rows, size and seed."""
    rng = np.random.default_rng(seed)
    rows = rows[rng.permutation(len(rows))]
    start = min(START_PER_CENTROID * size, max(MAX_START_ROWS, 2 * size))
    with one_thread():
        table = plus_plus(rows[:start], size, rng, TRIALS)
    count = min(FIRST_PER_CENTROID * size, len(rows))
    passes = FIRST_PASSES
    while True:
        last = count == len(rows)
        for _ in range(LAST_PASSES if last else passes):
            table = lloyd(rows[:count], table)
        if last:
            return table
        passes = PASSES
        count = min(2 * count, len(rows))


def plus_plus(rows: Rows, size: int, rng: np.random.Generator, trials: int) -> Rows:
    """``size`` of ``rows`` [n, d], far from each other: each is the best of ``trials`` drawn in proportion to
    the squared distance to the nearest chosen so far. All n² distances are computed at once: one large product is
    many times faster than ``size`` thin ones."""
    norms = np.einsum("nd,nd->n", rows, rows)
    distances = rows @ rows.T
    distances *= -2.0
    distances += norms
    distances += norms[:, None]
    np.maximum(distances, 0.0, out=distances)
    chosen = [int(rng.integers(len(rows)))]
    closest = distances[chosen[0]]
    for _ in range(size - 1):
        total = np.cumsum(closest, dtype=np.float64)
        drawn = np.searchsorted(total, rng.random(trials) * total[-1], side="right").clip(max=len(rows) - 1)
        closer = np.minimum(distances[drawn], closest)  # [trials, n]
        best = int(np.argmin(closer.sum(axis=1, dtype=np.float64)))
        chosen.append(int(drawn[best]))
        closest = closer[best]
    return np.ascontiguousarray(rows[chosen])


def lloyd(rows: Rows, table: Rows) -> Rows:
    """One pass: every row to its nearest centroid, every centroid to the mean of its rows.

    A centroid without rows goes to the row that is worst described, the next one to the next worst.
    """
    from scipy.sparse import csr_matrix

    size = len(table)
    doubled = np.ascontiguousarray(-2.0 * table.T)
    squared = np.einsum("kd,kd->k", table, table)

    def block(part: slice) -> tuple[Rows, npt.NDArray[np.int64], Rows]:
        piece = rows[part]
        scores = piece @ doubled
        scores += squared
        codes = np.argmin(scores, axis=1)
        counts = np.bincount(codes, minlength=size)
        member = np.argsort(codes, kind="stable")
        starts = np.concatenate([[0], np.cumsum(counts)])
        one_hot = csr_matrix(
            (np.ones(len(piece), dtype=np.float32), member, starts), shape=(size, len(piece))
        )
        return one_hot @ piece, counts, scores[np.arange(len(piece)), codes]

    parts = map_blocks(block, len(rows), _BLOCK)
    sums = np.zeros(table.shape, dtype=np.float64)
    counts = np.zeros(size, dtype=np.int64)
    for part_sums, part_counts, _ in parts:
        sums += part_sums
        counts += part_counts
    moved = (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        distances = np.concatenate([best for _, _, best in parts]) + np.einsum("nd,nd->n", rows, rows)
        moved[empty] = rows[np.argsort(-distances, kind="stable")[: len(empty)]]
    return moved


def left_over(rows: Rows, table: Rows) -> Rows:
    """``rows`` [n, d] less their nearest centroids, in float32: near enough to train the next level on."""
    doubled = np.ascontiguousarray(-2.0 * table.T)
    squared = np.einsum("kd,kd->k", table, table)

    def block(part: slice) -> Rows:
        scores = rows[part] @ doubled
        scores += squared
        rest: Rows = rows[part] - table[np.argmin(scores, axis=1)]
        return rest

    return np.concatenate(map_blocks(block, len(rows), _BLOCK))


def centroid_means(
    rows: Rows, codes: npt.NDArray[np.int64], table: Rows, weights: npt.NDArray[np.int64]
) -> Rows:
    """The weighted mean [k, d] of the rows [n, d] of each code; a code without rows keeps its centroid."""
    from scipy.sparse import csr_matrix

    member = (weights.astype(np.float64), (codes, np.arange(len(rows))))
    sums = csr_matrix(member, shape=(len(table), len(rows))) @ rows.astype(np.float64)
    totals = np.bincount(codes, weights=weights, minlength=len(table))
    means = sums / np.maximum(totals, 1)[:, None]
    return np.where((totals > 0)[:, None], means, table).astype(np.float32)
