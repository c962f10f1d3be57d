"""Sequences: what training sees, what is predicted, and that nothing is lost on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.data.sequences import Sequences, from_events
from segue.data.settings import SplitSettings
from segue.data.splits import SplitTables, make_splits
from segue.errors import ArtifactError
from segue.schema import UserGroup
from segue.steps import sequences as step
from tests.data.examples import catalogue, context, random_interactions

ARRAYS = ("items", "timestamps", "offsets", "validation_at", "test_at")


def split(seed: int = 0, **options: object) -> SplitTables:
    events = random_interactions(30, 8, 220, seed=seed, span=300)
    items = catalogue(sorted(set(events["item_id"])))
    chosen = SplitSettings.model_validate({"global_time_min_test_users": 1, **options})
    return make_splits(events, items, chosen, has_timestamps=True, ordered=False)


def same(left: Sequences, right: Sequences) -> bool:
    return left.user_ids == right.user_ids and all(
        np.array_equal(getattr(left, name), getattr(right, name))
        and getattr(left, name).dtype == getattr(right, name).dtype
        for name in ARRAYS
    )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), protocol=st.sampled_from(["leave_one_out", "global_time"]))
def test_training_sees_the_training_events_and_nothing_else(seed: int, protocol: str) -> None:
    events = split(seed, primary=protocol).interactions
    for group in UserGroup:
        sequences = from_events(events, group)
        mine = events.filter(group=group.value)
        assert sequences.user_ids == sorted(set(mine["user_id"]))
        assert sequences.items.tolist() == mine["item_index"].to_list()
        training = sequences.training_part()
        assert training.items.tolist() == mine.filter(part="train")["item_index"].to_list()
        assert training.user_ids == sequences.user_ids
        assert not training.targets("test")
        for part in ("validation", "test"):
            first = mine.filter(part=part).group_by("user_id").agg(pl.col("position").min()).sort("user_id")
            expected = [(user, at) for user, at in first.iter_rows() if at > 0]
            assert [(sequences.user_ids[user], at) for user, at in sequences.targets(part)] == expected


def test_round_trip(tmp_path: Path) -> None:
    sequences = from_events(split().interactions, UserGroup.REGULAR)
    sequences.save(tmp_path / "regular")
    loaded = Sequences.load(tmp_path / "regular")
    assert same(sequences, loaded)
    assert isinstance(loaded.items, np.memmap)
    for index in range(len(loaded)):
        items, times = loaded.user(index)
        assert len(items) == len(times) > 0
        assert np.all(np.diff(times) >= 0)


def test_a_group_of_nobody(tmp_path: Path) -> None:
    events = split(new_user_share=0.0).interactions
    from_events(events, UserGroup.NEW).save(tmp_path / "new")
    loaded = Sequences.load(tmp_path / "new")
    assert len(loaded) == 0
    assert len(loaded.training_part()) == 0
    assert loaded.targets("test") == []


def test_missing_or_truncated_files_are_refused(tmp_path: Path) -> None:
    from_events(split().interactions, UserGroup.REGULAR).save(tmp_path)
    whole = (tmp_path / "items.npy").read_bytes()
    (tmp_path / "items.npy").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtifactError, match="no whole sequences"):
        Sequences.load(tmp_path)
    (tmp_path / "items.npy").unlink()
    with pytest.raises(ArtifactError, match="no whole sequences"):
        Sequences.load(tmp_path)


def test_the_step_writes_every_group(tmp_path: Path) -> None:
    tables = split()
    tables.interactions.write_parquet(tmp_path / "interactions.parquet")
    made = context(tmp_path, "sequences", {"splits": tmp_path})
    step.run(made)
    total = 0
    for group in UserGroup:
        loaded = Sequences.load(made.output / group.value)
        assert same(loaded, from_events(tables.interactions, group))
        assert made.metrics[f"{group.value}_users"] == len(loaded)
        total += len(loaded.items)
    assert total == tables.interactions.height
