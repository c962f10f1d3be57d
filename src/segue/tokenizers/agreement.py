"""Do items that belong together share codes? Against their content, and against who consumed them together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from segue.tokenizers.registry import Codes

if TYPE_CHECKING:
    import scipy.sparse

Groups = npt.NDArray[np.int64]  # [N, P]: which items share their first 1, 2, … P codes
MAX_QUERIES = 2000  # items whose neighbours are looked at; more are sampled (seeded)
_CHUNK = 256


def prefix_groups(prefixes: Codes) -> Groups:
    """The group of each item by its first d codes, for every depth d of prefixes [N, P]: numbers 0, 1, … in the order
    of the codes."""
    groups = np.zeros(prefixes.shape, dtype=np.int64)
    parents = np.zeros(len(prefixes), dtype=np.int64)
    for depth in range(prefixes.shape[1]):
        size = int(prefixes[:, depth].max(initial=0)) + 1
        _, parents = np.unique(parents * size + prefixes[:, depth], return_inverse=True)
        groups[:, depth] = parents
    return groups


def by_chance(groups: Groups) -> list[float]:
    """At each depth, how often two different items drawn at random share a group; 0 for fewer than two items."""
    count = len(groups)
    if count < 2:
        return [0.0] * groups.shape[1]
    sizes = [np.bincount(groups[:, depth]).astype(np.float64) for depth in range(groups.shape[1])]
    return [float((size * (size - 1)).sum()) / (count * (count - 1)) for size in sizes]


def neighbour_agreement_by_depth(
    vectors: npt.NDArray[np.float32], groups: Groups, neighbours: int, seed: int
) -> list[float]:
    """At each depth, the mean share of the ``neighbours`` nearest other items (Euclidean, exact) that are in the item's
    group."""
    count = len(vectors)
    k = min(neighbours, count - 1)
    if k < 1:
        return [0.0] * groups.shape[1]
    queries = np.arange(count)
    if count > MAX_QUERIES:
        queries = np.sort(np.random.default_rng(seed).choice(count, MAX_QUERIES, replace=False))
    wide = vectors.astype(np.float64)
    norms = (wide**2).sum(axis=1)
    shares = []
    for low in range(0, len(queries), _CHUNK):
        rows = queries[low : low + _CHUNK]
        squared = norms[None, :] - 2.0 * wide[rows] @ wide.T
        squared[np.arange(len(rows)), rows] = np.inf
        nearest = np.argpartition(squared, k - 1, axis=1)[:, :k]
        shares.append((groups[nearest] == groups[rows][:, None, :]).mean(axis=1))
    return [float(share) for share in np.concatenate(shares).mean(axis=0)]


def co_consumption(counts: scipy.sparse.csr_array, groups: Groups) -> dict[str, Any]:
    """Do items that the same users consumed share prefixes more than their popularity alone would have it?

    ``counts`` [N, N]: how often two items were consumed together, symmetric, the diagonal zero; of the training part
    and nothing else. ``by_depth``: of all these pairs, the share that agrees in the first 1, 2, … codes. ``by_chance``:
    the same for pairs that are drawn at random, each item as often as it occurs (the configuration model that Newman
    and Girvan 2004 measure modularity against, without pairs of an item with itself). None where there is no pair.
    """
    pairs = counts.tocoo()
    row, column = pairs.coords
    weight = pairs.data.astype(np.float64)
    total = float(weight.sum())
    depths = groups.shape[1]
    nothing: list[float | None] = [None] * depths
    if total <= 0:
        return {"pairs": 0, "by_depth": nothing, "by_chance": list(nothing)}
    margin = np.bincount(row, weights=weight, minlength=len(groups))
    itself = float((margin**2).sum())
    # With two items alone there is but one pair to draw.
    possible = total**2 - itself
    shared, expected = list(nothing), list(nothing)
    for depth in range(depths):
        group = groups[:, depth]
        shared[depth] = round(float(weight[group[row] == group[column]].sum()) / total, 6)
        inside = float((np.bincount(group, weights=margin) ** 2).sum()) - itself
        expected[depth] = round(inside / possible, 6) if possible > 0 else None
    return {"pairs": int(total / 2), "by_depth": shared, "by_chance": expected}
