"""What the benchmark writes down is what it measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from benchmarks import harness, semantic_ids
from segue.data.sequences import Sequences
from segue.items import Items, ItemVectors
from segue.params import Params, load_params
from segue.workspace import Workspace


def test_runs_that_were_kept_from_another_commit_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "commit", lambda: "b" * 40)
    now, before, unknown = {"commit": "b" * 40}, {"commit": "a" * 40}, {}
    assert semantic_ids.made_elsewhere([now, now]) == []
    (note,) = semantic_ids.made_elsewhere([now, before, before, unknown])
    assert note == f"3 of the 4 runs were made at commits {'a' * 14}, an unknown one"


def sequences() -> Sequences:
    """Users 0: 1 2 3 4, 1: 5 1, 2: 5 2 5 3."""
    return Sequences(
        items=np.array([1, 2, 3, 4, 5, 1, 5, 2, 5, 3], dtype=np.int32),
        timestamps=np.arange(10, dtype=np.int64),
        offsets=np.array([0, 4, 6, 10], dtype=np.int64),
        validation_at=np.array([2, -1, 2], dtype=np.int32),
        test_at=np.array([3, -1, 3], dtype=np.int32),
        user_ids=["a", "b", "c"],
    )


def test_withheld_items_leave_no_event_and_the_last_one_is_asked_for() -> None:
    gone = np.isin(np.arange(6), [2, 5])
    left = semantic_ids.without(sequences(), gone)
    assert [left.user(user)[0].tolist() for user in range(3)] == [[1, 3, 4], [1], [3]]
    assert left.validation_at.tolist() == [1, -1, -1]
    assert left.test_at.tolist() == [2, -1, -1]
    requests, targets = semantic_ids.withheld_requests(sequences(), gone)
    assert targets == [2]  # b and c had nothing but withheld items before their last one
    assert [request.history.tolist() for request in requests] == [[1]]
    assert [request.timestamps.tolist() for request in requests] == [[0]]


def test_some_users_are_judged_and_all_are_trained_on() -> None:
    some = semantic_ids.some_users(sequences(), 1)
    assert len(some.targets("test")) == len(some.targets("validation")) == 1
    assert set(some.targets("test")) < set(sequences().targets("test"))
    assert some.items.tolist() == sequences().items.tolist()


def test_other_data_or_another_beam_is_another_run() -> None:
    items = Items(pl.DataFrame({"item_id": [str(i) for i in range(6)]}))
    vectors = ItemVectors(np.ones((6, 2), np.float32), np.ones(6, dtype=bool), items.ids)
    params = load_params(Workspace.find(), "ml-100k")

    def found(
        events: Sequences = sequences(),
        text: ItemVectors = vectors,
        wanted: Params = params,
    ) -> str:
        return semantic_ids.content_hash(items, events, {"text": text}, wanted)

    one_more = replace(sequences(), items=np.array([1, 2, 3, 5, 5, 1, 5, 2, 5, 3], dtype=np.int32))
    encoded_anew = replace(vectors, vectors=np.zeros((6, 2), np.float32))
    wider = params.model_copy(update={"decoding": params.decoding.model_copy(update={"beam_width": 7})})
    assert found() == found()
    assert len({found(), found(one_more), found(text=encoded_anew), found(wanted=wider)}) == 4
