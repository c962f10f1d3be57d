from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from segue.migration.statistics.asymptotic import bounds, multiplier, p_values, tuned_rho


def mixture(total: float, n: float, rho: float) -> float:
    """The normal mixture of exp(l S - l² n / 2), by quadrature: what the closed forms must agree with."""

    def integrand(slope: float) -> float:
        return math.exp(slope * total - slope**2 * n / 2) * norm.pdf(slope, scale=rho)

    peak = rho**2 * total / (1 + n * rho**2)
    width = rho / math.sqrt(1 + n * rho**2)
    return float(quad(integrand, peak - 12 * width, peak + 12 * width, epsabs=0, epsrel=1e-10)[0])


@pytest.mark.parametrize("n", [10, 500, 20_000])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.9875])
def test_the_boundary_is_where_the_mixture_reaches_one_over_alpha(n: int, confidence: float) -> None:
    rho = tuned_rho(5000, confidence)
    total = float(multiplier(np.asarray(n), confidence, rho)) * math.sqrt(n)
    assert mixture(total, n, rho) == pytest.approx(1 / (1 - confidence), rel=1e-6)
    assert mixture(-total, n, rho) == pytest.approx(1 / (1 - confidence), rel=1e-6)


@pytest.mark.parametrize(("z", "n"), [(2.5, 300), (4.0, 5000), (5.5, 60_000)])
def test_the_p_value_is_one_over_the_mixture(z: float, n: int) -> None:
    rho = tuned_rho(5000, 0.95)
    expected = min(1.0, 1.0 / mixture(z * math.sqrt(n), n, rho))
    assert float(p_values(np.asarray(z), np.asarray(n), rho=rho)) == pytest.approx(expected, rel=1e-6)


@given(n=st.integers(1, 10**6), z=st.floats(-8, 8), confidence=st.sampled_from([0.8, 0.95, 0.99]))
@settings(max_examples=60, deadline=None)
def test_interval_and_p_value_agree(n: int, z: float, confidence: float) -> None:
    rho = tuned_rho(5000, confidence)
    outside = abs(z) - float(multiplier(np.asarray(n), confidence, rho))
    p = float(p_values(np.asarray(z), np.asarray(n), rho=rho))
    if abs(outside) > 1e-9:
        assert (p < 1 - confidence) == (outside > 0)


@pytest.mark.parametrize("at", [700, 5000, 90_000])
def test_the_sequence_is_narrowest_where_it_was_asked_to_be(at: int) -> None:
    best = float(multiplier(np.asarray(at), 0.95, tuned_rho(at, 0.95)))
    tried = [
        float(multiplier(np.asarray(at), 0.95, rho))
        for rho in tuned_rho(at, 0.95) * np.geomspace(0.2, 5, 401)
    ]
    assert best == pytest.approx(min(tried), rel=1e-9)


def test_there_is_no_interval_before_the_minimum_nor_without_variance() -> None:
    n = np.array([400.0, 999.0, 1000.0, 1000.0])
    error = np.array([0.1, 0.1, 0.1, 0.0])
    low, high = bounds(np.zeros(4), error, n, confidence=0.95, smaller_arm=n / 2, minimum_users=500)
    np.testing.assert_array_equal(np.isnan(low), [True, True, False, True])
    np.testing.assert_array_equal(np.isnan(high), np.isnan(low))
    assert low[2] < 0 < high[2]


def test_a_figure_of_users_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="users above 0"):
        tuned_rho(0, 0.95)


def test_a_skewed_mean_is_covered_at_every_look() -> None:
    """Log-normal figures, looked at after each user from the minimum on: 400 experiments of 4,000 users."""
    random = np.random.default_rng(3)
    values = random.lognormal(0.0, 1.0, size=(400, 4000))
    n = np.arange(1.0, 4001)
    mean = np.cumsum(values, axis=1) / n
    variance = np.maximum(np.cumsum(values**2, axis=1) - n * mean**2, 0) / np.maximum(n - 1, 1)
    low, high = bounds(mean, np.sqrt(variance / n), np.broadcast_to(n, mean.shape), confidence=0.95)
    missed = ((low > math.exp(0.5)) | (high < math.exp(0.5))).any(axis=1)
    fixed = (np.abs(mean - math.exp(0.5)) > 1.96 * np.sqrt(variance / n))[:, 499:].any(axis=1)
    assert missed.mean() <= 0.05
    assert fixed.mean() > 0.2
