"""Intervals over users: the percentile bootstrap, paired differences, and the users that a margin would take.

The unit is the user: events of one user are dependent, users are not. A resample of U users with
replacement is a vector of multinomial counts, so one matrix product gives every metric's mean in every
resample (Efron & Tibshirani 1993, ch. 6 and 13; the weights are those of Rubin's and Præstgaard & Wellner's
exchangeably weighted bootstraps).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from segue.evaluation.metrics import PAD, Floats, coverage
from segue.paths import IndexArray

_WEIGHTS_AT_ONCE = 2**24  # floats: 128 MiB of resampling weights


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over ``n`` users and its interval. NaN where undefined: bounds need at least two users."""

    estimate: float
    low: float
    high: float
    sd: float  # of one user's value; the standard error is sd / sqrt(n)
    n: int


def mean_intervals(values: Floats, *, samples: int, confidence: float, seed: int) -> list[Interval]:
    """Percentile intervals of the means of ``values [M, U]``, all rows over the same resamples of users.

    NaN entries are left out of their row's mean (a ratio of weighted sums in every resample).
    """
    values = np.atleast_2d(np.asarray(values, dtype=np.float64))
    defined = ~np.isnan(values)
    counts = defined.sum(axis=1)
    replicates = _replicated_means(np.where(defined, values, 0.0), defined, samples, seed)
    tail = (1.0 - confidence) / 2.0
    found = []
    for row, n in enumerate(counts.tolist()):
        own = values[row][defined[row]]
        estimate = float(own.mean()) if n else math.nan
        if n < 2:
            found.append(Interval(estimate, math.nan, math.nan, math.nan, n))
            continue
        low, high = np.nanquantile(replicates[row], [tail, 1.0 - tail])
        found.append(Interval(estimate, float(low), float(high), float(own.std(ddof=1)), n))
    return found


def paired_differences(a: Floats, b: Floats, *, samples: int, confidence: float, seed: int) -> list[Interval]:
    """Percentile intervals of the mean of ``a - b`` (both ``[M, U]``, the same users in the same order).

    Differences are taken within each user before anything is resampled, so what the two have in common
    cancels. Raises ValueError where the shapes differ.
    """
    if np.shape(a) != np.shape(b):
        raise ValueError(f"paired differences need the same users: {np.shape(a)} against {np.shape(b)}")
    return mean_intervals(
        np.asarray(a, np.float64) - np.asarray(b, np.float64),
        samples=samples,
        confidence=confidence,
        seed=seed,
    )


def coverage_interval(lists: IndexArray, catalogue: int, k: int, *, confidence: float) -> Interval:
    """Catalogue coverage at ``k`` with a jackknife interval over users.

    Coverage counts distinct items, and a resample with replacement holds only 63 % of the users: its
    coverage lies below the estimate, and so would a percentile interval. Leaving one user out is harmless:
    it loses the items that this user alone was shown. The jackknife's variance errs upwards (Efron & Stein
    1981), so the interval is wide rather than narrow. ``sd`` is NaN: coverage depends on n itself.
    """
    users = len(lists)
    estimate = coverage(lists, catalogue, k)
    if users < 2 or not catalogue:
        return Interval(estimate if users else math.nan, math.nan, math.nan, math.nan, users)
    head = np.sort(lists[:, :k], axis=1)
    fresh = head != PAD
    fresh[:, 1:] &= head[:, 1:] != head[:, :-1]  # each item once a list
    shown = np.bincount(head[fresh], minlength=1)
    alone = np.zeros(users)
    rows, _ = np.nonzero(fresh)
    np.add.at(alone, rows, shown[head[fresh]] == 1)
    error = math.sqrt((users - 1) / users * float(np.square(alone - alone.mean()).sum())) / catalogue
    z = float(norm.ppf(0.5 + confidence / 2.0))
    return Interval(estimate, max(0.0, estimate - z * error), min(1.0, estimate + z * error), math.nan, users)


def users_needed(
    sd: float, margin: float, *, confidence: float = 0.95, power: float = 0.8, true_difference: float = 0.0
) -> int | None:
    """How many users would show that a paired difference is above ``margin`` (negative: the tolerated loss).

    ``n = ((z[(1 + confidence) / 2] + z[power]) * sd / (true_difference - margin))^2``, rounded up: the
    sample size of a non-inferiority test by the low end of a two-sided interval (Julious 2004), for users
    whose differences have the standard deviation ``sd`` and the mean ``true_difference``. None where no
    number of users would do, because the true difference does not lie above the margin.
    """
    room = true_difference - margin
    if not math.isfinite(sd) or not room > 0:
        return None
    z = float(norm.ppf(0.5 + confidence / 2.0) + norm.ppf(power))
    return max(2, math.ceil((z * sd / room) ** 2))


def _replicated_means(
    values: Floats, defined: npt.NDArray[np.bool_], samples: int, seed: int
) -> npt.NDArray[np.float64]:
    """``[M, samples]`` weighted means; NaN where a resample holds no user with a value."""
    users = values.shape[1]
    if users == 0:
        return np.full((len(values), samples), np.nan)
    generator = np.random.default_rng(seed)
    step = max(1, _WEIGHTS_AT_ONCE // users)
    means = np.empty((len(values), samples))
    everywhere = bool(defined.all())
    for start in range(0, samples, step):
        size = min(step, samples - start)
        weights = generator.multinomial(users, np.full(users, 1.0 / users), size=size).astype(np.float64)
        total = values @ weights.T
        weight = np.float64(users) if everywhere else defined.astype(np.float64) @ weights.T
        with np.errstate(invalid="ignore", divide="ignore"):
            means[:, start : start + size] = total / weight
    return means
