from __future__ import annotations

import numpy as np
import pytest

from segue.migration.simulation import (
    CLICKS,
    LATENCY,
    REQUESTS,
    Effect,
    Population,
    Schedule,
    draw_users,
    observe,
    simulate,
    simulate_assignment,
    simulate_interleaving,
    slow_requests,
)

PEOPLE = Population()


def test_users_are_as_they_were_declared() -> None:
    random = np.random.default_rng(0)
    users = draw_users(PEOPLE, random, (200_000,))
    seen = observe(PEOPLE, users, random)
    assert seen.requests.min() >= 1
    assert seen.requests.mean() == pytest.approx(1 + PEOPLE.requests_mean, rel=0.05)
    assert seen.clicks.sum() / seen.requests.sum() == pytest.approx(PEOPLE.ctr * PEOPLE.reported, rel=0.03)
    assert (seen.fallbacks / seen.requests).mean() == pytest.approx(PEOPLE.fallback_rate, rel=0.05)
    spread = np.exp(PEOPLE.latency_spread**2 / 2)
    assert (seen.latency_ms / seen.requests).mean() == pytest.approx(PEOPLE.latency_ms * spread, rel=0.01)
    assert seen.requests.max() > 100 * seen.requests.mean()  # heavy tails
    slow = slow_requests(PEOPLE, users, seen.requests, random)
    assert (slow / seen.requests).mean() == pytest.approx(0.01, rel=0.05)


def test_the_slowest_requests_are_those_of_the_latencies_themselves() -> None:
    """One request a user, drawn outright: the 99th percentile is where the quadrature says."""
    random = np.random.default_rng(4)
    slowness = draw_users(PEOPLE, random, (1_000_000,)).slowness
    drawn = random.standard_gamma(PEOPLE.latency_shape, 1_000_000) * PEOPLE.latency_ms * slowness
    expected = float(np.quantile(drawn / PEOPLE.latency_shape, 0.99))
    assert PEOPLE.latency_quantile_ms(0.99) == pytest.approx(expected, rel=0.01)


def test_events_of_one_user_are_dependent() -> None:
    """Twice the same users: those who clicked much click much again."""
    random = np.random.default_rng(1)
    users = draw_users(PEOPLE, random, (50_000,))
    first, second = (observe(PEOPLE, users, random) for _ in range(2))
    regulars = (first.requests > 20) & (second.requests > 20)
    shares = [seen.clicks[regulars] / seen.requests[regulars] for seen in (first, second)]
    assert np.corrcoef(*shares)[0, 1] > 0.4


def test_a_planted_truth_reaches_the_treated_alone() -> None:
    schedule = Schedule(experiments=1, looks=1, users=150_000)
    trace = simulate(PEOPLE, schedule, np.random.default_rng(2), Effect(clicks=0.8, latency=1.2), share=0.3)
    a, b = (arm.total[0, 0] for arm in (trace.treatment, trace.control))
    assert float(trace.treatment.n[0, 0]) == pytest.approx(0.3 * 150_000, rel=0.02)
    ratio = (a[CLICKS] / a[REQUESTS]) / (b[CLICKS] / b[REQUESTS])
    assert ratio == pytest.approx(0.8, rel=0.05)
    assert (a[LATENCY] / a[REQUESTS]) / (b[LATENCY] / b[REQUESTS]) == pytest.approx(1.2, rel=0.05)


def test_batches_cover_the_experiments_and_equal_seeds_give_equal_users() -> None:
    whole = Schedule(experiments=7, looks=3, users=5)
    assert [piece.experiments for piece in whole.batches(3)] == [3, 3, 1]
    first, second = (simulate(PEOPLE, whole, np.random.default_rng(9)) for _ in range(2))
    np.testing.assert_array_equal(first.treatment.product, second.treatment.product)
    assert (first.treatment.n + first.control.n == 5).all()


def test_preferences_follow_the_planted_truth_and_counts_only_grow() -> None:
    schedule = Schedule(experiments=2, looks=4, users=20_000)
    even, worse = (
        simulate_interleaving(PEOPLE, schedule, np.random.default_rng(3), Effect(clicks=clicks))
        for clicks in (1.0, 0.7)
    )
    assert abs(even.mean()) < 0.005
    assert worse.mean() < -0.03
    assert set(np.unique(worse)) == {-1.0, 0.0, 1.0}
    counts = simulate_assignment((0.9, 0.1), schedule, np.random.default_rng(4))
    assert (counts[:, -1].sum(axis=-1) == 80_000).all()
    assert (np.diff(counts, axis=1) >= 0).all()
