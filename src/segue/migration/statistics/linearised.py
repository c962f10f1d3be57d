"""A mean or a ratio over the users of one arm, with the variance of one user's share in it.

A ratio metric such as CTR is clicks over impressions, both summed over users. Its terms are dependent within a user,
so the delta method is taken over users: with r = mean(c) / mean(m), user u contributes z_u = (c_u - r m_u) / mean(m),
and r - R is the mean of the z_u up to a term of smaller order (Deng, Knoblich & Lu 2018, "Applying the Delta Method in
Metric Analytics", section 3; Cochran 1977, "Sampling Techniques", ch. 6).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from segue.migration.statistics.interval import Floats
from segue.migration.statistics.moments import UserMoments


@dataclass(frozen=True, slots=True)
class ArmEstimate:
    """One arm's figure: ``value``, per-user ``variance`` (the squared standard error is variance / n), users ``n``.

    ``gradient [..., d]`` of the value in the means of the user's figures: its product with a user's centred
    figures is that user's contribution.
    """

    value: Floats
    variance: Floats
    n: Floats
    gradient: Floats


def arm_estimate(moments: UserMoments, numerator: int = 0, denominator: int | None = None) -> ArmEstimate:
    """Figure ``numerator`` a user, or per unit of figure ``denominator``.

    NaN where there are fewer than two users or nothing in the denominator.
    """
    mean = moments.mean
    gradient = np.zeros_like(mean)
    if denominator is None:
        value = mean[..., numerator]
        gradient[..., numerator] = 1.0
    else:
        below = np.where(mean[..., denominator] > 0, mean[..., denominator], np.nan)
        value = mean[..., numerator] / below
        gradient[..., numerator] = 1.0 / below
        gradient[..., denominator] = -value / below
    variance = np.einsum("...i,...ij,...j->...", gradient, moments.covariance, gradient)
    # Rounding can leave a variance of zero a little below it.
    return ArmEstimate(np.asarray(value), np.maximum(variance, 0.0), moments.n, gradient)
