"""The crowd: who comes when, from the seed alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from segue.errors import DataError
from segue.simulation.settings import Population
from segue.simulation.users import Crowd, Histories, draw_crowd
from tests.serving.worlds import write_splits

TEMPLATES = [["a", "b", "c", "d"], ["e"], ["f", "g"]]


@pytest.fixture(scope="module")
def crowd() -> Crowd:
    return draw_crowd(Population(), 3000, TEMPLATES, seed=1)


def test_the_same_seed_gives_the_same_crowd(crowd: Crowd) -> None:
    again, other = draw_crowd(Population(), 3000, TEMPLATES, 1), draw_crowd(Population(), 3000, TEMPLATES, 2)
    for name in Crowd.__slots__:
        assert (getattr(again, name) == getattr(crowd, name)).all()
    assert other.visits != crowd.visits or (other.at != crowd.at).any()


def test_every_user_comes_in_order_and_the_crowd_by_time(crowd: Crowd) -> None:
    assert (np.diff(crowd.at) >= 0).all()
    for user in range(0, 3000, 250):
        own = crowd.user == user
        assert crowd.number[own].tolist() == list(range(own.sum()))
    assert set(crowd.user.tolist()) == set(range(3000))


def test_visits_are_as_many_as_declared_and_heavy_tailed(crowd: Crowd) -> None:
    visits = np.bincount(crowd.user)
    mean = visits.mean()
    assert abs(mean - (1 + Population().visits_mean)) < 0.25  # the cap of 40 visits takes a little away
    assert visits.max() > 6 * mean
    assert visits.max() <= Population().visits_most


def test_base_rates_differ_between_users(crowd: Crowd) -> None:
    population = Population()
    spread = np.sqrt(population.appeal * (1 - population.appeal) / (population.appeal_concentration + 1))
    assert abs(crowd.appeal.mean() - population.appeal) < 4 * spread / np.sqrt(3000)
    assert abs(crowd.appeal.std() - spread) < 0.1 * spread


def test_some_clicks_come_late_and_some_never(crowd: Crowd) -> None:
    never = np.isinf(crowd.delay)
    assert abs(never.mean() - Population().unreported) < 0.01
    assert abs(crowd.delay[~never].mean() - Population().feedback_delay_seconds) < 0.05


def test_a_history_grows_by_one_event_a_visit_and_no_further_than_the_template() -> None:
    histories = Histories(TEMPLATES, length=2)
    assert [histories.at(0, 1, visit) for visit in range(5)] == [
        ["a"], ["a", "b"], ["b", "c"], ["c", "d"], ["c", "d"],
    ]  # fmt: skip


def test_histories_are_the_regular_users(tmp_path: Path) -> None:
    splits = write_splits(tmp_path)
    histories = Histories.read(splits, 5)
    assert len(histories.items) == 27  # of 30, three are replay users
    assert all(len(items) == 8 for items in histories.items)


def test_splits_without_regular_users_are_refused(tmp_path: Path) -> None:
    import polars as pl

    splits = write_splits(tmp_path)
    file = splits / "interactions.parquet"
    pl.read_parquet(file).with_columns(group=pl.lit("new")).write_parquet(file)
    with pytest.raises(DataError, match="no regular user"):
        Histories.read(splits, 5)


def test_simulated_names_cannot_be_taken_for_real_ones() -> None:
    assert Crowd.name(7) == "simulated-000007"
