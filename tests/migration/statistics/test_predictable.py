from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.migration.statistics.bounded import bets, log_capital
from segue.migration.statistics.interval import Floats
from segue.migration.statistics.predictable import score_range, scores

histories = st.lists(st.tuples(st.floats(0, 1), st.booleans(), st.floats(-20, 20)), min_size=0, max_size=12)
outcomes = st.tuples(st.floats(0, 1), st.floats(0, 1))


def columns(rows: list[tuple[float, bool, float]]) -> tuple[Floats, np.ndarray, Floats]:
    values, treated, covariate = zip(*rows, strict=True)
    return np.asarray(values), np.asarray(treated, dtype=bool), np.asarray(covariate)


@given(before=histories, user=outcomes, x=st.floats(-20, 20), share=st.floats(0.02, 0.98))
@settings(max_examples=100, deadline=None)
def test_whatever_came_before_a_score_is_the_users_own_effect_on_average(
    before: list[tuple[float, bool, float]], user: tuple[float, float], x: float, share: float
) -> None:
    treated_value, control_value = user
    expected = 0.0
    for treated, value, odds in ((True, treated_value, share), (False, control_value, 1 - share)):
        found = scores(
            *columns([*before, (value, treated, x)])[:2], share, columns([*before, (value, treated, x)])[2]
        )
        assert abs(found[-1]) <= score_range(share) + 1e-9
        expected += odds * found[-1]
    assert expected == pytest.approx(treated_value - control_value, abs=1e-9)


def test_scores_agree_with_one_user_after_the_other() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=60)
    y, treated = (random.random(60) < 0.4).astype(float), random.random(60) < 0.3
    found = scores(y, treated, 0.3, x)
    for i in range(60):
        one = (0.5 + y[:i][treated[:i]].sum()) / (1 + treated[:i].sum())
        zero = (0.5 + y[:i][~treated[:i]].sum()) / (1 + (~treated[:i]).sum())
        lift = 0.0
        if i >= 2:
            centred = x[:i] - x[:i].mean()
            lift = (centred * y[:i]).sum() / ((centred**2).sum() + 1) * (x[i] - x[:i].mean())
        one, zero = np.clip([one + lift, zero + lift], 0, 1)
        expected = one - zero + ((y[i] - one) / 0.3 if treated[i] else -(y[i] - zero) / 0.7)
        assert found[i] == pytest.approx(expected)


def test_a_covariate_that_explains_narrows_and_one_that_does_not_leaves() -> None:
    random = np.random.default_rng(1)
    taste = random.random(20_000)
    y, treated = (random.random(20_000) < taste).astype(float), random.random(20_000) < 0.5
    plain, told, noise = (scores(y, treated, 0.5, x) for x in (None, taste, random.normal(size=20_000)))
    assert told.std() < 0.85 * plain.std()
    assert noise.std() == pytest.approx(plain.std(), rel=0.01)


def test_no_effect_is_covered_at_every_look_and_an_effect_is_seen() -> None:
    random = np.random.default_rng(2)
    taste = random.beta(1, 3, size=(300, 3000))
    treated = random.random((300, 3000)) < 0.3
    reach = score_range(0.3)
    crossed = {}
    for lift in (1.0, 0.6):
        y = (random.random((300, 3000)) < taste * np.where(treated, lift, 1.0)).astype(float)
        unit = (scores(y, treated, 0.3, taste) + reach) / (2 * reach)
        stakes = bets(unit, 0.95)
        won = [
            log_capital(unit, stakes, np.full(300, 0.5), above=above) >= np.log(40) for above in (True, False)
        ]
        crossed[lift] = (won[0] | won[1]).any(axis=1).mean()
    assert crossed[1.0] <= 0.05
    assert crossed[0.6] > 0.8


def test_a_share_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        scores(np.zeros(2), np.zeros(2, dtype=bool), 1.0)
