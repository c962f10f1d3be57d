"""The sequential sample-ratio test: do the arms get the shares of users that were planned?

Lindon & Malek (2022), "Anytime-Valid Inference for Multinomial Count Data" (NeurIPS; arXiv 2011.03567), the multinomial test:
under the planned shares theta the Bayes factor against a Dirichlet(beta) mixture,

    O_n = Γ(Σβ) / Γ(Σβ + n) · Π Γ(β_i + x_i) / Γ(β_i) · Π theta_i^(-x_i),

is a nonnegative martingale that begins at one; it ever reaches 1 / alpha with probability alpha at most, and the shares with
O_n below 1 / alpha are a confidence sequence. **Assumption**: users are assigned independently of each other. Users are
counted, not requests, at their first exposure.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from segue.errors import DataError
from segue.migration.statistics.asymptotic import Bounds
from segue.migration.statistics.interval import ConfidenceSequence, Floats, Form

# The mixture is Dirichlet(CONCENTRATION · planned share): it expects shares within some two points of the plan,
# which is where real faults are, and gives up little on gross ones. Fixed before the experiment.
CONCENTRATION: Final = 500.0
_BISECTIONS: Final = 60
_log_gamma = np.frompyfunc(math.lgamma, 1, 1)


def _lgamma(values: Floats) -> Floats:
    return np.asarray(_log_gamma(values), dtype=np.float64)


def log_mixture(counts: Floats, planned: Floats, concentration: float = CONCENTRATION) -> Floats:
    """Log marginal likelihood of the sequence of assignments under the mixture; ``counts [..., K]`` gives ``[...]``."""
    prior = concentration * np.asarray(planned, dtype=np.float64)
    n = counts.sum(axis=-1)
    return np.asarray(
        math.lgamma(concentration)
        - _lgamma(concentration + n)
        + (_lgamma(prior + counts) - _lgamma(prior)).sum(axis=-1)
    )


def log_bayes_factor(counts: Floats, planned: Floats, concentration: float = CONCENTRATION) -> Floats:
    """log O_n for ``counts [..., K]`` users an arm against ``planned [K]`` shares.

    Raises DataError where the shares are no shares, or an arm that should be empty is not.
    """
    counts, planned = np.asarray(counts, dtype=np.float64), _shares(planned)
    return np.asarray(log_mixture(counts, planned, concentration) - (counts * np.log(planned)).sum(axis=-1))


def p_values(counts: Floats, planned: Floats, concentration: float = CONCENTRATION) -> Floats:
    """Anytime-valid p-values ``[...]``: min(1, 1 / O_n)."""
    return np.asarray(np.exp(-np.maximum(log_bayes_factor(counts, planned, concentration), 0.0)))


def share_bounds(
    counts: Floats, planned: Floats, confidence: float, concentration: float = CONCENTRATION
) -> Bounds:
    """The ends ``[K]`` of the confidence sequence for each arm's share, from ``counts [K]``.

    The projection of the joint set: for a share s of arm i the others are best as they were counted, so
    log O is log mixture - x log s - (n - x) log(1 - s) - Σ_{j≠i} x_j log(x_j / (n - x)), convex in s.
    """
    counts, planned = np.asarray(counts, dtype=np.float64), _shares(planned)
    n, marginal = float(counts.sum()), float(log_mixture(counts, planned, concentration))
    limit = -math.log(1.0 - confidence)
    lows, highs = [], []
    for arm, own in enumerate(counts.tolist()):
        others = np.delete(counts, arm)
        seen = others[others > 0]
        rest = marginal - float((seen * np.log(seen / (n - own))).sum())

        def rejected(share: float, own: float = own, rest: float = rest) -> bool:
            if share <= 0.0 or share >= 1.0:
                return (share <= 0.0 and own > 0) or (share >= 1.0 and n > own)
            return rest - own * math.log(share) - (n - own) * math.log1p(-share) >= limit

        centre = own / n if n else 0.5
        ends = []
        for outer in (0.0, 1.0):
            outside, inside = outer, centre
            if rejected(outer):
                for _ in range(_BISECTIONS):
                    middle = 0.5 * (outside + inside)
                    outside, inside = (middle, inside) if rejected(middle) else (outside, middle)
            ends.append(outside)
        lows.append(ends[0])
        highs.append(ends[1])
    return Bounds(np.asarray(lows), np.asarray(highs))


def sample_ratio_deviation(
    counts: Floats, planned: Floats, *, confidence: float, concentration: float = CONCENTRATION
) -> ConfidenceSequence:
    """The largest deviation of any arm's share from its plan.

    ``low`` above zero: the split is not the planned one. ``high`` is how large the deviation may still be.
    """
    counts, planned = np.asarray(counts, dtype=np.float64), _shares(planned)
    n = int(counts.sum())
    low, high = share_bounds(counts, planned, confidence, concentration)
    nearest = np.maximum(np.maximum(low - planned, planned - high), 0.0)
    farthest = np.maximum(np.abs(low - planned), np.abs(high - planned))
    return ConfidenceSequence(
        form=Form.MULTINOMIAL,
        estimate=float(np.abs(counts / n - planned).max()) if n else math.nan,
        low=float(nearest.max()),
        high=float(farthest.max()),
        confidence=confidence,
        n=n,
        note="" if n else "nobody was assigned yet",
    )


def _shares(planned: Floats) -> Floats:
    planned = np.asarray(planned, dtype=np.float64)
    if planned.ndim != 1 or len(planned) < 2 or not (planned > 0).all() or abs(planned.sum() - 1.0) > 1e-9:
        raise DataError(
            f"planned shares {planned.tolist()}: two or more, each above 0, with sum 1; leave out an arm without traffic"
        )
    return planned
