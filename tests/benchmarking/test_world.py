"""Who is held back from training, and what is not."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from segue.benchmarking.world import without_ends
from segue.data.sequences import Sequences
from segue.encoders.collaborative import collaborative_vectors

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


@given(HISTORIES, st.randoms(use_true_random=False))
def test_ends_alone_are_held_back_and_no_item_is_lost(histories: list[list[int]], random) -> None:  # type: ignore[no-untyped-def]
    before = sequences(histories)
    users = np.array([random.random() < 0.5 for _ in histories])
    after = without_ends(before, users)
    assert set(after.items.tolist()) == set(before.items.tolist())
    remaining = Counter(after.items.tolist())
    for user, chosen in enumerate(users):
        own, left = before.user(user)[0].tolist(), after.user(user)[0].tolist()
        if chosen and len(own) > 1 and left == own:
            assert remaining[own[-1]] == 1  # it is the last that is known of this item
        else:
            assert left == own[: len(own) - (chosen and len(own) > 1)]


def test_what_could_be_held_back_is() -> None:
    before = sequences([[0, 1, 2], [2, 1, 0], [0], [3]])
    after = without_ends(before, np.array([True, False, True, True]))
    assert [after.user(user)[0].tolist() for user in range(4)] == [[0, 1], [2, 1, 0], [0], [3]]


def test_a_history_that_chooses_ends_with_what_training_lacks(tmp_path: Path) -> None:
    made = tiny.world(validation_users=20)
    world = tiny.world(validation_users=20, validation_gap=True)
    lost = [
        user
        for user in range(len(made.training))
        if len(world.training.user(user)[0]) < len(made.training.user(user)[0])
    ]
    chosen = np.flatnonzero(world.validated.validation_at >= 0)
    assert len(chosen) == 20
    assert lost
    assert set(lost) <= set(chosen.tolist())
    assert world.held_back == len(lost) == len(made.training.items) - len(world.training.items)
    for user, target in world.validated.targets("validation"):
        if user in lost:
            assert len(world.training.user(user)[0]) == target - 1
    assert np.array_equal(world.validated.items, made.validated.items)
    for each in (made, world):
        tiny.benchmark(tmp_path, each, models=["popularity"], seeds=(1,)).records()
    assert len(list((tmp_path / "records").glob("*.json"))) == 2  # neither is taken for the other


def test_nothing_that_content_says_knows_what_is_held_back() -> None:
    made = tiny.world(validation_users=20)
    gap = tiny.world(validation_users=20, validation_gap=True)
    assert "collaborative" in made.modalities
    encoders = made.params.encoders
    expected, present = collaborative_vectors(
        gap.training,
        len(made.items),
        dimensions=encoders.collaborative_dimensions,
        window=encoders.collaborative_window,
        shift=encoders.collaborative_shift,
        seed=encoders.seed,
    )
    assert np.array_equal(gap.modalities["collaborative"].vectors, expected)
    assert np.array_equal(gap.modalities["collaborative"].present, present)
    assert np.array_equal(gap.modalities["text"].vectors, made.modalities["text"].vectors)
