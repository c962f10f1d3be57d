"""What holds for every path that is made of two, and what each of them promises beside that."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.blending.blended import BlendedPath
from segue.blending.compose import COMPOSED, compose
from segue.blending.interleaved import InterleavedPath, coins
from segue.blending.recall_route import RecallRoutePath
from segue.blending.rerank import RerankPath
from segue.blending.sources import places_of, team_of
from segue.blending.weights import checked_weights
from segue.errors import ConfigurationError
from segue.migration.statistics.interleaving import team_draft
from segue.paths import ListRules, Path
from segue.schema import PathName
from tests.blending import shelves
from tests.blending.shelves import ITEMS, cascade, generative, request

weights = st.tuples(st.integers(0, 4), st.integers(0, 4)).filter(any)


@given(
    name=st.sampled_from(sorted(COMPOSED)),
    first=shelves.orders,
    second=shelves.orders,
    history=shelves.histories,
    rules=shelves.rules,
    k=st.integers(1, ITEMS + 2),
    blend=weights,
)
@settings(max_examples=100, deadline=None)
def test_every_composed_list_is_of_what_was_proposed_and_may_be_shown(
    name: PathName,
    first: list[int],
    second: list[int],
    history: list[int],
    rules: ListRules,
    k: int,
    blend: tuple[int, int],
) -> None:
    path = compose(
        name,
        cascade=cascade(first),
        generative=generative(second),
        blend={"cascade": blend[0], "generative": blend[1]},
    )
    assert path.name is name
    asked = request(*history)
    [found] = path.recommend([asked], k, rules)
    items = found.items.tolist()
    proposed = {
        PathName.RERANK: set(first) & set(second),  # an item that the scorer cannot score is not shown
        PathName.BLENDED: (set(first) if blend[0] else set()) | (set(second) if blend[1] else set()),
    }.get(name, set(first) | set(second))
    possible = proposed & shelves.may_be_shown(rules, asked)
    assert set(items) <= possible
    assert len(items) == len(set(items)) == len(found.sources) == min(k, len(possible))
    assert (np.diff(found.scores) <= 0).all()
    assert np.isfinite(found.scores).all()


@given(first=shelves.orders, second=shelves.orders, k=st.integers(1, ITEMS), rules=shelves.rules)
@settings(max_examples=30, deadline=None)
def test_a_weight_of_one_gives_the_pure_list_and_asks_nobody_else(
    first: list[int], second: list[int], k: int, rules: ListRules
) -> None:
    for name, own in (("cascade", cascade(first)), ("generative", generative(second))):
        parts = {"cascade": cascade([]), "generative": generative([]), name: own}
        blended = BlendedPath(**parts, weights={name: 1.0, **dict.fromkeys(set(parts) - {name}, 0.0)})
        [found] = blended.recommend([request(1, 2)], k, rules)
        [pure] = own.recommend([request(1, 2)], k, rules)
        assert found.items.tolist() == pure.items.tolist()
        assert own.asked == [k, k]
        assert all(part.asked == [] for part in parts.values() if part is not own)


@given(first=shelves.orders, second=shelves.orders, blend=weights)
@settings(max_examples=50, deadline=None)
def test_a_blend_is_the_weighted_sum_of_reciprocal_places(
    first: list[int], second: list[int], blend: tuple[int, int]
) -> None:
    path = BlendedPath(
        cascade=cascade(first),
        generative=generative(second),
        weights={"cascade": blend[0], "generative": blend[1]},
    )
    [found] = path.recommend([request()], ITEMS, ListRules(filter_seen=False))
    for item, score, source in zip(found.items.tolist(), found.scores, found.sources, strict=True):
        expected, told = Fraction(0), {}
        for name, order, weight in (("cascade", first, blend[0]), ("generative", second, blend[1])):
            if item in order and weight:
                told[name] = order.index(item) + 1
                expected += Fraction(weight, sum(blend)) / told[name]
        assert score == pytest.approx(float(expected), rel=1e-6)
        assert places_of(source) == told


@pytest.mark.parametrize("share", [0.2, 0.5, 0.6, 0.9])
@pytest.mark.parametrize("k", [5, 10, 20])
def test_lists_that_share_nothing_are_mixed_by_their_weights(share: float, k: int) -> None:
    path = BlendedPath(
        cascade=cascade(range(100, 140)),
        generative=generative(range(40)),
        weights={"cascade": 1 - share, "generative": share},
    )
    [found] = path.recommend([request()], k, ListRules(filter_seen=False))
    assert abs(sum(item < 100 for item in found.items.tolist()) - share * k) <= 1


@pytest.mark.parametrize(
    ("blend", "told"),
    [
        ({"cascade": 1.0, "oracle": 1.0}, "blend.oracle"),
        ({"cascade": -0.1, "generative": 1.0}, "blend.cascade is -0.1"),
        ({"generative": float("nan")}, "blend.generative is nan"),
        ({"generative": float("inf")}, "blend.generative is inf"),
        ({"cascade": 0.0}, "no part has a weight"),
        ({}, "no part has a weight"),
    ],
)
def test_weights_that_are_none_are_refused(blend: dict[str, float], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        checked_weights(blend)


def test_weights_are_shares() -> None:
    assert checked_weights(None) == {PathName.CASCADE: 0.5, PathName.GENERATIVE: 0.5}
    assert checked_weights({"generative": 3, "cascade": 1})[PathName.GENERATIVE] == 0.75
    assert checked_weights({"generative": 2})[PathName.CASCADE] == 0.0


@given(
    first=shelves.orders,
    second=shelves.orders,
    k=st.integers(1, ITEMS + 1),
    history=shelves.histories,
    rules=shelves.rules,
    draw=st.text(max_size=5),
)
@settings(max_examples=60, deadline=None)
def test_an_interleaved_list_is_the_draft_of_the_lists_that_either_would_show_alone(
    first: list[int], second: list[int], k: int, history: list[int], rules: ListRules, draw: str
) -> None:
    asked = request(*history, draw=draw)
    sides = cascade(first), generative(second)
    [found] = InterleavedPath(cascade=sides[0], generative=sides[1]).recommend([asked], k, rules)
    [own], [other] = (side.recommend([asked], k, rules) for side in sides)
    draft = team_draft(own.items.tolist(), other.items.tolist(), k, coins(asked))
    assert found.items.tolist() == list(draft.items)
    assert [team_of(source) for source in found.sources] == [
        {"a": "cascade", "b": "generative", None: None}[team] for team in draft.teams
    ]
    for item, source in zip(found.items.tolist(), found.sources, strict=True):
        assert places_of(source) == {
            name: ranked.items.tolist().index(item) + 1
            for name, ranked in (("cascade", own), ("generative", other))
            if item in ranked.items
        }


def test_the_coins_are_fair_and_the_request_s_own() -> None:
    path = InterleavedPath(cascade=cascade(range(10)), generative=generative(range(10, 20)))
    rules = ListRules(filter_seen=False)
    asked = [request(draw=f"exposure {number}") for number in range(2000)]
    lists = path.recommend(asked, 4, rules)
    begins = Counter(team_of(found.sources[0]) for found in lists)
    assert abs(begins["generative"] - 1000) < 4 * 22.4  # 4 standard deviations of a fair coin
    seconds = Counter(team_of(found.sources[2]) for found in lists)  # the second round's coin is another one
    both = sum(team_of(f.sources[0]) == team_of(f.sources[2]) for f in lists)
    assert abs(seconds["generative"] - 1000) < 4 * 22.4
    assert abs(both - 1000) < 4 * 22.4
    again = path.recommend(asked[:50], 4, rules)
    assert [f.sources for f in again] == [f.sources for f in lists[:50]]
    nameless = [
        path.recommend([request(7, user=user)], 4, rules)[0].sources
        for user in ("u", "u", "v", "w", "x", "y")
    ]
    assert nameless[0] == nameless[1]
    assert len(set(nameless)) > 1  # not one coin for everybody


def test_a_click_on_equal_lists_is_nobody_s_advantage() -> None:
    """Equal rankings, clicks on the first place alone: the teams' clicks differ by chance alone."""
    path = InterleavedPath(cascade=cascade(range(10)), generative=generative(range(10)))
    lists = path.recommend([request(draw=str(n)) for n in range(2000)], 5, ListRules(filter_seen=False))
    assert abs(sum(team_of(found.sources[0]) == "cascade" for found in lists) - 1000) < 4 * 22.4


def test_reranking_orders_the_cascade_s_items_by_the_other_s_scores() -> None:
    first = cascade([5, 4, 3, 2, 1])
    [found] = RerankPath(cascade=first, generative=generative(range(10))).recommend(
        [request(2)], 3, ListRules()
    )
    assert found.items.tolist() == [1, 3, 4]
    assert first.asked == [100]  # deep enough that there is something to rank
    assert set(found.sources) == {"cascade"}


def test_a_recall_route_gives_the_cascade_what_it_had_not_found() -> None:
    path: Path = RecallRoutePath(cascade=cascade([5, 4]), generative=generative([4, 9, 8]))
    [found] = path.recommend([request(9)], 4, ListRules())
    assert found.items.tolist() == [5, 4, 8]
