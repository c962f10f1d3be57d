"""Even clusters: the cheapest assignment of rows to centroids in which none takes more than a bound.

Minimise Σᵢ D[i, a(i)] subject to |{i : a(i) = j}| ≤ bound is a transportation problem; its dual variables are one
price p[j] ≥ 0 a centroid, and the optimum is a(i) = argminⱼ D[i, j] + p[j]: a power diagram (Aurenhammer, Hoffmann
and Aronov 1998, "Minkowski-type theorems and least-squares clustering"). So an even assignment can be *kept*, as k
prices, and applied to any later vector.

It is found by successive shortest paths (Ahuja, Magnanti and Orlin 1993, section 9.7): as long as a centroid has too
many rows, one row moves along the cheapest chain of moves that ends where there is room. What follows from argmin D + p
is the cheapest assignment of its own loads, and such chains keep that true. From zero prices the end is therefore the
cheapest of all; many rows are rather started from the prices of the entropic relaxation (Sinkhorn's iteration with
an inequality, Benamou et al. 2015, "Iterative Bregman projections", section 5), where few are left to move.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from segue.errors import DataError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

RELAXED_ROWS = 1 << 14
RELAXED_TEMPERATURES = (0.3, 0.1, 0.03, 0.01)  # in mean squared distances
RELAXED_ITERATIONS = 15


def even_bound(total: int, size: int, slack: float) -> int:
    """The most that a centroid may take: ⌈(1 + slack) · total / size⌉."""
    return int(np.ceil((1.0 + slack) * total / size - 1e-9))


def even_prices(costs: Floats, weights: Ints, bound: int, start: Floats | None = None) -> Floats:
    """Prices [k] with which ``argmin(costs + prices)`` gives no centroid more than ``bound`` in weight.

    ``costs`` [n, k] of rows that each stand for ``weights`` [n] items, which cannot be told apart and stay together:
    with a heaviest row of weight g, the bound that is sure to be met is ``bound + g - 1``, and that one is used. From
    zero prices, and with weights of 1, the assignment is the cheapest. Raises DataError where the bound cannot hold
    everything.
    """
    size = costs.shape[1]
    limit = bound + int(weights.max(initial=1)) - 1
    if limit * size < int(weights.sum()):
        raise DataError(f"{size} codes of at most {limit} items each cannot hold {int(weights.sum())} items")
    choice = np.argmin(costs if start is None else costs + start, axis=1)
    load = np.bincount(choice, weights=weights, minlength=size).astype(np.int64)
    if load.max() <= limit:
        return np.zeros(size) if start is None else start
    moves = _Moves(costs, choice)
    for _ in range(10 * int(weights.sum())):
        if load.max() <= limit:
            return moves.prices()
        for row, left, entered in moves.cheapest_chain(np.flatnonzero(load > limit), load < bound):
            choice[row] = entered
            load[left] -= weights[row]
            load[entered] += weights[row]
            moves.changed(left, entered)
    raise DataError(
        f"the {len(costs)} different vectors stand for so unequal numbers of items that {size} codes cannot share "
        "them evenly: raise tokenizer.balance.slack, or use the tokenizer residual_kmeans"
    )


class _Moves:
    """What it costs to move one row from one centroid to another: the residual graph, contracted to k nodes."""

    def __init__(self, costs: Floats, choice: Ints) -> None:
        self._costs, self._choice = costs, choice  # the choice is changed by the caller
        size = costs.shape[1]
        self._least = np.full((size, size), np.inf)  # [from, to]
        self._row = np.zeros((size, size), dtype=np.int64)  # the row that moves for it
        self._stale = set(range(size))
        self._rounding = 1e-13 * float(np.abs(costs).max(initial=0.0))  # a gain below it is none

    def changed(self, *centroids: int) -> None:
        self._stale.update(centroids)

    def _update(self) -> None:
        for centroid in self._stale:
            members = np.flatnonzero(self._choice == centroid)
            if not len(members):
                self._least[centroid] = np.inf
                continue
            extra = self._costs[members]
            extra -= extra[:, [centroid]]
            best = np.argmin(extra, axis=0)
            self._least[centroid] = extra[best, np.arange(extra.shape[1])]
            self._row[centroid] = members[best]
            self._least[centroid, centroid] = np.inf
        self._stale.clear()

    def cheapest_chain(self, sources: Ints, room: npt.NDArray[np.bool_]) -> list[tuple[int, int, int]]:
        """(row, from, to) of the cheapest chain of moves from one of ``sources`` to a centroid with ``room``.

        Bellman and Ford; there is no negative cycle, for the assignment is the cheapest of its loads.
        """
        self._update()
        size = len(self._least)
        distance = np.full(size, np.inf)
        distance[sources] = 0.0
        before = np.full(size, -1)
        every = np.arange(size)
        for _ in range(size):
            through = distance[:, None] + self._least
            best = np.argmin(through, axis=0)
            found = through[best, every]
            shorter = found < distance - self._rounding
            if not shorter.any():
                break
            distance[shorter], before[shorter] = found[shorter], best[shorter]
        end = int(np.argmin(np.where(room, distance, np.inf)))
        chain = []
        while before[end] >= 0:
            start = int(before[end])
            chain.append((int(self._row[start, end]), start, end))
            end = start
        return chain

    def prices(self) -> Floats:
        """Prices [k] that the assignment follows from: p[j] − p[l] ≤ cost of moving from j to l.

        The shortest distances to any one centroid satisfy this, and so do the negated ones from it (Ahuja, Magnanti
        and Orlin 1993, section 4.2). Their mean over all centroids satisfies it with room to spare wherever there is
        any, so that rounding does not undo the assignment.
        """
        from scipy.sparse.csgraph import floyd_warshall

        self._update()
        least = self._least.copy()
        np.fill_diagonal(least, 0.0)
        # A centroid without rows may cost anything: bound it, or its distances would be infinite.
        least = np.minimum(least, 2.0 * np.abs(self._costs).max() + 1.0)
        distances = floyd_warshall(least)
        prices = (distances.mean(axis=1) - distances.mean(axis=0)) / 2.0
        return np.asarray(prices - prices.min())


def relaxed_prices(costs: Floats, weights: Ints, bound: int, start: Floats) -> Floats:
    """Nearly even prices [k], from ``start`` [k]: p ← max(0, p + ε·ln(load / bound)) with load the column sums of
    the rows' softmax(−(costs + p) / ε), for falling ε. At most ``RELAXED_ROWS`` evenly spread rows are looked at."""
    every = max(1, -(-len(costs) // RELAXED_ROWS))
    costs, weights = costs[::every], weights[::every]
    target = bound / every
    spread = float(costs.min(axis=1).mean())
    prices = start.copy()
    for temperature in RELAXED_TEMPERATURES:
        epsilon = max(temperature * spread, 1e-12)
        for _ in range(RELAXED_ITERATIONS):
            logits = (costs + prices) / -epsilon
            logits -= logits.max(axis=1, keepdims=True)
            shares = np.exp(logits)
            shares *= (weights / shares.sum(axis=1))[:, None]
            load = np.maximum(shares.sum(axis=0), 1e-9 * target)
            prices = np.maximum(prices + epsilon * np.log(load / target), 0.0)
    return prices
