"""The difference of two arms, absolute or relative, with its standard error; with a covariate, by CUPED."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from segue.migration.statistics.interval import Floats
from segue.migration.statistics.linearised import ArmEstimate, arm_estimate
from segue.migration.statistics.moments import UserMoments


@dataclass(frozen=True, slots=True)
class Difference:
    """``value``, its ``standard_error``, the users of both arms ``n``, and those of the smaller arm."""

    value: Floats
    standard_error: Floats
    n: Floats
    smaller_arm: Floats


def _of(value: Floats, squared_error: Floats, a: ArmEstimate, b: ArmEstimate) -> Difference:
    return Difference(
        np.asarray(value), np.sqrt(np.maximum(squared_error, 0.0)), a.n + b.n, np.minimum(a.n, b.n)
    )


def difference(a: ArmEstimate, b: ArmEstimate) -> Difference:
    """``a - b``; the arms hold different users, so their variances add."""
    return _of(a.value - b.value, _squared_error(a) + _squared_error(b), a, b)


def relative_difference(a: ArmEstimate, b: ArmEstimate) -> Difference:
    """``a / b - 1`` by the delta method: its gradient is (1 / b, -a / b²). NaN where b is not above zero."""
    below = np.where(b.value > 0, b.value, np.nan)
    ratio = a.value / below
    return _of(ratio - 1.0, (_squared_error(a) + ratio**2 * _squared_error(b)) / below**2, a, b)


def cuped_difference(
    a: UserMoments, b: UserMoments, *, covariate: int, numerator: int = 0, denominator: int | None = None
) -> Difference:
    """``a - b`` with figure ``covariate`` taken out: value - theta (mean of a's covariate - mean of b's).

    Deng, Xu, Kohavi & Walker (2013), "Improving the Sensitivity of Online Controlled Experiments by Utilizing
    Pre-Experiment Data", section 3, theta pooled over the arms such that the variance of this very
    difference is least: theta = Σ_arm cov(z, x) / n over Σ_arm var(x) / n, z the user's linearised
    contribution, so that a ratio metric is adjusted alike.

    **Assumption**: the covariate was fixed before the arms were drawn, so before anything that one of them shows and the
    other does not, in an earlier stage too. Then its means differ between the arms by chance alone, by
    O(sqrt(log log n / n)), theta_n - theta is of that order too, and their product is o(sqrt(log log n / n)): the
    sequence of estimates has the same strong approximation as with the true theta, which is what an asymptotic
    confidence sequence asks of it (Waudby-Smith et al. 2024, section 3). A covariate that the treatment moves biases the
    difference by theta times what was moved. :func:`covariate_gap` shows it once that is larger than chance, which is
    later than the bias is larger than the interval: no test takes the place of the assumption.
    """
    first, second = arm_estimate(a, numerator, denominator), arm_estimate(b, numerator, denominator)
    shared, spread, squared_error = [], [], np.zeros_like(first.value)
    for moments, arm in ((a, first), (b, second)):
        covariance = moments.covariance
        shared.append(np.einsum("...i,...i->...", arm.gradient, covariance[..., covariate]) / arm.n)
        spread.append(covariance[..., covariate, covariate] / arm.n)
        squared_error = squared_error + _squared_error(arm)
    all_shared, all_spread = shared[0] + shared[1], spread[0] + spread[1]
    # A covariate that is the same for everybody explains nothing.
    theta = np.divide(all_shared, all_spread, out=np.zeros_like(all_shared), where=all_spread > 0)
    gap = a.mean[..., covariate] - b.mean[..., covariate]
    value = first.value - second.value - theta * gap
    return _of(value, squared_error - theta * all_shared, first, second)


def covariate_gap(a: UserMoments, b: UserMoments, covariate: int) -> Difference:
    """The arms' difference in the covariate itself: no effect can be there, if it was fixed beforehand."""
    return difference(arm_estimate(a, covariate), arm_estimate(b, covariate))


def _squared_error(arm: ArmEstimate) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(arm.variance / arm.n)
