"""Asymptotic confidence sequences (Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas 2024, "Time-uniform central limit
theory and asymptotic confidence sequences", Annals of Statistics 52(6)).

Theorem 2.2: for an asymptotically linear estimate with standard error s_t after t users,

    estimate ± s_t · sqrt( (x + 1) / x · (log(x + 1) - 2 log alpha) ),    x = t rho²,

covers the truth at all t at once; the error of the level goes to zero as the first look moves to larger t. It is Robbins'
(1970) normal mixture with the empirical variance in place of the known one.

**Assumptions**: users are independent and each user's figure is final when it enters (a user counts once the window
after the first exposure has closed); a little more than two moments exist; the first look is not too early, here
:data:`MINIMUM_USERS` in the smaller arm. That number is no theorem: ``benchmarks/gates.py`` holds it to heavy-tailed counts.
For two arms theorem 2.2 is applied to the estimate's influence function (section 3): t counts the users of both
arms, and s_t is the standard error of the difference.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from segue.migration.statistics.interval import Floats

MINIMUM_USERS: Final = 500  # in the smaller arm, before an asymptotic interval is given at all
# Users of both arms at which the sequence is narrowest. Too small costs little (6 % of the width at eight times as many
# users), too large a lot (100 % at a fortieth).
OPTIMISED_FOR: Final = 5_000


class Bounds(NamedTuple):
    """Low and high ends, NaN (so: nothing is known) before the minimum number of users."""

    low: Floats
    high: Floats


def tuned_rho(optimised_for: float, confidence: float) -> float:
    """The mixture's rho that makes the sequence narrowest at ``optimised_for`` users.

    The squared width is (1 + 1 / x)(log(1 + x) + c) / t with c = -2 log alpha; its derivative in x vanishes
    where x = log(1 + x) + c (the paper writes the root with Lambert's W). The map is a
    contraction for x > 0, so it is iterated. To be fixed before the experiment.
    """
    if not optimised_for > 0:
        raise ValueError(f"optimised_for must be a number of users above 0, not {optimised_for}")
    c = -2.0 * math.log(1.0 - confidence)
    x = c + 1.0
    for _ in range(200):
        x = math.log1p(x) + c
    return math.sqrt(x / optimised_for)


def multiplier(n: Floats, confidence: float, rho: float) -> Floats:
    """Half the sequence's width in standard errors (a fixed 95 % interval has 1.96 here)."""
    x = np.asarray(n, dtype=np.float64) * rho**2
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.sqrt((x + 1.0) / x * (np.log1p(x) - 2.0 * math.log(1.0 - confidence))))


def bounds(
    estimate: Floats,
    standard_error: Floats,
    n: Floats,
    *,
    confidence: float,
    smaller_arm: Floats | None = None,
    optimised_for: float = OPTIMISED_FOR,
    minimum_users: int = MINIMUM_USERS,
) -> Bounds:
    """The sequence at ``n`` users. ``smaller_arm``: the users that must reach the minimum; default: ``n``.

    Shapes broadcast. No bound is given without any variance either: nothing that is estimated is that sure.
    """
    half = standard_error * multiplier(n, confidence, tuned_rho(optimised_for, confidence))
    users = n if smaller_arm is None else smaller_arm
    allowed = (np.asarray(users) >= minimum_users) & (np.asarray(standard_error) > 0)
    half = np.where(allowed, half, np.nan)
    return Bounds(np.asarray(estimate - half), np.asarray(estimate + half))


def users_for(
    room: float, sd: float, confidence: float, power: float, *, optimised_for: float = OPTIMISED_FOR
) -> int:
    """Users at which the sequence, looked at then, leaves out what lies ``room`` from the truth with ``power``.

    Smallest n with room sqrt(n) / sd >= multiplier(n) + z_power. A little too many, because the sequence may have
    done so before; :mod:`segue.migration.power` counts that too. ``sd`` is such that the standard error is sd / sqrt(n).
    """
    quantile, rho = NormalDist().inv_cdf(power), tuned_rho(optimised_for, confidence)

    def resolved(n: int) -> bool:
        return room * math.sqrt(n) / sd >= float(multiplier(np.asarray(n), confidence, rho)) + quantile

    enough = 1
    while not resolved(enough):
        enough *= 2
    short = enough // 2
    while enough - short > 1:
        middle = (short + enough) // 2
        short, enough = (short, middle) if resolved(middle) else (middle, enough)
    return enough


def p_values(z: Floats, n: Floats, *, rho: float) -> Floats:
    """Anytime-valid p-values of estimates ``z`` standard errors from the null: the level at which the sequence would
    just exclude it. log p = (log(x + 1) - z² x / (x + 1)) / 2, capped at one. ``rho`` must not depend on the level.
    """
    x = np.asarray(n, dtype=np.float64) * rho**2
    log_p: npt.NDArray[np.float64] = 0.5 * (np.log1p(x) - np.asarray(z) ** 2 * x / (x + 1.0))
    return np.asarray(np.exp(np.minimum(log_p, 0.0)))
