"""A confidence sequence for a high quantile, such as the 99th percentile of latency, over users.

The quantile is that of a request drawn from a user drawn at random, so that nobody with many requests decides it alone. With
F(t) the mean over users of the share of their requests above t, the q-quantile is the smallest t with F(t) <= 1 - q, and
whether F(t) is below or above 1 - q is what one bounded sequence tells (betting, Waudby-Smith & Ramdas 2024, theorem 3).

The ends are read off a grid that was fixed beforehand: the high end is the first point from which on all points are shown to
have F <= 1 - q, the low end the last point up to which all are shown to have F > 1 - q. F falls in t, so an end on the wrong
side of the true quantile needs the sequence *at one fixed point* (the grid's next one to the truth) to have missed: no
correction for the number of points is due. (The same argument carries sequences of quantiles by Howard & Ramdas 2022,
"Sequential estimation of quantiles", Bernoulli 28(3), for independent draws; requests of one user are not.)

**Assumptions**: those of :mod:`segue.migration.statistics.bounded`. The ends are as coarse as the grid, and err outwards.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from segue.errors import DataError
from segue.migration.statistics.bounded import bets, log_capital
from segue.migration.statistics.interval import ConfidenceSequence, Floats, Form

# Of latencies in milliseconds: 5 % apart, from a hundredth of a millisecond to four minutes.
LATENCY_GRID_MS: Final[Floats] = 0.01 * np.power(1.05, np.arange(350, dtype=np.float64))


class Requests(NamedTuple):
    """Figures of requests ``value [R]`` and the ``user [R]`` whose they are: 0 … N - 1 in the order of closing."""

    value: Floats
    user: npt.NDArray[np.int64]

    @property
    def users(self) -> int:
        return int(self.user.max()) + 1 if len(self.user) else 0


def quantile(
    requests: Requests, q: float, *, confidence: float, grid: Floats = LATENCY_GRID_MS
) -> ConfidenceSequence:
    """Of the figures of one request, user by user, ``q`` in (0, 1). Raises DataError where a figure is no number.

    The high end is infinite (hence null in evidence) while no point of the grid is shown to be above the quantile.
    """
    if not 0.0 < q < 1.0:
        raise ValueError(f"a quantile is between 0 and 1, not {q}")
    wrong = ~np.isfinite(requests.value)
    if wrong.any():
        raise DataError(
            f"figure {int(np.flatnonzero(wrong)[0])} is {requests.value[wrong][0]}: leave the request out or mend it"
        )
    n = requests.users
    if n == 0:
        return ConfidenceSequence(
            Form.BETTING, math.nan, math.nan, math.nan, confidence, 0, note="no user's window has closed yet"
        )
    low, high = _ends(requests, 1.0 - q, confidence, grid)
    return ConfidenceSequence(
        form=Form.BETTING,
        estimate=_estimate(requests, q),
        low=low,
        high=high,
        confidence=confidence,
        n=n,
        note=f"quantile {q:g} of a user's request, on a grid {grid[1] / grid[0] - 1:.0%} apart",
    )


def relative_quantile(
    a: Requests, b: Requests, q: float, *, confidence: float, grid: Floats = LATENCY_GRID_MS
) -> ConfidenceSequence:
    """``quantile(a) / quantile(b) - 1``: one sequence an arm, each with half the error (Boole)."""
    each = 1.0 - (1.0 - confidence) / 2.0
    first = quantile(a, q, confidence=each, grid=grid)
    second = quantile(b, q, confidence=each, grid=grid)

    def ratio(above: float, below: float) -> float:
        return above / below - 1.0 if below > 0 else math.nan

    return ConfidenceSequence(
        form=Form.BETTING,
        estimate=ratio(first.estimate, second.estimate),
        low=ratio(first.low, second.high),
        high=ratio(first.high, second.low) if second.low > 0 else math.inf,
        confidence=confidence,
        n=first.n + second.n,
        note=first.note if first.n and second.n else "an arm has no user whose window has closed",
    )


def shares_above(requests: Requests, threshold: float) -> Floats:
    """Of each user's requests, the share above ``threshold``, ``[N]``."""
    n = requests.users
    made = np.bincount(requests.user, minlength=n)
    slow = np.bincount(requests.user, weights=requests.value > threshold, minlength=n)
    return np.asarray(slow / np.maximum(made, 1), dtype=np.float64)


def _ends(requests: Requests, tail: float, confidence: float, grid: Floats) -> tuple[float, float]:
    target = math.log(2.0 / (1.0 - confidence))
    # Below the fastest and above the slowest request all points are alike.
    first = max(int(np.searchsorted(grid, requests.value.min())) - 1, 0)
    last = min(int(np.searchsorted(grid, requests.value.max())), len(grid) - 1)
    below = np.zeros(len(grid), dtype=bool)
    above = np.zeros(len(grid), dtype=bool)
    for point in range(first, last + 1):
        values = shares_above(requests, float(grid[point]))
        stakes = bets(values, confidence)
        below[point] = log_capital(values, stakes, tail, above=False)[-1] >= target
        above[point] = log_capital(values, stakes, tail, above=True)[-1] >= target
    below[last:], above[:first] = below[last], above[first]
    all_from_here = np.logical_and.accumulate(below[::-1])[::-1]
    all_up_to_here = np.logical_and.accumulate(above)
    high = float(grid[all_from_here.argmax()]) if all_from_here.any() else math.inf
    low = float(grid[np.flatnonzero(all_up_to_here)[-1]]) if all_up_to_here.any() else 0.0
    return low, high


def _estimate(requests: Requests, q: float) -> float:
    order = np.argsort(requests.value, kind="stable")
    weight = 1.0 / np.bincount(requests.user)[requests.user[order]]
    reached = np.cumsum(weight) >= q * weight.sum() - 1e-9
    return float(requests.value[order][reached.argmax()])
