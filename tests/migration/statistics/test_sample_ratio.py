from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import beta

from segue.errors import DataError
from segue.migration.statistics.sample_ratio import (
    CONCENTRATION,
    log_bayes_factor,
    log_mixture,
    p_values,
    sample_ratio_deviation,
    share_bounds,
)


@given(arms=st.lists(st.integers(0, 2), min_size=1, max_size=60))
@settings(max_examples=40, deadline=None)
def test_the_mixture_is_the_product_of_its_predictions(arms: list[int]) -> None:
    """A Dirichlet mixture predicts each user from those before (Pólya's urn): the chain rule must give the same."""
    planned = np.array([0.5, 0.3, 0.2])
    urn, expected = 40.0 * planned, 0.0
    for arm in arms:
        expected += math.log(urn[arm] / urn.sum())
        urn[arm] += 1
    assert float(log_mixture(np.bincount(arms, minlength=3).astype(float), planned, 40.0)) == pytest.approx(
        expected
    )


@pytest.mark.parametrize(("treated", "n", "share"), [(40, 100, 0.5), (61, 900, 0.05)])
def test_the_bayes_factor_agrees_with_integration_over_shares(treated: int, n: int, share: float) -> None:
    def integrand(theta: float) -> float:
        likelihood = treated * math.log(theta / share) + (n - treated) * math.log((1 - theta) / (1 - share))
        return math.exp(likelihood) * beta.pdf(theta, CONCENTRATION * share, CONCENTRATION * (1 - share))

    expected = quad(integrand, 0, 1, points=[share, treated / n], epsabs=0, epsrel=1e-9)[0]
    found = log_bayes_factor(np.array([treated, n - treated]), np.array([share, 1 - share]))
    assert float(found) == pytest.approx(math.log(expected), rel=1e-6)


def test_the_next_user_leaves_the_bayes_factor_where_it_is_on_average() -> None:
    planned, counts = np.array([0.7, 0.2, 0.1]), np.array([31.0, 4.0, 9.0])
    now = math.exp(float(log_bayes_factor(counts, planned)))
    after = [math.exp(float(log_bayes_factor(counts + one, planned))) for one in np.eye(3)]
    assert float(planned @ after) == pytest.approx(now)


@pytest.mark.parametrize("counts", [(480, 520), (0, 7), (900, 90, 10), (300, 0, 310)])
def test_the_ends_of_the_shares_agree_with_a_grid(counts: tuple[int, ...]) -> None:
    planned = np.full(len(counts), 1 / len(counts))
    low, high = share_bounds(np.asarray(counts), planned, 0.95)
    marginal = float(log_mixture(np.asarray(counts, dtype=float), planned))
    fine = np.linspace(0, 1, 401)[1:-1]
    if len(counts) == 2:
        thetas = np.column_stack([fine, 1 - fine])
    else:
        first, second = (axis.ravel() for axis in np.meshgrid(fine, fine))
        inside = first + second < 1 - 1e-9
        thetas = np.column_stack([first, second, 1 - first - second])[inside]
    kept = thetas[marginal - np.log(thetas) @ np.asarray(counts) < math.log(20)]
    np.testing.assert_array_less(low - 1e-9, kept.min(axis=0))
    np.testing.assert_array_less(kept.max(axis=0), high + 1e-9)
    np.testing.assert_allclose(kept.min(axis=0), low, atol=0.006)
    np.testing.assert_allclose(kept.max(axis=0), high, atol=0.006)


def test_a_planned_split_is_kept_at_every_look_and_a_skew_is_found() -> None:
    random = np.random.default_rng(0)
    planned = np.array([0.95, 0.05])
    for share, most, least in ((0.05, 0.05, 0.0), (0.06, 1.0, 0.9)):
        treated = np.cumsum(random.random((300, 20_000)) < share, axis=1)[:, 99::100]
        n = np.arange(100, 20_001, 100)
        found = p_values(np.stack([n - treated, treated], axis=-1), planned).min(axis=1) <= 0.05
        assert least <= found.mean() <= most


def test_the_deviation_says_how_large_it_surely_is_and_may_still_be() -> None:
    even = np.array([0.5, 0.5])
    sound = sample_ratio_deviation(np.array([5050, 4950]), even, confidence=0.95)
    assert (sound.low, sound.estimate) == (0.0, pytest.approx(0.005))
    assert 0.005 < sound.high < 0.05
    skewed = sample_ratio_deviation(np.array([5600, 4400]), even, confidence=0.95)
    assert 0 < skewed.low < skewed.estimate < skewed.high
    nobody = sample_ratio_deviation(np.array([0, 0]), even, confidence=0.95)
    assert math.isnan(nobody.estimate)
    assert (nobody.low, nobody.high) == (0.0, 0.5)


@pytest.mark.parametrize("planned", [[1.0], [0.5, 0.6], [1.0, 0.0]])
def test_shares_that_are_none_are_refused(planned: list[float]) -> None:
    with pytest.raises(DataError, match="planned shares"):
        log_bayes_factor(np.ones(len(planned)), np.asarray(planned))
