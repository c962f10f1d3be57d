from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.data.sequences import Sequences
from segue.paths import user_key
from segue.training.batches import sequence_batches, target_batches


def sequences(lengths: list[int]) -> Sequences:
    """Every event is its own item, so that it can be followed."""
    count = sum(lengths)
    return Sequences(
        items=np.arange(count, dtype=np.int32),
        timestamps=np.arange(count, dtype=np.int64) * 10,
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        validation_at=np.array([length - 1 for length in lengths], dtype=np.int32),
        test_at=np.full(len(lengths), -1, dtype=np.int32),
        user_ids=[str(user) for user in range(len(lengths))],
    )


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=12),
    st.integers(1, 9),
    st.integers(1, 60),
    st.integers(0, 9),
)
@settings(max_examples=25, deadline=None)
def test_every_event_is_in_exactly_one_window(lengths: list[int], window: int, size: int, epoch: int) -> None:
    data = sequences(lengths)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    seen: Counter[int] = Counter()
    for batch in sequence_batches(data, batch_events=size, max_length=window, seed=1, epoch=epoch):
        assert len(batch.lengths) == 1 or batch.items.numel() <= size
        assert batch.items.shape[1] <= max(window, 1)
        for row, length in enumerate(batch.lengths.tolist()):
            ids = batch.items[row, :length].tolist()
            assert ids == list(range(ids[0], ids[0] + length))  # consecutive, oldest first
            assert len({int(owner[i]) for i in ids}) == 1
            assert batch.timestamps[row, :length].tolist() == [i * 10 for i in ids]
            assert not batch.items[row, length:].any()
            seen.update(ids)
    assert seen == Counter(range(sum(lengths)))


def test_batches_depend_on_seed_and_epoch_alone() -> None:
    data = sequences([7, 3, 12, 1, 9, 30])

    def all_items(seed: int, epoch: int) -> list[list[list[int]]]:
        made = sequence_batches(data, batch_events=20, max_length=10, seed=seed, epoch=epoch)
        return [batch.items.tolist() for batch in made]

    assert all_items(1, 0) == all_items(1, 0)
    assert all_items(1, 0) != all_items(1, 1)
    assert all_items(1, 0) != all_items(2, 0)


def test_a_batch_of_short_histories_holds_more_of_them() -> None:
    data = sequences([3] * 200 + [100] * 20)
    batches = list(sequence_batches(data, batch_events=400, max_length=100, seed=1, epoch=0))
    sizes = Counter((batch.items.shape[1], len(batch.lengths)) for batch in batches)
    assert sizes == {(4, 100): 2, (100, 4): 5}


def test_batches_say_whose_windows_they_hold_when_asked() -> None:
    data = sequences([0, 7, 0, 3, 30, 0])  # users without events on both sides of those with some
    owner = np.repeat(np.arange(6), [0, 7, 0, 3, 30, 0])
    for batch in sequence_batches(data, batch_events=20, max_length=8, seed=1, epoch=0, users=True):
        assert batch.users is not None
        expected = [user_key(str(owner[int(first)])) for first in batch.items[:, 0]]
        assert batch.users.tolist() == expected
    plain = next(sequence_batches(data, batch_events=20, max_length=8, seed=1, epoch=0))
    assert plain.users is None


def test_a_user_is_the_same_number_everywhere() -> None:
    assert user_key("u1") == 5281779755554125162  # written beside models: it may never change
    assert user_key(None) == -1
    keys = {user_key(str(user)) for user in range(1000)}
    assert len(keys) == 1000
    assert all(0 <= key < 2**63 for key in keys)


def test_targets_come_with_the_history_before_them() -> None:
    data = sequences([5, 2, 8])
    targets = data.targets("validation")
    found = {}
    for batch, wanted, rows in target_batches(data, targets, batch_size=2, max_length=4):
        for place, row in enumerate(rows):
            length = int(batch.lengths[place])
            assert batch.users is not None
            assert int(batch.users[place]) == user_key(data.user_ids[targets[int(row)][0]])
            found[int(row)] = (batch.items[place, :length].tolist(), int(wanted[place]))
    assert found == {0: ([0, 1, 2, 3], 4), 1: ([5], 6), 2: ([10, 11, 12, 13], 14)}
