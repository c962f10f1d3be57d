"""Team-draft interleaving, and the preference of users who were shown interleaved lists.

Radlinski, Kurup & Joachims (2008), "How Does Clickthrough Data Reflect Retrieval Quality?" (CIKM), section 4.3: like captains
who choose teams, the two rankings take turns, a coin says who begins each round, each adds its best item that is not
there yet, and a click counts for the team of its item. Every user compares both within one list, which resolves
differences with far fewer users than two arms do; it tells which is preferred, not by how much a metric moves.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import numpy as np

from segue.migration.statistics.bounded import betting_bounds
from segue.migration.statistics.interval import ConfidenceSequence, Floats, Form

Item = TypeVar("Item", bound=Hashable)
Team = Literal["a", "b"]


@dataclass(frozen=True, slots=True)
class Interleaved(Generic[Item]):
    """``items`` as shown, and the ``teams`` that clicks on them count for; None: for nobody."""

    items: tuple[Item, ...]
    teams: tuple[Team | None, ...]


def team_draft(
    a: Sequence[Item], b: Sequence[Item], length: int, random: np.random.Generator
) -> Interleaved[Item]:
    """A list of up to ``length`` items from two rankings, best first.

    The team with fewer players moves, the coin decides between equals. Once either ranking has nothing left
    that is new, the other's items fill the list and count for nobody, because only one side could still win.
    """
    items: list[Item] = []
    teams: list[Team | None] = []
    shown: set[Item] = set()
    ranking: dict[Team, Sequence[Item]] = {"a": a, "b": b}
    place: dict[Team, int] = {"a": 0, "b": 0}
    players: dict[Team, int] = {"a": 0, "b": 0}

    def offer(team: Team) -> Item | None:
        own = ranking[team]
        while place[team] < len(own) and own[place[team]] in shown:
            place[team] += 1
        return own[place[team]] if place[team] < len(own) else None

    def show(item: Item, team: Team | None) -> None:
        items.append(item)
        teams.append(team)
        shown.add(item)

    while len(items) < length:
        offers = {team: offer(team) for team in ("a", "b")}
        from_a, from_b = offers["a"], offers["b"]
        if from_a is None and from_b is None:
            break
        if from_a is None or from_b is None:
            left = from_b if from_a is None else from_a
            assert left is not None
            show(left, None)
            continue
        if players["a"] != players["b"]:
            moves: Team = "a" if players["a"] < players["b"] else "b"
        else:
            moves = "a" if random.random() < 0.5 else "b"
        show(from_a if moves == "a" else from_b, moves)
        players[moves] += 1
    return Interleaved(tuple(items), tuple(teams))


def preferences(clicks_a: Floats, clicks_b: Floats) -> Floats:
    """-1, 0 or 1 a user: whose items the user clicked more often, over all interleaved lists the user was shown.

    A user without a click, or with as many for either side, prefers neither: 0, and stays in the sample.
    """
    return np.sign(np.asarray(clicks_a, dtype=np.float64) - np.asarray(clicks_b, dtype=np.float64))


def interleaving_preference(per_user: Floats, *, confidence: float) -> ConfidenceSequence:
    """Share of users who prefer ``a``, ties counting half, from ``per_user [N]`` in {-1, 0, 1}; one half: no preference.

    By the betting sequence over users, in the order in which their windows closed: exact at every look and any n.
    Radlinski et al. test the sign at a fixed number of queries; a user is the unit here because queries of
    one user are dependent.
    """
    values = (np.asarray(per_user, dtype=np.float64) + 1.0) / 2.0
    wrong = ~np.isin(values, (0.0, 0.5, 1.0))
    if wrong.any():
        raise ValueError(
            f"user {int(np.flatnonzero(wrong)[0])}'s preference must be -1, 0 or 1: see preferences()"
        )
    bounds = betting_bounds(values, confidence)
    n = len(values)
    return ConfidenceSequence(
        form=Form.BETTING,
        estimate=float(values.mean()) if n else float("nan"),
        low=float(bounds.low[-1]),
        high=float(bounds.high[-1]),
        confidence=confidence,
        n=n,
        sd=float(values.std(ddof=1)) if n > 1 else float("nan"),
        note="" if n else "nobody was shown an interleaved list yet",
    )
