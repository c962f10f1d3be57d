"""Performance drift: does the path that serves earn less than it did when its weights were new?

The users' click-through rate of each finished period is held against that of the first one. Many users are in both, and
their figures go together, so taking the two for independent overstates the error of the difference: the interval errs
outwards. Each period is looked at when it has ended and its late feedback is in; the k-th one spends 6 / (pi k)² of the error,
which adds up to one, so that the chance of *ever* crying drift where there is none stays below it (Boole).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import polars as pl

from segue.migration.settings import OnlineSettings
from segue.migration.state import State
from segue.migration.statistics.interval import ConfidenceSequence, Floats
from segue.migration.statistics.moments import UserMoments
from segue.migration.statistics.sequences import difference_of_arms

_DAY: Final = 86_400.0
_CONFIDENCE: Final = 0.95


@dataclass(frozen=True, slots=True)
class ServedSince:
    """Since when the champion's path serves with these weights: its revisions and arms, seconds since 1970."""

    began_at: float
    model: str
    served: frozenset[tuple[int, str]]  # (revision, arm)


@dataclass(frozen=True, slots=True)
class Period:
    """The newest finished period, [since, until), and the first one that it is held against."""

    number: int  # 1: the first after the reference
    reference: tuple[float, float]
    recent: tuple[float, float]


@dataclass(frozen=True, slots=True)
class PerformanceDrift:
    """``interval``: of recent / reference - 1. ``drifted``: it lies below the tolerance as a whole."""

    interval: ConfidenceSequence
    drifted: bool

    @property
    def told(self) -> str:
        found = self.interval
        return (
            f"the ctr of what serves changed by {found.estimate:+.1%} [{found.low:+.1%}, {found.high:+.1%}] "
            f"since its weights were new (n = {found.n} users)"
        )


def served_since(state: State) -> ServedSince | None:
    """What serves most, and since when without a break; None before the bootstrap."""
    if state.current is None:
        return None

    def of(number: int) -> tuple[str, str, str]:
        champion = state.revision(number).deployment.champion
        facts = state.facts[champion.bundle]
        # The cascade's weights are the incumbent's, whatever model lies in the bundle beside it.
        cascade = champion.path.value == "cascade"
        return champion.name, champion.path.value, facts.incumbent_id if cascade else facts.model_id or ""

    now, first = of(state.current.revision), state.current.revision
    while first > 1 and of(first - 1)[1:] == now[1:]:
        first -= 1
    return ServedSince(
        began_at=_seconds(state.revision(first).deployment.at),
        model=now[2],
        served=frozenset((number, of(number)[0]) for number in range(first, state.current.revision + 1)),
    )


def newest_period(since: ServedSince, settings: OnlineSettings, now: float) -> Period | None:
    """The newest period that has ended, with the feedback that may be late; None before there are two."""
    length = settings.performance_period_days * _DAY
    whole = math.floor((now - settings.late_seconds - since.began_at) / length)
    if whole < 2:
        return None
    end = since.began_at + whole * length
    return Period(whole - 1, (since.began_at, since.began_at + length), (end - length, end))


def performance_drift(
    reference: pl.DataFrame, recent: pl.DataFrame, period: Period, settings: OnlineSettings
) -> PerformanceDrift:
    """From each user's ``clicks`` and ``impressions`` in the two periods, a row a user."""
    spent = (1.0 - _CONFIDENCE) * 6.0 / (math.pi * period.number) ** 2
    found = difference_of_arms(
        _moments(recent),
        _moments(reference),
        confidence=1.0 - spent,
        numerator=0,
        denominator=1,
        relative=True,
    )
    return PerformanceDrift(found, drifted=found.high < -settings.performance_tolerance)


def of_champion(sums: pl.DataFrame, since: ServedSince) -> pl.DataFrame:
    """From sums by (user, arm, deployment) those of the champion's arm, a row a user."""
    served = pl.DataFrame(
        sorted(since.served), schema={"deployment": pl.Int64, "arm": pl.String}, orient="row"
    )
    return (
        sums.join(served, on=["deployment", "arm"], how="semi")
        .group_by("user_hash")
        .agg(pl.col("clicks", "impressions").sum())
        .sort("user_hash")
    )


def _moments(users: pl.DataFrame) -> UserMoments:
    def column(name: str) -> Floats:
        return users[name].cast(pl.Float64).to_numpy()

    return UserMoments.of(column("clicks"), column("impressions"))


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()
