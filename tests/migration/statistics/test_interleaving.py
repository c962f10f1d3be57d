from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.migration.statistics.interleaving import interleaving_preference, preferences, team_draft

rankings = st.lists(st.integers(0, 12), unique=True, max_size=8)


class Coins:
    """A generator whose coins are given beforehand: heads (below one half) lets a begin."""

    def __init__(self, heads: tuple[bool, ...]) -> None:
        self.left = list(heads)

    def random(self) -> float:
        return 0.1 if self.left.pop(0) else 0.9


def drafted(a: list[str], b: list[str], heads: tuple[bool, ...]) -> str:
    """The draft by its description: in every round the captain who won the toss picks, then the other."""
    shown: list[str] = []
    teams = ""
    for begins in heads:
        for captain in "ab" if begins else "ba":
            choice = next((item for item in (a if captain == "a" else b) if item not in shown), None)
            if choice is None:
                return " ".join(f"{item}{team}" for item, team in zip(shown, teams, strict=True))
            shown.append(choice)
            teams += captain
    return " ".join(f"{item}{team}" for item, team in zip(shown, teams, strict=True))


def test_every_outcome_of_the_coins_is_that_of_the_draft() -> None:
    a, b = list("uvwx"), list("vyuz")
    for heads in product([True, False], repeat=3):
        found = team_draft(a, b, 6, Coins(heads))  # type: ignore[arg-type]
        told = " ".join(f"{item}{team}" for item, team in zip(found.items, found.teams, strict=True) if team)
        assert drafted(a, b, heads).startswith(told)
        assert len(told) > 0


@given(a=rankings, b=rankings, length=st.integers(0, 10), seed=st.integers(0, 1000))
@settings(max_examples=150, deadline=None)
def test_a_draft_is_fair_whole_and_without_repeats(
    a: list[int], b: list[int], length: int, seed: int
) -> None:
    found = team_draft(a, b, length, np.random.default_rng(seed))
    assert len(found.items) == min(length, len({*a, *b})) == len(set(found.items))
    players = Counter(found.teams)
    assert abs(players["a"] - players["b"]) <= 1
    for team, own in (("a", a), ("b", b)):
        picked = [item for item, of in zip(found.items, found.teams, strict=True) if of == team]
        assert picked == [item for item in own if item in picked]
    credited = [team is not None for team in found.teams]
    assert credited == sorted(credited, reverse=True)  # once one side has run out, nobody is credited


def test_either_ranking_comes_first_equally_often() -> None:
    random = np.random.default_rng(0)
    first = sum(team_draft("ab", "cd", 2, random).teams[0] == "a" for _ in range(2000))
    assert 900 < first < 1100


def test_equal_rankings_are_not_preferred_whatever_is_clicked() -> None:
    random = np.random.default_rng(1)
    signs = []
    for _ in range(2000):
        draft = team_draft(range(5), range(5), 4, random)
        clicked = draft.teams[int(random.integers(0, 2))]
        signs.append(preferences(np.array(clicked == "a"), np.array(clicked == "b")))
    found = interleaving_preference(np.asarray(signs), confidence=0.95)
    assert found.low < 0.5 < found.high


def test_preferences_count_users_and_ties_as_half() -> None:
    np.testing.assert_array_equal(preferences(np.array([3, 0, 1, 2]), np.array([1, 0, 1, 5])), [1, 0, 0, -1])
    found = interleaving_preference(np.array([1.0, 0, 0, -1, 1, 0]), confidence=0.95)
    assert found.estimate == pytest.approx(7 / 12)
    assert "betting" in found.protocol
    assert interleaving_preference(np.empty(0), confidence=0.95).note
    with pytest.raises(ValueError, match="user 1's preference"):
        interleaving_preference(np.array([1.0, 3.0]), confidence=0.95)


def test_a_true_preference_is_found_and_a_false_one_is_not() -> None:
    random = np.random.default_rng(2)
    for odds, sides in (([0.1, 0.6, 0.3], "above"), ([0.2, 0.6, 0.2], "around")):
        found = interleaving_preference(random.choice([-1, 0, 1], size=3000, p=odds), confidence=0.95)
        assert (found.low > 0.5) == (sides == "above")
        assert found.high > 0.5
