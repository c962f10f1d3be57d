"""Simulated users: how readily each clicks, how often each comes, and when.

Everything is drawn before the first request, from the seed alone, so that a run's users do not depend on the service's
speed, and two truths of one seed meet the same users.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from segue.errors import DataError
from segue.items import ITEMS_FILE
from segue.migration.simulation import Population as Habits
from segue.migration.simulation import draw_users
from segue.schema import Interactions, Split, UserGroup
from segue.simulation.settings import Population

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Crowd:
    """U users and their V visits, by time.

    ``appeal`` [U] base attractiveness; ``template`` [U] whose real history each begins with, and how much of it
    (``known`` [U]). Of each visit: ``user`` [V], ``number`` [V] from 0 within its user, ``at`` [V] seconds after the
    start, and ``delay`` [V] seconds until its clicks are reported, infinite where they never are.
    """

    appeal: Floats
    template: Integers
    known: Integers
    user: Integers
    number: Integers
    at: Floats
    delay: Floats

    @property
    def visits(self) -> int:
        return len(self.user)

    @staticmethod
    def name(user: int) -> str:
        """Nobody can take it for somebody real."""
        return f"simulated-{user:06d}"


@dataclass(frozen=True, slots=True)
class Histories:
    """Item ids of real users' events, oldest first: what simulated users begin with. Never stored anywhere."""

    items: Sequence[Sequence[str]]
    length: int  # the most recent events that a request carries

    @classmethod
    def read(cls, splits: Path, length: int) -> Histories:
        """The regular users' histories of the folder ``splits``. Raises DataError where there is none."""
        ids = pl.scan_parquet(splits / ITEMS_FILE).select(Split.ITEM_INDEX, Interactions.ITEM)
        table = (
            pl.scan_parquet(splits / "interactions.parquet")
            .filter(pl.col(Split.GROUP) == UserGroup.REGULAR.value)
            .join(ids, on=Split.ITEM_INDEX, how="inner")
            .sort(Interactions.USER, Split.POSITION)
            .group_by(Interactions.USER, maintain_order=True)
            .agg(Interactions.ITEM)
            .collect()
        )
        if table.is_empty():
            raise DataError(f"{splits} holds no regular user whose history a simulated user could begin with")
        return cls(table[Interactions.ITEM].to_list(), length)

    def at(self, template: int, known: int, visit: int) -> list[str]:
        """What a user has behind them at a visit: one event more at each, whatever was shown or clicked meanwhile."""
        events = self.items[template]
        upto = min(len(events), known + visit)
        return list(events[max(0, upto - self.length) : upto])


def draw_crowd(population: Population, users: int, templates: Sequence[Sequence[str]], seed: int) -> Crowd:
    """``users`` users who arrive at random, each with their own rate of visits and their own readiness to click."""
    random = np.random.default_rng(seed)
    habits = draw_users(
        Habits(
            requests_mean=population.visits_mean,
            tail=population.visits_tail,
            ctr=population.appeal,
            concentration=population.appeal_concentration,
        ),
        random,
        (users,),
    )
    visits = np.minimum(1 + random.poisson(habits.rate), population.visits_most)
    arrival = np.cumsum(random.exponential(1.0 / population.arrivals_per_second, users))
    user = np.repeat(np.arange(users), visits)
    first = np.repeat(np.cumsum(visits) - visits, visits)
    number = np.arange(len(user)) - first
    gaps = random.exponential(population.visit_gap_seconds, len(user)) * (number > 0)
    # Seconds since the user's own first visit: running sums that begin anew with each user.
    since = np.cumsum(gaps)
    since = since - since[first]
    at = arrival[user] + since
    delay = random.exponential(population.feedback_delay_seconds, len(user))
    delay = np.where(random.random(len(user)) < population.unreported, np.inf, delay)
    template = random.integers(0, len(templates), users)
    lengths = np.array([len(events) for events in templates])[template]
    known = 1 + (random.random(users) * lengths).astype(np.int64)
    order = np.argsort(at, kind="stable")
    return Crowd(
        appeal=habits.taste,
        template=template,
        known=np.minimum(known, lengths),
        user=user[order],
        number=number[order],
        at=at[order],
        delay=delay[order],
    )
