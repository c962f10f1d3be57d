from __future__ import annotations

import math

import numpy as np
import pytest

from segue.errors import DataError
from segue.migration.statistics.bounded import betting_bounds
from segue.migration.statistics.quantile import Requests, quantile, relative_quantile, shares_above

GRID = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])


def drawn(random: np.random.Generator, users: int, scale: float = 1.0) -> Requests:
    """Users with one to five requests; a user's slowness lasts."""
    made = random.integers(1, 6, users)
    user = np.repeat(np.arange(users), made)
    slow = np.exp(0.3 * random.standard_normal(users))[user]
    return Requests(scale * slow * random.exponential(3.0, len(user)), user)


def plain_ends(requests: Requests, q: float, confidence: float) -> tuple[float, float]:
    """From the whole sequence at every point of the grid: what the ends are said to be."""
    bounds = [betting_bounds(shares_above(requests, point), confidence) for point in GRID]
    above = [bool(found.low[-1] >= 1 - q - 1e-9) for found in bounds]
    below = [bool(found.high[-1] <= 1 - q + 1e-9) for found in bounds]
    lows = [point for place, point in enumerate(GRID) if all(above[: place + 1])]
    highs = [point for place, point in enumerate(GRID) if all(below[place:])]
    return max(lows, default=0.0), min(highs, default=math.inf)


@pytest.mark.parametrize("q", [0.5, 0.9])
@pytest.mark.parametrize("users", [1, 30, 400])
def test_the_ends_are_those_of_the_sequence_at_every_point(q: float, users: int) -> None:
    for seed in range(5):
        requests = drawn(np.random.default_rng(seed), users)
        found = quantile(requests, q, confidence=0.95, grid=GRID)
        assert (found.low, found.high) == plain_ends(requests, q, 0.95)
        assert found.n == users


def test_shares_are_those_of_each_user() -> None:
    requests = Requests(np.array([1.0, 5.0, 5.0, 9.0]), np.array([0, 0, 1, 1]))
    assert shares_above(requests, 4.0).tolist() == [0.5, 1.0]
    assert quantile(requests, 0.5, confidence=0.95, grid=GRID).estimate == 5.0


def test_the_truth_is_left_out_seldom_however_often_one_looks() -> None:
    """Clustered users, 20 looks: a point-wise 95 % interval would miss far more often."""
    truth = float(np.quantile(drawn(np.random.default_rng(99), 200_000).value, 0.9))  # of requests
    missed = 0
    for seed in range(60):
        requests = drawn(np.random.default_rng(seed), 400)
        for look in range(20, 401, 20):
            seen = requests.user < look
            found = quantile(
                Requests(requests.value[seen], requests.user[seen]), 0.9, confidence=0.95, grid=GRID
            )
            if not found.low <= truth * 1.02 or not truth * 0.98 <= found.high:
                missed += 1
                break
    assert missed <= 3


def test_a_slower_path_is_found_and_an_equal_one_is_not() -> None:
    random = np.random.default_rng(1)
    same = relative_quantile(drawn(random, 3000), drawn(random, 3000), 0.9, confidence=0.95)
    assert same.low < 0 < same.high
    slower = relative_quantile(drawn(random, 3000, 2.0), drawn(random, 3000), 0.9, confidence=0.95)
    assert slower.low > 0.2
    assert slower.low < slower.estimate < slower.high
    assert slower.n == 6000


def test_two_arms_share_the_error() -> None:
    """Each end is made of two, and each of the two may be missed with half the error (Boole)."""
    a, b = (drawn(np.random.default_rng(seed), 1500) for seed in (1, 2))
    fine = np.geomspace(4.0, 16.0, 400)
    found = relative_quantile(a, b, 0.9, confidence=0.9, grid=fine)
    first, second = (quantile(one, 0.9, confidence=0.95, grid=fine) for one in (a, b))
    assert (found.low, found.high) == (first.low / second.high - 1, first.high / second.low - 1)
    assert found.confidence == 0.9
    alone = [quantile(one, 0.9, confidence=0.9, grid=fine) for one in (a, b)]
    assert found.high > alone[0].high / alone[1].low - 1


def test_nobody_and_nothing_known() -> None:
    nobody = Requests(np.zeros(0), np.zeros(0, dtype=np.int64))
    assert math.isnan(quantile(nobody, 0.99, confidence=0.95).low)
    assert math.isnan(relative_quantile(nobody, nobody, 0.99, confidence=0.95).estimate)
    few = drawn(np.random.default_rng(0), 5)
    assert quantile(few, 0.99, confidence=0.95).high == math.inf
    with pytest.raises(DataError, match="figure 1 is nan"):
        quantile(Requests(np.array([1.0, math.nan]), np.array([0, 1])), 0.9, confidence=0.95)
