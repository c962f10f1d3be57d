from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.errors import DataError
from segue.migration.statistics.bounded import (
    bets,
    betting_bounds,
    difference_bounds,
    empirical_bernstein_bounds,
    log_capital,
    scaled,
)
from segue.migration.statistics.interval import Floats

unit_values = st.lists(st.floats(0, 1), min_size=1, max_size=40)


def plain_bets(values: list[float], confidence: float) -> list[float]:
    """The predictable plug-in, one user after the other."""
    found, total, squares = [], 0.5, 0.25
    for t, x in enumerate(values, start=1):
        variance = squares / t
        found.append(math.sqrt(2 * math.log(2 / (1 - confidence)) / (variance * t * math.log(t + 1))))
        total += x
        squares += (x - total / (t + 1)) ** 2
    return found


def plain_capital(values: list[float], confidence: float, m: float) -> tuple[float, float]:
    up = down = 1.0
    for x, stake in zip(values, plain_bets(values, confidence), strict=True):
        up *= 1 + min(stake, 0.5 / m if m else math.inf) * (x - m)
        down *= 1 - min(stake, 0.5 / (1 - m) if m < 1 else math.inf) * (x - m)
    return up, down


@given(values=unit_values)
@settings(max_examples=40, deadline=None)
def test_betting_agrees_with_capital_on_a_grid(values: list[float]) -> None:
    low, high = betting_bounds(np.asarray(values), 0.95)
    grid = np.linspace(0.0005, 0.9995, 1000)
    kept = [m for m in grid if max(plain_capital(values, 0.95, float(m))) < 2 / 0.05]
    assert low[-1] <= min(kept) <= low[-1] + 0.002
    assert high[-1] - 0.002 <= max(kept) <= high[-1]


@given(values=unit_values)
@settings(max_examples=40, deadline=None)
def test_bets_and_empirical_bernstein_agree_with_their_formulas(values: list[float]) -> None:
    stakes = plain_bets(values, 0.95)
    np.testing.assert_allclose(bets(np.asarray(values), 0.95), stakes, rtol=1e-9)
    weight = centre = spent = 0.0
    total, low, high = 0.5, [], []
    for t, (x, stake) in enumerate(zip(values, stakes, strict=True), start=1):
        stake, before = min(stake, 0.5), total / t
        weight, centre = weight + stake, centre + stake * x
        spent += 4 * (x - before) ** 2 * (-math.log(1 - stake) - stake) / 4
        total += x
        half = (math.log(2 / 0.05) + spent) / weight
        low.append(max(0.0, centre / weight - half))
        high.append(min(1.0, centre / weight + half))
    found = empirical_bernstein_bounds(np.asarray(values), 0.95)
    np.testing.assert_allclose(found.low, low, atol=1e-9)
    np.testing.assert_allclose(found.high, high, atol=1e-9)


@given(values=unit_values, means=st.tuples(st.floats(0.01, 0.99), st.floats(0.01, 0.99)))
@settings(max_examples=60, deadline=None)
def test_capital_is_monotone_in_the_mean_so_bisection_is_exact(
    values: list[float], means: tuple[float, float]
) -> None:
    x = np.asarray(values)
    stakes, (small, large) = bets(x, 0.95), sorted(means)
    assert (
        log_capital(x, stakes, small, above=True) >= log_capital(x, stakes, large, above=True) - 1e-9
    ).all()
    assert (
        log_capital(x, stakes, small, above=False) <= log_capital(x, stakes, large, above=False) + 1e-9
    ).all()


@given(values=st.lists(st.floats(0, 1), min_size=5, max_size=5), m=st.floats(0.05, 0.95))
@settings(max_examples=40, deadline=None)
def test_capital_is_a_martingale_under_the_mean_it_bets_against(values: list[float], m: float) -> None:
    """Whatever came before, the next user's expected factor is one: a coin of mean m, both faces weighed."""
    for above in (True, False):
        expected = 0.0
        for face, odds in ((0.0, 1 - m), (1.0, m)):
            path = np.asarray([*values, face])
            capital = np.exp(log_capital(path, bets(path, 0.95), m, above=above))
            expected += odds * capital[-1] / capital[-2]
        assert expected == pytest.approx(1.0)


def paths(kind: str, random: np.random.Generator) -> tuple[Floats, float]:
    if kind == "rare":
        return (random.random((300, 2000)) < 0.01).astype(np.float64), 0.01
    if kind == "ties":
        return random.choice([0.0, 0.5, 1.0], size=(300, 2000), p=[0.15, 0.7, 0.15]), 0.5
    return random.beta(0.5, 4.5, size=(300, 2000)), 0.1


@pytest.mark.parametrize("kind", ["rare", "ties", "skewed"])
def test_the_mean_is_covered_at_every_user(kind: str) -> None:
    values, truth = paths(kind, np.random.default_rng(5))
    stakes = bets(values, 0.95)
    bettors = [log_capital(values, stakes, np.full(300, truth), above=above) for above in (True, False)]
    assert (np.maximum(*bettors) >= math.log(40)).any(axis=1).mean() <= 0.05
    low, high = empirical_bernstein_bounds(values, 0.95)
    assert ((low > truth) | (high < truth)).any(axis=1).mean() <= 0.05
    tight = betting_bounds(values[0], 0.95, [100, 2000])
    assert tight.high[0] - tight.low[0] < high[0, 99] - low[0, 99]
    assert tight.high[1] - tight.low[1] < 0.06


def test_looks_are_what_one_would_have_seen_then() -> None:
    values = np.random.default_rng(0).random(200)
    low, high = betting_bounds(values, 0.95, [0, 50, 200])
    assert (low[0], high[0]) == (0.0, 1.0)
    for place, look in ((1, 50), (2, 200)):
        alone = betting_bounds(values[:look], 0.95)
        assert (low[place], high[place]) == (alone.low[0], alone.high[0])


def test_two_arms_cover_their_difference_and_see_a_large_one() -> None:
    random = np.random.default_rng(1)
    missed = seen = 0
    for _ in range(60):
        a, b = random.random(800) < 0.3, random.random(800) < 0.5
        ends = [betting_bounds(arm.astype(np.float64), 0.975, [100, 400, 800]) for arm in (a, b)]
        low, high = difference_bounds(*ends)
        missed += bool(((low > -0.2) | (high < -0.2)).any())
        seen += bool(high[-1] < 0)
    assert missed <= 3
    assert seen > 50


def test_a_figure_outside_its_range_is_named() -> None:
    np.testing.assert_allclose(scaled(np.array([-1.0, 1.0]), -1, 1), [0, 1])
    with pytest.raises(DataError, match=r"user 1's figure 3.0 is outside \[0, 1\]"):
        scaled(np.array([0.0, 3.0]), 0, 1)
    with pytest.raises(DataError, match="user 0's figure nan"):
        scaled(np.array([math.nan]), 0, 1)
