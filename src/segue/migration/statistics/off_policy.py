"""What a path would have earned on traffic that another path served: inverse propensity scoring and its kin.

Horvitz & Thompson (1952) for IPS; Swaminathan & Joachims (2015), "The Self-Normalized Estimator for Counterfactual Learning"
(NeurIPS) for SNIPS; Dudík, Langford & Li (2011), "Doubly Robust Policy Evaluation and Learning" (ICML, equation (2)) for DR. With
w = pi(a | x) / mu(a | x), r the reward, q the reward model's word on the action that was shown, v its expectation under pi:

    IPS  Σ w r / N        SNIPS  Σ w r / Σ w        DR  Σ (v + w (r - q)) / N

All three are ratios of sums over users, so the interval is the asymptotic confidence sequence over *users* of a ratio
metric: the decisions of one user are dependent.

**Assumptions**: mu was declared when the decision was logged and is right; every action that pi can take had a chance under
mu (exploration); the reward model was fitted on other data. Where weights are few and large the normal approximation is
no good, so no bound is given until the effective sample size (Kish 1965, (Σ w)² / Σ w²) of users reaches the minimum too.
This is offline evidence: it says what to try, and no gate that asks for online evidence takes it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from segue.errors import DataError
from segue.migration.statistics.asymptotic import MINIMUM_USERS, OPTIMISED_FOR
from segue.migration.statistics.interval import ConfidenceSequence, Floats
from segue.migration.statistics.moments import UserMoments
from segue.migration.statistics.sequences import mean


class Estimator(StrEnum):
    IPS = "ips"
    SNIPS = "snips"
    DOUBLY_ROBUST = "doubly_robust"


@dataclass(frozen=True, slots=True)
class LoggedDecisions:
    """``N`` logged decisions, one entry each; all arrays ``[N]``.

    ``user``: whose it was; ``reward``: what came of it; ``target``: the probability with which the path under
    judgement takes the logged action; ``logging``: the probability with which the serving path took it, as
    declared in the log, NaN (or the whole array None) where it was not. For the doubly robust estimate
    ``predicted``: the reward model's expectation for the logged action, ``expected``: its mean over the actions
    of the path under judgement.
    """

    user: npt.NDArray[np.generic]
    reward: Floats
    target: Floats
    logging: Floats | None
    predicted: Floats | None = None
    expected: Floats | None = None


@dataclass(frozen=True, slots=True)
class OffPolicyEstimate:
    """``interval`` of the reward a decision; ``effective_sample_size`` in decisions, ``effective_users`` the same of users'
    summed weights; ``mean_weight`` is near one where the declared propensities are right (its expectation is one)."""

    estimator: Estimator
    interval: ConfidenceSequence
    effective_sample_size: float
    effective_users: float
    mean_weight: float
    largest_weight: float


def estimate(
    decisions: LoggedDecisions,
    estimator: Estimator,
    *,
    confidence: float = 0.95,
    optimised_for: float = OPTIMISED_FOR,
    minimum_users: int = MINIMUM_USERS,
) -> OffPolicyEstimate:
    """Raises DataError where propensities were not declared or are none, naming the decision and the mend."""
    weight = weights(decisions)
    if estimator is Estimator.IPS:
        numerator, denominator = weight * decisions.reward, np.ones_like(weight)
    elif estimator is Estimator.SNIPS:
        numerator, denominator = weight * decisions.reward, weight
    else:
        if decisions.predicted is None or decisions.expected is None:
            raise DataError(
                "doubly robust: `predicted` and `expected` of a reward model are missing; fit one on other "
                "traffic, or ask for snips"
            )
        corrected = decisions.expected + weight * (decisions.reward - decisions.predicted)
        numerator, denominator = corrected, np.ones_like(weight)
    numerators, denominators, user_weights = _by_user(decisions.user, numerator, denominator, weight)
    users = UserMoments.of(numerators, denominators)
    effective_users = kish(user_weights)
    interval = mean(
        users,
        confidence=confidence,
        numerator=0,
        denominator=1,
        optimised_for=optimised_for,
        minimum_users=minimum_users,
    )
    if effective_users < minimum_users:
        interval = replace(
            interval,
            low=float("nan"),
            high=float("nan"),
            note=f"{interval.note}; the effective sample size is {effective_users:.0f} users: log more exploration",
        )
    return OffPolicyEstimate(
        estimator=estimator,
        interval=interval,
        effective_sample_size=kish(weight),
        effective_users=effective_users,
        mean_weight=float(weight.mean()),
        largest_weight=float(weight.max()),
    )


def kish(weights: Floats) -> float:
    """(Σ w)² / Σ w²: of how many equally weighted units the estimate is as good."""
    squares = float((weights**2).sum())
    return float(weights.sum()) ** 2 / squares if squares > 0 else 0.0


def weights(decisions: LoggedDecisions) -> Floats:
    """Importance weights ``[N]``. Raises DataError, the one way in which undeclared exploration is refused."""
    declared = decisions.logging
    if declared is None:
        raise DataError(
            "off-policy estimate refused: this traffic was logged without propensities, so nothing tells how "
            "likely the shown items were; serve a share with a declared exploration rate and log `propensity`"
        )
    if len(declared) == 0:
        raise DataError("off-policy estimate refused: there is no logged decision")
    mends = (
        (np.isnan(declared), "was not declared: leave out traffic without exploration, or log `propensity`"),
        (
            declared <= 0,
            "is 0, so what was shown could not have been shown: mend the log of the serving path",
        ),
        (declared > 1, "is above 1: a propensity is a probability"),
        (
            ~((decisions.target >= 0) & (decisions.target <= 1)),
            "",
        ),
    )
    for wrong, mend in mends:
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            what = (
                f"propensity {declared[row]:g} {mend}"
                if mend
                else (f"target probability {decisions.target[row]:g} is no probability")
            )
            raise DataError(
                f"off-policy estimate refused: decision {row} (user {decisions.user[row]}): {what}"
            )
    return np.asarray(decisions.target / declared)


def _by_user(user: npt.NDArray[np.generic], *figures: Floats) -> list[Floats]:
    _, index = np.unique(user, return_inverse=True)
    return [np.bincount(index, weights=figure).astype(np.float64) for figure in figures]
