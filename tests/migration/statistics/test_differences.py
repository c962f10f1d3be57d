"""Means, ratios, differences and CUPED against resampling, regression and the delta method by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.errors import DataError
from segue.migration.statistics import sequences
from segue.migration.statistics.difference import cuped_difference, difference, relative_difference
from segue.migration.statistics.interval import Form
from segue.migration.statistics.linearised import arm_estimate
from segue.migration.statistics.moments import UserMoments


def users(random: np.random.Generator, n: int, lift: float = 0.0) -> tuple[np.ndarray, ...]:
    """Impressions, clicks and clicks of the month before, of users who differ."""
    taste = random.beta(2, 18, n)
    rate = random.lognormal(2, 1, n)
    impressions = 1.0 + random.poisson(rate)
    clicks = random.binomial(impressions.astype(int), np.minimum(taste * (1 + lift), 1)).astype(float)
    before = random.poisson(rate * taste).astype(float) - 0.1 * rate
    return clicks, impressions, before


@given(
    rows=st.lists(st.tuples(st.floats(-50, 50), st.floats(0, 50)), min_size=4, max_size=30),
    cut=st.integers(1, 3),
)
@settings(max_examples=50, deadline=None)
def test_moments_add_up_and_are_those_of_numpy(rows: list[tuple[float, float]], cut: int) -> None:
    x, y = (np.asarray(column) for column in zip(*rows, strict=True))
    whole = UserMoments.of(x, y)
    parts = UserMoments.of(x[:cut], y[:cut]) + UserMoments.of(x[cut:], y[cut:])
    np.testing.assert_allclose(parts.product, whole.product, atol=1e-9)
    np.testing.assert_allclose(whole.mean, [x.mean(), y.mean()], atol=1e-9)
    np.testing.assert_allclose(whole.covariance, np.cov(x, y), atol=1e-7)


def test_cumulative_moments_are_those_of_the_users_so_far() -> None:
    values = np.random.default_rng(0).random((3, 5, 2))
    each = UserMoments(np.ones((3, 5)), values, values[..., :, None] * values[..., None, :])
    so_far = each.cumulative(1)
    one = UserMoments.of(*values[1, :4].T)
    np.testing.assert_allclose(so_far.covariance[1, 3], one.covariance)
    assert np.isnan(so_far.covariance[:, 0]).all()


def test_a_ratio_has_the_standard_error_that_resampling_users_gives() -> None:
    random = np.random.default_rng(0)
    clicks, impressions, _ = users(random, 4000)
    arm = arm_estimate(UserMoments.of(clicks, impressions), 0, 1)
    picks = random.integers(0, 4000, size=(1500, 4000))
    resampled = clicks[picks].sum(axis=1) / impressions[picks].sum(axis=1)
    assert float(arm.value) == pytest.approx(clicks.sum() / impressions.sum())
    assert math.sqrt(float(arm.variance / arm.n)) == pytest.approx(resampled.std(), rel=0.08)
    by_hand = (clicks - float(arm.value) * impressions) / impressions.mean()
    assert float(arm.variance) == pytest.approx(by_hand.var(ddof=1))
    events = float(arm.value * (1 - arm.value) / impressions.sum())
    assert float(arm.variance / arm.n) > 1.5 * events  # what one would believe if events were independent


def test_a_relative_difference_has_the_standard_error_that_resampling_gives() -> None:
    random = np.random.default_rng(1)
    a, b = random.gamma(4, 30, 3000), random.gamma(4, 25, 2000)
    found = relative_difference(arm_estimate(UserMoments.of(a)), arm_estimate(UserMoments.of(b)))
    resampled = [random.choice(a, 3000).mean() / random.choice(b, 2000).mean() - 1 for _ in range(1500)]
    assert float(found.value) == pytest.approx(a.mean() / b.mean() - 1)
    assert float(found.standard_error) == pytest.approx(np.std(resampled), rel=0.08)


def test_cuped_is_the_regression_on_treatment_and_covariate() -> None:
    """With arms of one size: the coefficient of the treatment in y ~ 1 + treatment + covariate, by least squares."""
    random = np.random.default_rng(2)
    x = random.normal(3, 2, 1000)
    y = 0.7 * x + 0.3 * np.repeat([1.0, 0.0], 500) + random.normal(0, 1, 1000)
    found = cuped_difference(UserMoments.of(y[:500], x[:500]), UserMoments.of(y[500:], x[500:]), covariate=1)
    design = np.column_stack([np.ones(1000), np.repeat([1.0, 0.0], 500), x])
    coefficient, residual, _, _ = np.linalg.lstsq(design, y, rcond=None)
    assert float(found.value) == pytest.approx(coefficient[1])
    classical = math.sqrt(residual[0] / 997 * np.linalg.inv(design.T @ design)[1, 1])
    assert float(found.standard_error) == pytest.approx(classical, rel=0.01)


def test_cuped_explains_the_share_of_the_variance_that_the_covariate_does() -> None:
    random = np.random.default_rng(3)
    arms = [users(random, 20_000), users(random, 20_000)]
    a, b = (UserMoments.of(*arm) for arm in arms)
    plain = difference(arm_estimate(a, 0, 1), arm_estimate(b, 0, 1))
    sharpened = cuped_difference(a, b, covariate=2, numerator=0, denominator=1)
    z = [(c - c.sum() / m.sum() * m) / m.mean() for c, m, _ in arms]
    pooled = np.corrcoef(np.concatenate(z), np.concatenate([arms[0][2], arms[1][2]]))[0, 1]
    assert float(sharpened.standard_error**2 / plain.standard_error**2) == pytest.approx(
        1 - pooled**2, rel=0.02
    )
    assert float(sharpened.standard_error) < 0.9 * float(plain.standard_error)


def test_a_covariate_without_spread_changes_nothing() -> None:
    random = np.random.default_rng(4)
    y = random.normal(size=(2, 700))
    a, b = (UserMoments.of(arm, np.ones(700)) for arm in y)
    found, plain = cuped_difference(a, b, covariate=1), difference(arm_estimate(a), arm_estimate(b))
    assert float(found.value) == pytest.approx(float(plain.value))
    assert float(found.standard_error) == pytest.approx(float(plain.standard_error))


def test_a_covariate_that_the_treatment_moved_is_refused() -> None:
    random = np.random.default_rng(5)
    y, x = random.normal(size=(2, 1000)), random.normal(size=(2, 1000))
    x[0] += 0.5
    a, b = UserMoments.of(y[0], x[0]), UserMoments.of(y[1], x[1])
    with pytest.raises(DataError, match="measured before the user's first exposure"):
        sequences.difference_of_arms(a, b, confidence=0.95, covariate=1)


def test_a_sequence_says_what_it_is_and_why_it_has_no_bounds_yet() -> None:
    random = np.random.default_rng(6)
    a, b = (UserMoments.of(*users(random, n)) for n in (450, 3000))
    early = sequences.difference_of_arms(a, b, confidence=0.95, numerator=0, denominator=1)
    assert math.isnan(early.low)
    assert math.isfinite(early.estimate)
    assert "the smaller arm has 450" in early.protocol
    both = a + UserMoments.of(*users(random, 2000))
    found = sequences.difference_of_arms(both, b, confidence=0.95, numerator=0, denominator=1, covariate=2)
    assert found.low < found.estimate < found.high
    assert found.form is Form.ASYMPTOTIC_CUPED
    assert found.n == 5450
    assert "CUPED" in found.protocol
    constant = sequences.mean(UserMoments.of(np.ones(900)), confidence=0.95)
    assert "do not vary" in constant.note


def test_bounded_sequences_are_scaled_to_their_range() -> None:
    random = np.random.default_rng(7)
    values = random.uniform(-3, 5, 3000)
    found = sequences.bounded_mean(values, confidence=0.95, low=-3, high=5)
    unit = sequences.bounded_mean((values + 3) / 8, confidence=0.95)
    assert found.low == pytest.approx(8 * unit.low - 3)
    assert found.high == pytest.approx(8 * unit.high - 3)
    assert found.low < 1 < found.high
    apart = sequences.bounded_difference(values[:1000], values[1000:] - 0.0, confidence=0.95, low=-3, high=5)
    assert apart.low < 0 < apart.high
    assert apart.n == 3000
    empty = sequences.bounded_mean(np.empty(0), confidence=0.95)
    assert (empty.low, empty.high) == (0.0, 1.0)
    assert "no user" in empty.note


def test_a_figure_that_is_no_number_is_refused_by_user() -> None:
    with pytest.raises(DataError, match="figure 1 of user 2 is nan"):
        UserMoments.of(np.zeros(3), np.array([0.0, 1.0, math.nan]))
    with pytest.raises(DataError, match="one number a user"):
        UserMoments.of(np.zeros(3), np.zeros(4))
