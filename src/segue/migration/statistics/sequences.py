"""From users to confidence sequences: the functions that evidence is made with.

Each takes users whose window has closed (``docs/statistics.md``) and gives one :class:`ConfidenceSequence`.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from segue.errors import DataError
from segue.migration.statistics import asymptotic
from segue.migration.statistics.asymptotic import MINIMUM_USERS, OPTIMISED_FOR
from segue.migration.statistics.bounded import betting_bounds, difference_bounds, scaled
from segue.migration.statistics.difference import (
    Difference,
    covariate_gap,
    cuped_difference,
    difference,
    relative_difference,
)
from segue.migration.statistics.interval import ConfidenceSequence, Floats, Form
from segue.migration.statistics.linearised import arm_estimate
from segue.migration.statistics.moments import UserMoments

GAP_P: Final = 1e-4  # below it, the arms' covariates do not differ by chance


def bounded_mean(
    values: Floats, *, confidence: float, low: float = 0.0, high: float = 1.0
) -> ConfidenceSequence:
    """Of one figure a user in ``[low, high]``, ``values [N]`` in the order in which the windows closed."""
    unit = scaled(values, low, high)
    n, width = len(unit), high - low
    found = betting_bounds(unit, confidence)
    return ConfidenceSequence(
        form=Form.BETTING,
        estimate=low + width * float(unit.mean()) if n else math.nan,
        low=low + width * float(found.low[-1]),
        high=low + width * float(found.high[-1]),
        confidence=confidence,
        n=n,
        sd=width * float(unit.std(ddof=1)) if n > 1 else math.nan,
        note="" if n else "no user's window has closed yet",
    )


def bounded_difference(
    a: Floats, b: Floats, *, confidence: float, low: float = 0.0, high: float = 1.0
) -> ConfidenceSequence:
    """``mean(a) - mean(b)`` of figures in ``[low, high]``: one betting sequence an arm, each with half the error."""
    each = 1.0 - (1.0 - confidence) / 2.0
    first, second = scaled(a, low, high), scaled(b, low, high)
    found = difference_bounds(betting_bounds(first, each), betting_bounds(second, each))
    width, n = high - low, len(first) + len(second)
    known = len(first) > 1 and len(second) > 1
    squared_error = first.var(ddof=1) / len(first) + second.var(ddof=1) / len(second) if known else math.nan
    return ConfidenceSequence(
        form=Form.BETTING,
        estimate=width * float(first.mean() - second.mean()) if len(first) and len(second) else math.nan,
        low=width * float(found.low[-1]),
        high=width * float(found.high[-1]),
        confidence=confidence,
        n=n,
        sd=width * math.sqrt(squared_error * n),
        note="" if len(first) and len(second) else "an arm has no user whose window has closed",
    )


def mean(
    users: UserMoments,
    *,
    confidence: float,
    numerator: int = 0,
    denominator: int | None = None,
    optimised_for: float = OPTIMISED_FOR,
    minimum_users: int = MINIMUM_USERS,
) -> ConfidenceSequence:
    """Asymptotic, of one arm's mean a user, or of a ratio such as CTR (figure ``numerator`` over ``denominator``)."""
    arm = arm_estimate(users, numerator, denominator)
    error = np.sqrt(arm.variance / arm.n) if arm.n > 0 else np.asarray(math.nan)
    one = Difference(arm.value, np.asarray(error), arm.n, arm.n)
    return _sequence(one, Form.ASYMPTOTIC, confidence, optimised_for, minimum_users)


def difference_of_arms(
    a: UserMoments,
    b: UserMoments,
    *,
    confidence: float,
    numerator: int = 0,
    denominator: int | None = None,
    covariate: int | None = None,
    relative: bool = False,
    optimised_for: float = OPTIMISED_FOR,
    minimum_users: int = MINIMUM_USERS,
) -> ConfidenceSequence:
    """Asymptotic, of ``a - b``, or of ``a / b - 1`` if ``relative``; adjusted by CUPED with a ``covariate``.

    Raises DataError where the covariate differs between the arms by more than chance: it was then not fixed
    before the experiment, or the arms were not drawn at random, and would bias what it should sharpen.
    """
    if covariate is None:
        first = arm_estimate(a, numerator, denominator)
        second = arm_estimate(b, numerator, denominator)
        found = relative_difference(first, second) if relative else difference(first, second)
        return _sequence(found, Form.ASYMPTOTIC, confidence, optimised_for, minimum_users)
    if relative:
        raise ValueError(
            "CUPED is given for absolute differences: divide by the incumbent's figure to tell it"
        )
    _refuse_moved_covariate(a, b, covariate, optimised_for, minimum_users)
    found = cuped_difference(a, b, covariate=covariate, numerator=numerator, denominator=denominator)
    return _sequence(found, Form.ASYMPTOTIC_CUPED, confidence, optimised_for, minimum_users)


def _refuse_moved_covariate(
    a: UserMoments, b: UserMoments, covariate: int, optimised_for: float, minimum_users: int
) -> None:
    gap = covariate_gap(a, b, covariate)
    low, high = asymptotic.bounds(
        gap.value,
        gap.standard_error,
        gap.n,
        confidence=1.0 - GAP_P,
        smaller_arm=gap.smaller_arm,
        optimised_for=optimised_for,
        minimum_users=minimum_users,
    )
    if low > 0 or high < 0:
        raise DataError(
            f"covariate (figure {covariate}): its mean differs between the arms by {float(gap.value):.4g} "
            f"[{float(low):.4g}, {float(high):.4g}], which chance does not explain; use one that was measured "
            "before the user's first exposure, and check the sample ratio"
        )


def _sequence(
    found: Difference, form: Form, confidence: float, optimised_for: float, minimum_users: int
) -> ConfidenceSequence:
    low, high = asymptotic.bounds(
        found.value,
        found.standard_error,
        found.n,
        confidence=confidence,
        smaller_arm=found.smaller_arm,
        optimised_for=optimised_for,
        minimum_users=minimum_users,
    )
    n, fewest = int(found.n), int(found.smaller_arm)
    told = f"narrowest at {optimised_for:g} users, given from {minimum_users} users an arm"
    if fewest < minimum_users:
        told += f"; the smaller arm has {fewest}"
    elif not float(found.standard_error) > 0:
        told += "; the users' figures do not vary, so nothing is known of their spread"
    return ConfidenceSequence(
        form=form,
        estimate=float(found.value),
        low=float(low),
        high=float(high),
        confidence=confidence,
        n=n,
        sd=float(found.standard_error) * math.sqrt(n),
        note=told,
    )
