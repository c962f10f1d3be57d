"""The click model against its closed form, and its promises."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.simulation.click_model import PositionBasedModel, examination

ITEMS = [f"i{number}" for number in range(10)]


@pytest.mark.parametrize(
    ("appeal", "effect"), [(0.2, 1.0), (0.2, 1.5), (0.45, 1.0), (0.45, 2.5), (0.05, 0.5)]
)
def test_clicks_agree_with_the_closed_form(appeal: float, effect: float) -> None:
    """Also where attractiveness reaches its cap: 0.45 · 2.5 · 2 is above one."""
    model = PositionBasedModel(seed=3)
    factor = np.full(len(ITEMS), effect)
    drawn = np.array(
        [model.clicks(f"u{user}", 0, appeal, ITEMS, factor).sum() for user in range(4000)], dtype=float
    )
    error = drawn.std(ddof=1) / np.sqrt(len(drawn))
    assert abs(drawn.mean() - model.expected_clicks(appeal, factor)) < 4 * error


def test_a_rank_is_clicked_in_proportion_to_its_examination() -> None:
    model = PositionBasedModel(seed=5, decay=0.7)
    factor = np.ones(len(ITEMS))
    drawn = np.mean([model.clicks(f"u{user}", 0, 0.4, ITEMS, factor) for user in range(6000)], axis=0)
    expected = 0.4 * np.arange(1, 11) ** -0.7
    assert np.abs(drawn - expected).max() < 4 * np.sqrt(0.25 / 6000)


def test_an_effect_on_some_items_leaves_the_others_as_they_were() -> None:
    model = PositionBasedModel(seed=7)
    factor = np.where(np.arange(10) % 2 == 0, 0.0, 1.0)
    plain = model.clicks("u", 0, 0.9, ITEMS, np.ones(10))
    mixed = model.clicks("u", 0, 0.9, ITEMS, factor)
    assert not mixed[::2].any()
    assert (mixed[1::2] == plain[1::2]).all()


@settings(deadline=None, max_examples=50, derandomize=True)
@given(
    appeal=st.floats(0.01, 0.99),
    low=st.floats(0.1, 3.0),
    high=st.floats(0.1, 3.0),
    visit=st.integers(0, 5),
)
def test_more_attractive_never_loses_a_click(appeal: float, low: float, high: float, visit: int) -> None:
    """The same user at the same visit has the same luck: two truths differ by what was planted alone."""
    model = PositionBasedModel(seed=11)
    less, more = sorted((low, high))
    few = model.clicks("u", visit, appeal, ITEMS, np.full(10, less))
    many = model.clicks("u", visit, appeal, ITEMS, np.full(10, more))
    assert (few <= many).all()
    assert model.expected_clicks(appeal, np.full(10, less)) <= model.expected_clicks(
        appeal, np.full(10, more)
    )


def test_preferences_belong_to_user_and_item() -> None:
    model = PositionBasedModel(seed=13)
    ones = np.ones(10)
    first = model.attractiveness("u", 0.3, ITEMS, ones)
    assert (model.attractiveness("u", 0.3, ITEMS[::-1], ones)[::-1] == first).all()
    assert (model.attractiveness("v", 0.3, ITEMS, ones) != first).any()
    assert (PositionBasedModel(seed=14).attractiveness("u", 0.3, ITEMS, ones) != first).any()


def test_the_first_rank_is_always_looked_at() -> None:
    assert examination(5, 1.0).tolist() == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4, 1 / 5])
    assert examination(3, 0.0).tolist() == [1.0, 1.0, 1.0]
