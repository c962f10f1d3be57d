"""What is asked of a path, and how its answers are kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from segue.data.sequences import Sequences
from segue.errors import DataError
from segue.evaluation.protocol import (
    add_beginnings,
    audience,
    build_cases,
    evaluate_path,
    head_agreement,
    slices,
)
from segue.paths import ListRules, RankedList, Request
from segue.schema import PathName, UserGroup


def make(users: Sequence[Sequence[int]], prefix: str, *, evaluated: bool = True) -> Sequences:
    sizes = np.array([len(events) for events in users])
    at = sizes if evaluated else np.zeros_like(sizes)
    return Sequences(
        items=np.concatenate([np.array(events) for events in users]).astype(np.int32),
        timestamps=np.concatenate([np.arange(size) for size in sizes]).astype(np.int64),
        offsets=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        validation_at=(at - 2).astype(np.int32),
        test_at=(at - 1).astype(np.int32),
        user_ids=[f"{prefix}{number}" for number in range(len(users))],
    )


REGULAR = make([[0, 1, 2, 3], [4, 5, 6], [1, 2, 3, 4, 5]], "u")
NEW = make([[7, 8, 9]], "n")


class Fixed:
    """Items 0, 1, 2, ... by index, without what was seen; of each request it remembers what it was shown."""

    name = PathName.POPULARITY

    def __init__(self, items: int) -> None:
        self.items = items
        self.asked: list[Request] = []

    def recommend(self, requests: Sequence[Request], k: int, rules: ListRules) -> list[RankedList]:
        self.asked.extend(requests)
        answers = []
        for request in requests:
            kept = np.setdiff1d(np.arange(self.items), request.history if rules.filter_seen else [])[:k]
            answers.append(
                RankedList(items=kept, scores=-kept.astype(np.float32), sources=("popularity",) * len(kept))
            )
        return answers


def test_a_request_shows_the_history_and_nothing_of_the_target() -> None:
    cases = build_cases({UserGroup.REGULAR: REGULAR, UserGroup.NEW: NEW}, "test")
    assert cases.targets.tolist() == [3, 6, 5, 9]
    assert [history.tolist() for history in cases.histories] == [[0, 1, 2], [4, 5], [1, 2, 3, 4], [7, 8]]
    assert cases.user_ids == ["u0", "u1", "u2", "n0"]
    assert all(len(request.timestamps) == len(request.history) for request in cases.requests)
    assert all(request.now is None for request in cases.requests)
    validation = build_cases({UserGroup.REGULAR: REGULAR}, "validation")
    assert validation.targets.tolist() == [2, 5, 4]


def test_replay_users_and_empty_parts_are_refused() -> None:
    with pytest.raises(ValueError, match="replay users"):
        build_cases({UserGroup.REPLAY: REGULAR}, "test")
    with pytest.raises(DataError, match="no user has an event in the test part"):
        build_cases({UserGroup.REGULAR: make([[1, 2]], "u", evaluated=False)}, "test")


def test_new_users_begin_without_a_history_and_with_one_event() -> None:
    cases = build_cases({UserGroup.REGULAR: REGULAR, UserGroup.NEW: NEW}, "test")
    new = make([[7, 8, 9], [5], [6, 6]], "n", evaluated=False)
    found = add_beginnings(cases, new, by_time=False)
    assert found.requests[: len(cases)] == cases.requests
    assert found.groups[len(cases) :].tolist() == ["no_history"] * 3 + ["one_event"] * 2
    assert found.targets[len(cases) :].tolist() == [7, 5, 6, 8, 6]
    assert [history.tolist() for history in found.histories[len(cases) :]] == [[], [], [], [7], [6]]
    assert found.user_ids[len(cases) :] == ["n0", "n1", "n2", "n0", "n2"]
    members = slices(found, np.arange(10), long_tail_share=0.5, short_history=2)
    assert {name: int(rows.sum()) for name, rows in members.items()} | {"long_tail": 0} == {
        "all": 3, "new_users": 1, "long_tail": 0, "short_history": 1, "new_items": 0, "no_history": 3, "one_event": 2,
    }  # fmt: skip


def test_of_a_split_by_time_only_beginnings_in_the_test_part_count() -> None:
    cases = build_cases({UserGroup.REGULAR: REGULAR}, "test")
    new = make([[1, 2, 3]] * 4, "n")
    new.test_at[:] = [0, 1, 2, -1]  # the first event of the test part
    found = add_beginnings(cases, new, by_time=True)
    begun = list(zip(found.groups[3:].tolist(), found.user_ids[3:], strict=True))
    assert begun == [("no_history", "n0"), ("one_event", "n0"), ("one_event", "n1")]


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_ranks_are_those_of_the_list_that_would_be_served_whatever_the_batch(batch_size: int) -> None:
    cases = build_cases({UserGroup.REGULAR: REGULAR, UserGroup.NEW: NEW}, "test")
    path = Fixed(10)
    answers = evaluate_path(path, cases, ListRules(), 5, batch_size)
    # u0 sees 3 4 5 6 7; u1 sees 0 1 2 3 6; u2 sees 0 5 6 7 8; n0 sees 0 1 2 3 4.
    assert answers.ranks.tolist() == [0, 4, 1, -1]
    assert [request.user_id for request in path.asked] == cases.user_ids
    short = evaluate_path(path, cases, ListRules(), 12, batch_size)
    assert (short.lists[:, -1] == -1).all()
    assert (short.sources[:, -1] == -1).all()
    assert np.isnan(short.scores[:, -1]).all()
    assert head_agreement(path, cases, ListRules(), short.lists, 5, 2) == (1.0, 2)


def test_a_path_that_breaks_its_protocol_is_named() -> None:
    cases = build_cases({UserGroup.REGULAR: REGULAR}, "test")

    class Rising(Fixed):
        def recommend(self, requests: Sequence[Request], k: int, rules: ListRules) -> list[RankedList]:
            items = np.arange(k)
            return [
                RankedList(items=items, scores=items.astype(np.float32), sources=("x",) * k) for _ in requests
            ]

    class TooFew(Fixed):
        def recommend(self, requests: Sequence[Request], k: int, rules: ListRules) -> list[RankedList]:
            return []

    with pytest.raises(ValueError, match="scores must fall"):
        evaluate_path(Rising(10), cases, ListRules(), 5, 2)
    with pytest.raises(ValueError, match="answered 2 requests with 0 lists"):
        evaluate_path(TooFew(10), cases, ListRules(), 5, 2)


def test_slices_divide_the_regular_users_and_keep_new_users_apart() -> None:
    cases = build_cases({UserGroup.REGULAR: REGULAR, UserGroup.NEW: NEW}, "test")
    counts = np.array([9, 8, 7, 6, 5, 4, 0, 3, 2, 1])
    found = slices(cases, counts, long_tail_share=0.6, short_history=2)
    assert found["all"].tolist() == [True, True, True, False]
    assert found["new_users"].tolist() == [False, False, False, True]
    assert found["long_tail"].tolist() == [False, True, True, False]  # items 4 to 9
    assert found["short_history"].tolist() == [False, True, False, False]
    assert found["new_items"].tolist() == [False, True, False, False]


def test_audience_counts_each_user_once() -> None:
    repeated = make([[0, 0, 1], [1, 2, 2, 2]], "u")
    assert audience(repeated, 4).tolist() == [1, 2, 1, 0]
