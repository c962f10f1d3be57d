"""The intervals: against scipy, against simulated truth, and at the edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from segue.evaluation.bootstrap import (
    coverage_interval,
    mean_intervals,
    paired_differences,
    users_needed,
)
from segue.evaluation.metrics import coverage


def test_bounds_agree_with_scipy_up_to_resampling_noise() -> None:
    values = np.random.default_rng(3).beta(0.3, 2.0, size=250)
    ours = mean_intervals(values[None], samples=6000, confidence=0.9, seed=1)[0]
    theirs = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=6000,
        confidence_level=0.9,
        method="percentile",
        rng=np.random.default_rng(2),
    )
    error = values.std(ddof=1) / math.sqrt(len(values))
    assert ours.estimate == pytest.approx(values.mean())
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.1 * error)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.1 * error)


def test_intervals_of_hits_cover_the_truth_as_often_as_they_say() -> None:
    generator = np.random.default_rng(11)
    covered = 0
    runs = 400
    for run in range(runs):
        hits = (generator.random(150) < 0.2).astype(float)
        interval = mean_intervals(hits[None], samples=400, confidence=0.9, seed=run)[0]
        covered += interval.low <= 0.2 <= interval.high
    assert (
        0.85 <= covered / runs <= 0.94
    )  # 0.9, the bootstrap's small-sample loss, and 3 standard errors of 400 runs


def test_pairing_removes_what_two_paths_have_in_common() -> None:
    generator = np.random.default_rng(5)
    common = generator.normal(size=300)
    a = common + 0.05 + generator.normal(scale=0.1, size=300)
    paired = paired_differences(a[None], common[None], samples=500, confidence=0.95, seed=1)[0]
    alone = mean_intervals(a[None], samples=500, confidence=0.95, seed=1)[0]
    assert paired.high - paired.low < (alone.high - alone.low) / 5
    assert paired.low <= 0.05 <= paired.high
    with pytest.raises(ValueError, match="same users"):
        paired_differences(np.zeros((1, 3)), np.zeros((1, 4)), samples=10, confidence=0.95, seed=1)


def test_equal_seeds_give_equal_intervals_and_rows_share_their_resamples() -> None:
    values = np.random.default_rng(0).random((2, 60))
    first = mean_intervals(np.vstack([values, values[0] - values[1]]), samples=300, confidence=0.95, seed=4)
    again = mean_intervals(values, samples=300, confidence=0.95, seed=4)
    assert first[:2] == again
    difference = paired_differences(values[:1], values[1:], samples=300, confidence=0.95, seed=4)[0]
    assert difference.low == pytest.approx(first[2].low, abs=1e-12)


def test_undefined_users_are_left_out_and_tiny_samples_have_no_bounds() -> None:
    values = np.array([[1.0, np.nan, 3.0, np.nan], [5.0, np.nan, np.nan, np.nan], [np.nan] * 4])
    some, one, none = mean_intervals(values, samples=200, confidence=0.95, seed=1)
    assert (some.estimate, some.n) == (2.0, 2)
    assert 1.0 <= some.low <= some.high <= 3.0
    assert (one.estimate, one.n) == (5.0, 1)
    assert math.isnan(one.low)
    assert none.n == 0
    assert math.isnan(none.estimate)
    empty = mean_intervals(np.empty((1, 0)), samples=200, confidence=0.95, seed=1)[0]
    assert empty.n == 0
    assert math.isnan(empty.low)


def test_the_coverage_interval_holds_its_estimate_and_knows_who_matters() -> None:
    generator = np.random.default_rng(2)
    lists = np.array([generator.permutation(400)[:5] for _ in range(40)])
    interval = coverage_interval(lists, 400, 5, confidence=0.95)
    assert interval.low < interval.estimate < interval.high
    leave_one_out = np.array([coverage(np.delete(lists, row, axis=0), 400, 5) for row in range(40)])
    jackknife = math.sqrt(39 / 40 * np.square(leave_one_out - leave_one_out.mean()).sum())
    assert interval.high - interval.estimate == pytest.approx(1.959964 * jackknife, rel=1e-5)
    everybody_the_same = coverage_interval(np.tile(np.arange(5), (40, 1)), 80, 5, confidence=0.95)
    assert everybody_the_same.low == everybody_the_same.high == 5 / 80


def test_users_needed_gives_the_power_it_promises() -> None:
    n = users_needed(0.3, -0.05, confidence=0.95, power=0.8)
    assert n is not None
    generator = np.random.default_rng(8)
    means = generator.normal(0.0, 0.3, size=(4000, n)).mean(axis=1)
    shown = means - stats.norm.ppf(0.975) * 0.3 / math.sqrt(n) >= -0.05
    assert shown.mean() == pytest.approx(0.8, abs=0.03)
    assert users_needed(0.3, 0.0) is None  # equal paths can never be shown to differ
    assert users_needed(0.3, -0.05, true_difference=-0.06) is None
    assert users_needed(math.nan, -0.05) is None
    larger = users_needed(0.3, -0.05, true_difference=-0.02)
    assert larger is not None
    assert larger > n
