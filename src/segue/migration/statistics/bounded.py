"""Confidence sequences for means of bounded figures, without any asymptotics (Waudby-Smith & Ramdas 2024, "Estimating means
of bounded random variables by betting", JRSS-B 86(1)).

**Assumptions**: users in an order that does not depend on their figures (that in which their windows closed), each
with a figure in a known range, the conditional mean of each given those before is the same: nothing else, no variance, no
minimum number, no independence beyond that. The figures are ``values [..., N]``, scaled to [0, 1].

Two forms. *Betting* (theorem 3, hedged capital, with predictable plug-in bets) is the tighter while users are few;
its ends are found by bisection, which is exact because a bettor's capital is monotone in the mean that it bets against.
*Empirical Bernstein* (theorem 2) is closed, hence quick for many looks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from segue.errors import DataError
from segue.migration.statistics.asymptotic import Bounds
from segue.migration.statistics.interval import Floats

_TRUNCATION: Final = 0.5  # c of the paper: how much of its capital a bettor risks at most
_BISECTIONS: Final = 48  # 2^-48 of the range: below any figure that is told


def scaled(values: Floats, low: float, high: float) -> Floats:
    """Figures in ``[low, high]`` as figures in [0, 1]. Raises DataError naming the first user out of range."""
    values = np.asarray(values, dtype=np.float64)
    wrong = ~((values >= low) & (values <= high))
    if wrong.any():
        row = tuple(int(axis[0]) for axis in np.nonzero(wrong))
        raise DataError(
            f"user {row[-1]}'s figure {values[row]} is outside [{low:g}, {high:g}]: a bounded sequence needs the "
            "range that the metric is defined to have; use the asymptotic form where there is none"
        )
    return np.asarray((values - low) / (high - low))


def predictable_moments(values: Floats) -> tuple[Floats, Floats]:
    """Mean and variance of the users *before* each one, ``[..., N]`` each; a half and a quarter before the first.

    The paper's regularised estimates: mean_t = (1/2 + Σ x) / (t + 1), variance_t = (1/4 + Σ (x - mean)²) / (t + 1).
    """
    count = np.arange(1, values.shape[-1] + 1)
    means = (0.5 + np.cumsum(values, axis=-1)) / (count + 1)
    variances = (0.25 + np.cumsum((values - means) ** 2, axis=-1)) / (count + 1)
    return _before(means, 0.5), _before(variances, 0.25)


def _before(values: Floats, first: float) -> Floats:
    start = np.full((*values.shape[:-1], 1), first)
    return np.concatenate([start, values[..., :-1]], axis=-1)


def bets(values: Floats, confidence: float) -> Floats:
    """The predictable plug-in: sqrt(2 log(2 / alpha) / (variance_{t-1} t log(t + 1))), before truncation, ``[..., N]``."""
    _, variances = predictable_moments(values)
    count = np.arange(1, values.shape[-1] + 1)
    return np.asarray(
        np.sqrt(2.0 * math.log(2.0 / (1.0 - confidence)) / (variances * count * np.log1p(count)))
    )


def log_capital(values: Floats, stakes: Floats, mean: Floats | float, *, above: bool) -> Floats:
    """Log capital after each user, ``[..., N]``, of a bettor that the mean is ``above`` (or below) ``mean [...]``.

    The hedged capital's two sides: Π (1 + lambda (x - m)) with 0 <= lambda <= c / m, or Π (1 - lambda (x - m)) with
    0 <= lambda <= c / (1 - m). A nonnegative martingale if the mean is ``mean``, so by Ville's inequality it ever
    reaches 2 / alpha with probability alpha / 2 at most.
    """
    mean = np.asarray(mean, dtype=np.float64)[..., None]
    room = mean if above else 1.0 - mean
    with np.errstate(divide="ignore"):
        capped = np.minimum(stakes, _TRUNCATION / room)
    gains = capped * (values - mean)
    return np.asarray(np.cumsum(np.log1p(gains if above else -gains), axis=-1))


def betting_bounds(values: Floats, confidence: float, looks: Sequence[int] | None = None) -> Bounds:
    """The betting sequence ``[L]`` of ``values [N]`` at ``looks`` (numbers of users; default: after the last).

    The hedged capital max(K⁺, K⁻) / 2 stays below 1 / alpha where neither bettor has reached 2 / alpha. K⁺ falls
    and K⁻ rises in m, so each end is one bisection.
    """
    values = np.asarray(values, dtype=np.float64)
    looks = [len(values)] if looks is None else list(looks)
    stakes = bets(values, confidence)
    target = math.log(2.0 / (1.0 - confidence))
    lows, highs = [], []
    for look in looks:
        lows.append(_end(values[:look], stakes[:look], target, above=True))
        highs.append(_end(values[:look], stakes[:look], target, above=False))
    return Bounds(np.asarray(lows), np.asarray(highs))


def _end(values: Floats, stakes: Floats, target: float, *, above: bool) -> float:
    """The end up to (or from) which the bettor has won: its rejected side, so that rounding widens."""
    rejected, accepted = (0.0, 1.0) if above else (1.0, 0.0)
    if len(values) == 0:
        return rejected
    for _ in range(_BISECTIONS):
        middle = 0.5 * (rejected + accepted)
        won = log_capital(values, stakes, middle, above=above)[-1] >= target
        rejected, accepted = (middle, accepted) if won else (rejected, middle)
    return rejected


def empirical_bernstein_bounds(values: Floats, confidence: float) -> Bounds:
    """The empirical-Bernstein sequence after each user, ``[..., N]``, of ``values [..., N]``.

    Theorem 2: Σ lambda x / Σ lambda ± (log(2 / alpha) + Σ 4 (x_i - mean_{i-1})² psi(lambda_i)) / Σ lambda, with
    psi(lambda) = (-log(1 - lambda) - lambda) / 4 and the predictable plug-in bets truncated at one half.
    """
    values = np.asarray(values, dtype=np.float64)
    means, _ = predictable_moments(values)
    stakes = np.minimum(bets(values, confidence), _TRUNCATION)
    weight = np.cumsum(stakes, axis=-1)
    centre = np.cumsum(stakes * values, axis=-1) / weight
    spent = np.cumsum((values - means) ** 2 * (-np.log1p(-stakes) - stakes), axis=-1)
    half = (math.log(2.0 / (1.0 - confidence)) + spent) / weight
    return Bounds(np.maximum(centre - half, 0.0), np.minimum(centre + half, 1.0))


def difference_bounds(a: Bounds, b: Bounds) -> Bounds:
    """Of two means, from one sequence each at confidence 1 - alpha / 2: together they hold with 1 - alpha, whenever
    either is looked at (Boole). Wider than need be, but it asks nothing of how the arms' users alternate."""
    return Bounds(a.low - b.high, a.high - b.low)
