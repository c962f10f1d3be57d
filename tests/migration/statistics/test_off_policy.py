"""A bandit small enough to be solved by hand: two contexts, three actions."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from segue.errors import DataError
from segue.migration.statistics.interval import Floats
from segue.migration.statistics.off_policy import Estimator, LoggedDecisions, estimate

CONTEXTS = np.array([0.25, 0.75])
LOGGING = np.array([[0.5, 0.25, 0.25], [0.25, 0.25, 0.5]])
TARGET = np.array([[0.0, 0.5, 0.5], [1.0, 0.0, 0.0]])
REWARD = np.array([[0.2, 0.9, 0.4], [0.7, 0.1, 0.3]])
VALUE = float((CONTEXTS[:, None] * TARGET * REWARD).sum())


def decisions(model: Floats, *, logging: Floats = LOGGING, per: int = 1600) -> LoggedDecisions:
    """Every (context, action) as often as it is expected in ``per`` decisions: averages are expectations, exactly."""
    often = np.round(per * CONTEXTS[:, None] * LOGGING).astype(int)
    context, action = (np.repeat(axis.ravel(), often.ravel()) for axis in np.indices((2, 3)))
    return LoggedDecisions(
        user=np.arange(per),
        reward=REWARD[context, action],
        target=TARGET[context, action],
        logging=logging[context, action],
        predicted=model[context, action],
        expected=(TARGET * model).sum(axis=1)[context],
    )


@pytest.mark.parametrize("estimator", list(Estimator))
def test_the_value_is_that_of_the_closed_form(estimator: Estimator) -> None:
    for model in (REWARD, np.zeros((2, 3)), np.full((2, 3), 0.8)):
        found = estimate(decisions(model), estimator)
        assert found.interval.estimate == pytest.approx(VALUE)
        assert found.mean_weight == pytest.approx(1.0)


def test_doubly_robust_needs_only_one_of_model_and_propensities() -> None:
    wrong = np.array([[0.4, 0.4, 0.2], [0.3, 0.3, 0.4]])
    right_model = estimate(decisions(REWARD, logging=wrong), Estimator.DOUBLY_ROBUST)
    assert right_model.interval.estimate == pytest.approx(VALUE)
    assert abs(estimate(decisions(REWARD, logging=wrong), Estimator.IPS).interval.estimate - VALUE) > 0.01


def test_the_effective_sample_size_is_kishs() -> None:
    found = estimate(decisions(REWARD, per=3200), Estimator.SNIPS)
    often = CONTEXTS[:, None] * LOGGING
    weight = TARGET / LOGGING
    expected = 3200 * float((often * weight).sum() ** 2 / (often * weight**2).sum())
    assert found.effective_sample_size == pytest.approx(expected)
    assert found.effective_users == pytest.approx(expected)  # one decision a user here
    assert found.largest_weight == 4.0
    assert math.isfinite(found.interval.low)


def logged(random: np.random.Generator, users: int, each: int) -> LoggedDecisions:
    """Users with ``each`` decisions and a taste of their own, so that decisions of one user are dependent."""
    user = np.repeat(np.arange(users), each)
    taste = np.repeat(random.uniform(0.5, 1.0, users), each)
    context = np.repeat(random.choice(2, size=users, p=CONTEXTS), each)
    action = (random.random(len(user))[:, None] > LOGGING[context].cumsum(axis=1)).sum(axis=1)
    return LoggedDecisions(
        user=user,
        reward=(random.random(len(user)) < taste * REWARD[context, action]).astype(float),
        target=TARGET[context, action],
        logging=LOGGING[context, action],
        predicted=0.75 * REWARD[context, action],
        expected=0.75 * (TARGET * REWARD).sum(axis=1)[context],
    )


def test_the_truth_is_covered_and_the_model_narrows() -> None:
    random = np.random.default_rng(0)
    missed, widths = dict.fromkeys(Estimator, 0), dict.fromkeys(Estimator, 0.0)
    for _ in range(60):
        log = logged(random, 1500, 3)
        for one in Estimator:
            interval = estimate(log, one).interval
            missed[one] += not interval.low <= 0.75 * VALUE <= interval.high
            widths[one] += interval.high - interval.low
    assert max(missed.values()) <= 3
    assert widths[Estimator.DOUBLY_ROBUST] < widths[Estimator.SNIPS] < widths[Estimator.IPS]


def test_decisions_of_one_user_are_not_taken_for_independent() -> None:
    """The same decision written down twenty times is no more than once, as long as the user is known."""
    once = logged(np.random.default_rng(1), 3000, 1)
    again = LoggedDecisions(
        *(np.repeat(getattr(once, name), 20) for name in ("user", "reward", "target", "logging"))
    )
    expected = estimate(once, Estimator.SNIPS).interval
    found = estimate(again, Estimator.SNIPS).interval
    assert (found.n, found.low, found.high) == (
        3000,
        pytest.approx(expected.low),
        pytest.approx(expected.high),
    )
    loose = estimate(replace(again, user=np.arange(60_000)), Estimator.SNIPS).interval
    assert loose.high - loose.low < 0.5 * (found.high - found.low)


def test_few_heavy_weights_have_no_bounds() -> None:
    log = decisions(REWARD)
    assert log.logging is not None
    rare = replace(log, logging=np.where(np.arange(1600) % 400 == 7, 0.0005, 1.0))
    found = estimate(rare, Estimator.IPS)
    assert math.isnan(found.interval.low)
    assert "effective sample size" in found.interval.note
    assert found.mean_weight > 1.3


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"logging": None}, "logged without propensities"),
        ({"logging": np.array([0.5, math.nan])}, r"decision 1 \(user 1\): propensity nan was not declared"),
        ({"logging": np.array([0.0, 0.5])}, r"decision 0 \(user 0\): propensity 0 is 0"),
        ({"logging": np.array([0.5, 1.5])}, "propensity 1.5 is above 1"),
        ({"target": np.array([0.5, 2.0])}, "target probability 2 is no probability"),
        ({"predicted": None}, "reward model are missing"),
        (
            {"user": np.empty(0), "reward": np.empty(0), "target": np.empty(0), "logging": np.empty(0)},
            "no logged decision",
        ),
    ],
)
def test_traffic_without_declared_exploration_is_refused_with_one_reason(
    changes: dict[str, object], told: str
) -> None:
    sound = LoggedDecisions(
        user=np.arange(2), reward=np.ones(2), target=np.full(2, 0.5), logging=np.full(2, 0.5),
        predicted=np.ones(2), expected=np.ones(2),
    )  # fmt: skip
    with pytest.raises(DataError, match=told):
        estimate(replace(sound, **changes), Estimator.DOUBLY_ROBUST)  # type: ignore[arg-type]
