"""Which events are replayed, in which order."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.errors import ArtifactError, DataError
from segue.replay.events import ReplayEvents
from tests.serving.worlds import EVENTS, write_splits


def test_only_replay_users_and_every_event_of_theirs(tmp_path: Path) -> None:
    events = ReplayEvents.read(write_splits(tmp_path))
    assert sorted(events.table["user_id"].unique()) == ["u27", "u28", "u29"]
    assert (events.users, len(events)) == (3, 3 * EVENTS)
    assert len(ReplayEvents.read(tmp_path, most=2)) == 6


@settings(deadline=None, max_examples=30, derandomize=True)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=8),
    times=st.randoms(use_true_random=False),
    at_most=st.integers(1, 5),
)
def test_waves_hold_every_event_once_and_each_user_in_order(
    lengths: list[int], times: object, at_most: int
) -> None:
    rows = [
        {
            "user_id": f"u{user}",
            "position": place,
            "item_id": f"i{user}-{place}",
            "timestamp": times.randrange(9),
        }  # type: ignore[attr-defined]
        for user, length in enumerate(lengths)
        for place in range(length)
    ]
    table = pl.DataFrame(rows).sort("position", "timestamp", "user_id")
    waves = list(ReplayEvents(table, "s").waves(at_most))
    assert all(0 < len(wave) <= at_most for wave in waves)
    assert all(len({event.user_id for event in wave}) == len(wave) for wave in waves)
    sent = [event for wave in waves for event in wave]
    assert sorted((event.user_id, event.item_id) for event in sent) == sorted(
        (row["user_id"], row["item_id"]) for row in rows
    )
    for user in range(len(lengths)):
        own = [event.position for event in sent if event.user_id == f"u{user}"]
        assert own == list(range(lengths[user]))


def test_splits_without_replay_users_say_what_to_do(tmp_path: Path) -> None:
    splits = write_splits(tmp_path)
    file = splits / "interactions.parquet"
    pl.read_parquet(file).with_columns(group=pl.lit("regular")).write_parquet(file)
    with pytest.raises(DataError, match="replay_user_share"):
        ReplayEvents.read(splits)
    with pytest.raises(ArtifactError, match="run the step splits first"):
        ReplayEvents.read(tmp_path / "nowhere")
