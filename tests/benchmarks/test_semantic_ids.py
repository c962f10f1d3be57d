"""What the benchmark writes down is what it measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from benchmarks import harness, semantic_ids
from segue.data.sequences import Sequences
from segue.items import Items, ItemVectors
from segue.params import Params, load_params
from segue.tokenizers.codebook import EncoderIdentity
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


def world() -> semantic_ids.World:
    """60 items in 6 neighbourhoods of content, and users who stay in one."""
    generator = np.random.default_rng(4)
    items = Items(pl.DataFrame({"item_id": [f"i{item:02d}" for item in range(60)]}))
    middles = generator.normal(size=(6, 8)) * 3
    text = (middles[np.arange(60) % 6] + generator.normal(size=(60, 8))).astype(np.float32)
    walks = [generator.permutation(10)[:7] * 6 + generator.integers(6) for _ in range(120)]
    regular = Sequences(
        items=np.concatenate(walks).astype(np.int32),
        timestamps=np.arange(840, dtype=np.int64) * 3600,
        offsets=np.arange(121, dtype=np.int64) * 7,
        validation_at=np.full(120, 5, dtype=np.int32),
        test_at=np.full(120, 6, dtype=np.int32),
        user_ids=[f"u{user}" for user in range(120)],
    )
    small = ["dimensions=16", "layers=1", "threads=1", "precision=fp32", "epochs=4", "pooled_tower=false"]
    params = load_params(
        Workspace.find(),
        "ml-100k",
        [
            *(f"generative.{each}" for each in small),
            "tokenizer.level_sizes=[6,4,4]",
            "decoding.beam_width=20",
        ],
    )
    vectors = ItemVectors(text, np.ones(60, dtype=bool), items.ids)
    return semantic_ids.World(
        params=params,
        items=items,
        regular=regular,
        judged=regular,
        modalities={"text": vectors, "collaborative": vectors},
        encoders={
            name: EncoderIdentity(name="told", weights_sha256="0" * 64) for name in ("text", "collaborative")
        },
        generative=params.generative,
        content="of a test",
    )


def test_withheld_items_are_inserted_and_asked_for(tmp_path: Path) -> None:
    small = world()
    tokenizer = small.params.tokenizer
    made = semantic_ids.insertion(small, tokenizer, small.generative, tmp_path)
    assert made["withheld"] == 3
    assert len(made["generative"]) == len(made["content_knn"]) == made["targets"] > 20
    assert np.mean(made["content_knn"]) > 0.5  # text says it all
    assert np.mean(made["generative"]) > 0.4  # chance is 10 of 60
    assert 0 < made["share_of_lists"] < 1
    assert 0 < made["share_for_known"] < 1
    assert made["share_of_events"] == pytest.approx(0.05, abs=0.02)
    assert len(made["known_before"]) == len(made["known_after"]) > 100
    assert made["known_before"] != made["known_after"]
    resumed = {**made, "trained_on": "a test", "train_seconds": None}
    whole = {**resumed, "train_seconds": made["train_seconds"]}
    assert whole["train_seconds"] > 0
    (row,) = semantic_ids.insertion_rows({"concat_pca": [whole, resumed]})
    assert row["trained on"] == f"a test: 2 in {made['train_seconds']:.0f} s"
    again = semantic_ids.insertion(small, tokenizer, small.generative, tmp_path)
    assert again["train_seconds"] is None
    assert again["generative"] == made["generative"]
    assert semantic_ids.training([resumed]) == "a test: 1 in not measured"
    assert row["recall@10 generative"].startswith(f"{np.mean(made['generative']):.4f} [")
    assert row["after minus before"].startswith(
        f"{np.mean(made['known_after']) - np.mean(made['known_before']):.4f} ["
    )


def test_a_run_of_other_code_is_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small, played = world(), []

    def play(*_: object) -> dict[str, object]:
        played.append(1)
        return {"found": len(played)}

    def found() -> object:
        made = semantic_ids.once(
            tmp_path, "insertion", "concat_pca", {"fusion": "concat_pca"}, 1, small, play
        )
        return made["found"]

    monkeypatch.setattr(semantic_ids, "code_version", lambda modules: "before")
    assert [found(), found()] == [1, 1]
    monkeypatch.setattr(semantic_ids, "code_version", lambda modules: "after")
    assert found() == 2


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
