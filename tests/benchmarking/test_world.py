"""Who is held back from training, and what is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.benchmarking.world import held_back
from segue.data.sequences import Sequences

from . import tiny

HISTORIES = st.lists(st.lists(st.integers(0, 5), max_size=6), min_size=1, max_size=8)


def sequences(histories: list[list[int]]) -> Sequences:
    lengths = [len(each) for each in histories]
    flat = [item for each in histories for item in each]
    nothing = np.full(len(histories), -1, dtype=np.int32)
    return Sequences(
        items=np.array(flat, dtype=np.int32),
        timestamps=np.arange(len(flat), dtype=np.int64),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        validation_at=nothing,
        test_at=nothing,
        user_ids=[f"u{user}" for user in range(len(histories))],
    )


@given(HISTORIES, st.integers(0, 3), st.randoms(use_true_random=False))
def test_ends_alone_are_held_back_and_no_item_is_lost(histories: list[list[int]], gap: int, random) -> None:  # type: ignore[no-untyped-def]
    before = sequences(histories)
    users = np.array([random.random() < 0.5 for _ in histories])
    after = held_back(before, users, gap)
    assert set(after.items.tolist()) == set(before.items.tolist())
    for user, chosen in enumerate(users):
        own, left = before.user(user)[0].tolist(), after.user(user)[0].tolist()
        assert left == own[: len(left)]
        assert len(own) - len(left) <= (gap if chosen else 0)
        assert len(left) >= min(len(own), 1)


@pytest.mark.parametrize("gap", [0, 1])
def test_what_could_be_held_back_is(gap: int) -> None:
    before = sequences([[0, 1, 2], [2, 1, 0], [0]])
    after = held_back(before, np.array([True, False, True]), gap)
    assert [len(after.user(user)[0]) for user in range(3)] == [3 - gap, 3, 1]


def test_a_history_that_chooses_ends_with_what_training_lacks(tmp_path: Path) -> None:
    made = tiny.world(validation_users=20)
    world = tiny.world(validation_users=20, validation_gap=1)
    assert 0 < len(made.training.items) - len(world.training.items) <= 20
    assert np.array_equal(world.validated.items, made.validated.items)
    for each in (made, world):
        tiny.benchmark(tmp_path, each, models=["popularity"], seeds=(1,)).records()
    assert len(list((tmp_path / "records").glob("*.json"))) == 2  # neither is taken for the other
