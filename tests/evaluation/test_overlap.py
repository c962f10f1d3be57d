"""List overlap: against plain sets, and at its two ends."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from segue.evaluation.overlap import full_histories, list_overlap
from segue.paths import ListRules, RankedList, Request
from segue.schema import PathName
from tests.reporting.synthetic import make_sequences


class Says:
    """A path that answers with given lists."""

    name = PathName.GENERATIVE

    def __init__(self, lists: list[list[int]]) -> None:
        self.lists = lists

    def recommend(self, requests: list[Request], k: int, rules: ListRules) -> list[RankedList]:
        return [
            RankedList(
                items=np.array(items[:k], dtype=np.int64),
                scores=-np.arange(len(items[:k]), dtype=np.float32),
                sources=("beam",) * len(items[:k]),
            )
            for items in self.lists
        ]


def requests(count: int) -> list[Request]:
    empty = np.empty(0, dtype=np.int64)
    return [Request(history=empty, timestamps=empty) for _ in range(count)]


lists = st.lists(st.lists(st.integers(0, 30), unique=True, max_size=8), min_size=1, max_size=5)


@given(lists, st.randoms(use_true_random=False), st.integers(1, 8))
def test_it_is_the_share_of_common_items(one: list[list[int]], random: object, k: int) -> None:
    other = [random.sample(range(31), random.randint(0, 8)) for _ in one]  # type: ignore[attr-defined]
    found = list_overlap(Says(one), Says(other), requests(len(one)), ListRules(), k)
    for share, left, right in zip(found, one, other, strict=True):
        longer = max(len(left[:k]), len(right[:k]))
        assert share == (len(set(left[:k]) & set(right[:k])) / longer if longer else 1.0)


@given(lists)
def test_a_path_agrees_with_itself(one: list[list[int]]) -> None:
    assert (list_overlap(Says(one), Says(one), requests(len(one)), ListRules(), 8) == 1).all()


def test_histories_are_whole_seeded_and_at_most_as_many_as_asked() -> None:
    sequences = make_sequences(20, 40, 12, "u", seed=1)
    some = full_histories(sequences, 5, seed=3)
    assert [request.user_id for request in some] == [
        request.user_id for request in full_histories(sequences, 5, seed=3)
    ]
    assert len({request.user_id for request in some}) == 5
    everybody = full_histories(sequences, 100, seed=3)
    assert sum(len(request.history) for request in everybody) == len(sequences.items)
