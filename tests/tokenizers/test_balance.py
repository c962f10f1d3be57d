"""Even clusters against an optimal assignment."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from segue.errors import DataError
from segue.tokenizers.balance import even_bound, even_prices, relaxed_prices
from segue.tokenizers.balanced_residual_kmeans import BalancedResidualKMeans
from segue.tokenizers.residual_kmeans import ResidualKMeans
from segue.tokenizers.settings import TokenizerSettings


def _costs(seed: int, rows: int, size: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return ((rng.normal(size=(rows, 1, 3)) - rng.normal(size=(1, size, 3))) ** 2).sum(axis=2)


def _cheapest(costs: np.ndarray, bound: int) -> float:
    """The least cost by the Hungarian method: every centroid stands there ``bound`` times."""
    copies = np.repeat(costs, bound, axis=1)
    rows, columns = linear_sum_assignment(copies)
    return float(copies[rows, columns].sum())


@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(2, 40),
    size=st.integers(1, 8),
    slack=st.sampled_from([0.0, 0.1, 0.5]),
)
@settings(max_examples=60, deadline=None)
def test_prices_give_the_optimal_assignment_within_the_bound(
    seed: int, rows: int, size: int, slack: float
) -> None:
    costs, bound = _costs(seed, rows, size), even_bound(rows, size, slack)
    prices = even_prices(costs, np.ones(rows, dtype=np.int64), bound)
    chosen = np.argmin(costs + prices, axis=1)
    assert prices.min() >= 0
    assert np.bincount(chosen, minlength=size).max() <= bound
    assert np.isclose(costs[np.arange(rows), chosen].sum(), _cheapest(costs, bound))


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_a_relaxed_start_ends_within_the_bound_and_near_the_optimum(seed: int) -> None:
    costs, weights = _costs(seed, 120, 6), np.ones(120, dtype=np.int64)
    bound = even_bound(120, 6, 0.1)
    start = relaxed_prices(costs, weights, bound, np.zeros(6))
    prices = even_prices(costs, weights, bound, start)
    chosen = np.argmin(costs + prices, axis=1)
    load = np.bincount(chosen, minlength=6)
    assert load.max() <= bound
    cost, least = costs[np.arange(120), chosen].sum(), _cheapest(costs, bound)
    assert least - 1e-9 <= cost <= least + float((prices * (bound - load)).sum()) + 1e-9
    assert cost < 1.1 * least


@pytest.mark.parametrize(
    ("total", "size", "slack", "bound"),
    [(100, 10, 0.0, 10), (100, 10, 0.1, 11), (101, 10, 0.0, 11), (3, 8, 0.1, 1)],
)
def test_the_bound_is_the_even_share_and_the_slack(total: int, size: int, slack: float, bound: int) -> None:
    assert even_bound(total, size, slack) == bound


def test_a_bound_that_cannot_hold_everything_is_refused() -> None:
    with pytest.raises(DataError, match="2 codes of at most 3 items each cannot hold 7 items"):
        even_prices(_costs(0, 7, 2), np.ones(7, dtype=np.int64), 3)


def _crowded(count: int, seed: int) -> np.ndarray:
    """Most items in one of ten groups."""
    rng = np.random.default_rng(seed)
    group = np.minimum(rng.geometric(0.6, count) - 1, 9)
    return (3.0 * rng.normal(size=(10, 6))[group] + rng.normal(size=(count, 6))).astype(np.float32)


@given(seed=st.integers(0, 1000), slack=st.sampled_from([0.0, 0.1, 0.5]))
@settings(max_examples=10, deadline=None)
def test_no_code_of_the_fitted_items_is_used_beyond_the_bound(seed: int, slack: float) -> None:
    vectors = _crowded(300, seed)
    how = TokenizerSettings(level_sizes=(12, 8, 4), iterations=5, balance={"slack": slack})
    codes = BalancedResidualKMeans.fit(vectors, how).encode(vectors)
    for level, size in enumerate((12, 8)):
        assert np.bincount(codes[:, level]).max() <= even_bound(300, size, slack)


def test_plain_residual_k_means_breaks_the_bound_where_the_balanced_one_keeps_it() -> None:
    vectors = _crowded(300, 5)
    how = TokenizerSettings(level_sizes=(12, 8, 4), iterations=5)
    plain = ResidualKMeans.fit(vectors, how).encode(vectors)
    assert np.bincount(plain[:, 0]).max() > even_bound(300, 12, how.balance.slack)


def test_equal_items_share_their_codes_and_widen_the_bound_by_their_number() -> None:
    vectors = np.concatenate([np.repeat(_crowded(10, 1), 5, axis=0), _crowded(50, 2)])
    how = TokenizerSettings(level_sizes=(10, 5, 32), iterations=5, balance={"slack": 0.0})
    codes = BalancedResidualKMeans.fit(vectors, how).encode(vectors)
    for first in range(0, 50, 5):
        assert (codes[first : first + 5] == codes[first]).all()
    assert np.bincount(codes[:, 0]).max() <= 10 + 5 - 1
    assert np.bincount(codes[:, 1]).max() <= 20 + 5 - 1
