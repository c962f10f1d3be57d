from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from segue.migration.decide import Target
from segue.migration.online_drift import (
    Period,
    ServedSince,
    newest_period,
    of_champion,
    performance_drift,
    served_since,
)
from segue.migration.settings import OnlineSettings
from tests.migration.builders import NOON, bundle, machine, promote
from tests.migration.experiments import CONTENDER, INCUMBENT_ALONE, at_pilot

DAY = 86_400.0
SETTINGS = OnlineSettings()
SECOND = Period(1, (0.0, 7 * DAY), (7 * DAY, 14 * DAY))


def week(seed: int, users: int = 4000, ctr: float = 0.1) -> pl.DataFrame:
    """Users whose taste lasts (it is drawn by one seed), clicking anew each week."""
    taste = np.minimum(np.random.default_rng(0).beta(2, 18, users) * ctr / 0.1, 1.0)
    random = np.random.default_rng(seed)
    impressions = 10 * (1 + random.poisson(2, users))
    clicks = random.binomial(impressions, taste)
    return pl.DataFrame(
        {"user_hash": [f"u{n}" for n in range(users)], "clicks": clicks, "impressions": impressions}
    )


def test_a_loss_is_found_and_equal_weeks_are_not_called_one() -> None:
    lost = performance_drift(week(1), week(2, ctr=0.07), SECOND, SETTINGS)
    assert lost.drifted
    assert "-3" in lost.told
    assert not any(performance_drift(week(1), week(seed), SECOND, SETTINGS).drifted for seed in range(2, 40))
    assert not performance_drift(week(1), week(2, ctr=0.13), SECOND, SETTINGS).drifted
    small = performance_drift(week(1), week(2, ctr=0.097), SECOND, SETTINGS)
    assert not small.drifted  # within the tolerance


def test_too_few_users_say_nothing() -> None:
    found = performance_drift(week(1, users=40), week(2, users=40, ctr=0.01), SECOND, SETTINGS)
    assert np.isnan(found.interval.high)
    assert not found.drifted


def test_later_periods_spend_less_and_all_of_them_together_no_more_than_the_error() -> None:
    errors = [
        1
        - performance_drift(
            week(1, 600), week(2, 600), Period(k, (0, 1), (k, k + 1)), SETTINGS
        ).interval.confidence
        for k in (1, 2, 3)
    ]
    assert errors == pytest.approx([0.05 * 6 / np.pi**2 / k**2 for k in (1, 2, 3)])
    assert sum(0.05 * 6 / (np.pi * k) ** 2 for k in range(1, 100_000)) < 0.05


def test_the_newest_period_has_ended_with_its_late_feedback() -> None:
    since = ServedSince(1000.0, "M", frozenset())
    late = SETTINGS.late_seconds
    assert newest_period(since, SETTINGS, 1000 + 14 * DAY + late - 1) is None
    found = newest_period(since, SETTINGS, 1000 + 14 * DAY + late)
    assert found == Period(1, (1000, 1000 + 7 * DAY), (1000 + 7 * DAY, 1000 + 14 * DAY))
    later = newest_period(since, SETTINGS, 1000 + 30 * DAY)
    assert later is not None
    assert (later.number, later.recent) == (3, (1000 + 21 * DAY, 1000 + 28 * DAY))


def test_what_serves_goes_back_to_when_its_weights_began(tmp_path: Path) -> None:
    assert served_since(machine(tmp_path).state) is None
    found = at_pilot(tmp_path)
    cascade = served_since(found.state)
    assert cascade is not None
    # The cascade is the champion all along, whatever came beside it.
    assert cascade.served == {(1, "cascade"), (2, "control")}
    assert (cascade.model, cascade.began_at) == (INCUMBENT_ALONE.incumbent_id, NOON.timestamp())
    found.advance(promote(Target.HYBRID, CONTENDER), CONTENDER)
    blended = served_since(found.state)
    assert blended is not None
    assert (blended.model, blended.served) == ("M1", {(3, "treatment")})
    newer = bundle("C", model="M2")
    found.refresh(promote(Target.REFRESH_RETRAIN, newer), newer)
    retrained = served_since(found.state)
    assert retrained is not None
    assert (retrained.model, retrained.served) == ("M2", {(4, "treatment")})


def test_a_user_of_two_revisions_is_one_row() -> None:
    sums = pl.DataFrame(
        {
            "user_hash": ["u", "u", "u", "v"], "arm": ["control", "control", "treatment", "control"],
            "deployment": [2, 3, 3, 9], "clicks": [1, 2, 4, 8], "impressions": [10, 20, 40, 80],
        }
    )  # fmt: skip
    since = ServedSince(0.0, "M", frozenset({(2, "control"), (3, "control")}))
    assert of_champion(sums, since).rows() == [("u", 3, 30)]
