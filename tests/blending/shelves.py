"""Two paths with known lists, and rules to obey."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from hypothesis import strategies as st

from segue.paths import IndexArray, ListRules, RankedList, Request, Scores
from segue.ranking.rules import allowed_mask
from segue.ranking.select import select
from segue.schema import PathName

ITEMS = 15


class Shelf:
    """Shows its items in their order, as far as the rules allow; scores an item by its place."""

    def __init__(self, name: PathName, order: Sequence[int]) -> None:
        self.name = name
        self.order = np.asarray(order, dtype=np.int64)
        self.asked: list[int] = []

    def recommend(self, requests: Sequence[Request], k: int, rules: ListRules) -> list[RankedList]:
        return self.recommend_with(requests, k, rules, {})

    def recommend_with(
        self,
        requests: Sequence[Request],
        k: int,
        rules: ListRules,
        routes: Mapping[str, Sequence[IndexArray]],
    ) -> list[RankedList]:
        """Further proposals come in the order of their index, behind its own."""
        self.asked.append(k)
        lists = []
        for row, request in enumerate(requests):
            more = [item for items in routes.values() for item in items[row].tolist()]
            further = np.asarray(sorted(set(more) - set(self.order.tolist())), dtype=np.int64)
            items = np.concatenate([self.order, further])
            scores = -np.arange(len(items), dtype=np.float32)
            lists.append(select(items, scores, self.name.value, rules, k, request.history))
        return lists

    def score(self, requests: Sequence[Request], items: Sequence[IndexArray]) -> list[Scores]:
        place = {item: place for place, item in enumerate(self.order.tolist())}
        return [
            np.asarray([-place.get(item, np.inf) for item in own.tolist()], dtype=np.float32) for own in items
        ]


def cascade(order: Sequence[int]) -> Shelf:
    return Shelf(PathName.CASCADE, order)


def generative(order: Sequence[int]) -> Shelf:
    return Shelf(PathName.GENERATIVE, order)


def request(*history: int, user: str | None = None, draw: str | None = None) -> Request:
    items = np.asarray(history, dtype=np.int64)
    return Request(history=items, timestamps=np.zeros_like(items), user_id=user, draw=draw)


def may_be_shown(rules: ListRules, asked: Request) -> set[int]:
    return set(np.flatnonzero(allowed_mask(rules, asked, ITEMS)).tolist())


orders = st.permutations(range(ITEMS)).flatmap(
    lambda order: st.integers(0, ITEMS).map(lambda length: list(order[:length]))
)
histories = st.lists(st.integers(0, ITEMS - 1), max_size=4)
rules = st.builds(
    lambda allowed, excluded, seen: ListRules(
        filter_seen=seen,
        allowed=None if allowed is None else np.asarray(allowed),
        excluded=np.asarray(excluded, dtype=np.int64),
    ),
    st.none() | st.lists(st.booleans(), min_size=ITEMS, max_size=ITEMS),
    st.lists(st.integers(0, ITEMS - 1), max_size=3),
    st.booleans(),
)
