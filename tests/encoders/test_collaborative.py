"""Collaborative vectors: counted right, factorized right, and blind to validation and test."""

from __future__ import annotations

import math
from itertools import combinations
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.artifacts import hash_files
from segue.data.sequences import Sequences, from_events
from segue.data.settings import SplitSettings
from segue.data.splits import SplitTables, make_splits
from segue.encoders.collaborative import (
    carried_over,
    collaborative_vectors,
    cooccurrences,
    factorize,
    shifted_ppmi,
)
from segue.items import ItemVectors
from segue.schema import UserGroup
from segue.steps import collaborative_embeddings as step
from tests.data.examples import catalogue, context, random_interactions
from tests.encoders.test_attributes import seal

jagged = st.lists(st.lists(st.integers(0, 5), max_size=8), min_size=1, max_size=8)


def sequences_of(rows: list[list[int]]) -> Sequences:
    nothing = np.full(len(rows), -1, dtype=np.int32)
    return Sequences(
        items=np.array([item for row in rows for item in row], dtype=np.int32),
        timestamps=np.zeros(sum(map(len, rows)), dtype=np.int64),
        offsets=np.cumsum([0, *map(len, rows)]).astype(np.int64),
        validation_at=nothing,
        test_at=nothing,
        user_ids=[str(user) for user in range(len(rows))],
    )


@settings(max_examples=25, deadline=None)
@given(rows=jagged, window=st.integers(1, 10), shift=st.sampled_from([1.0, 2.0]))
def test_counts_and_pmi_against_the_definition(rows: list[list[int]], window: int, shift: float) -> None:
    expected = np.zeros((6, 6))
    for row in rows:
        for (at, left), (later, right) in combinations(enumerate(row), 2):
            if later - at <= window and left != right:
                expected[left, right] += 1
                expected[right, left] += 1
    counts = cooccurrences(sequences_of(rows), 6, window)
    assert np.array_equal(counts.toarray(), expected)
    found = shifted_ppmi(counts, shift).toarray()
    for i in range(6):
        for j in range(6):
            pmi = -math.inf
            if expected[i, j]:
                pmi = math.log(expected[i, j] * expected.sum() / (expected[i].sum() * expected[j].sum()))
            assert found[i, j] == pytest.approx(max(0.0, pmi - math.log(shift)), abs=1e-12)


def test_the_factorization_is_the_truncated_svd() -> None:
    rng = np.random.default_rng(0)
    rows = [rng.integers(0, 30, size=20).tolist() for _ in range(40)]
    matrix = shifted_ppmi(cooccurrences(sequences_of(rows), 31, 3), 1.0)  # item 30 is never seen
    vectors = factorize(matrix, 8, seed=1)
    left, sizes, _ = np.linalg.svd(matrix.toarray())
    expected = left[:, :8] * np.sqrt(sizes[:8])
    assert np.abs(vectors) == pytest.approx(np.abs(expected), abs=1e-4)
    assert np.all(vectors[np.abs(vectors).argmax(axis=0), np.arange(8)] > 0)
    assert vectors.tobytes() == factorize(matrix, 8, seed=1).tobytes()
    assert not vectors[30].any()


@pytest.mark.parametrize("rows", [[[]], [[0]], [[0, 0, 0]], [[0, 1]], [[0, 1], [2, 3]]])
def test_hardly_any_data(rows: list[list[int]]) -> None:
    vectors, present = collaborative_vectors(sequences_of(rows), 5, dimensions=4, window=2, shift=1.0, seed=0)
    assert vectors.shape == (5, 4)
    assert np.isfinite(vectors).all()
    assert not present[4]


def split(seed: int = 0) -> SplitTables:
    events = random_interactions(50, 25, 500, seed=seed)
    ids = sorted({*events["item_id"], "zz never seen"})
    return make_splits(events, catalogue(ids), SplitSettings(), has_timestamps=True, ordered=False)


def run(root: Path, tables: SplitTables, **options: object) -> Path:
    from segue.steps import sequences

    splits = root / "splits"
    splits.mkdir(parents=True)
    tables.items.write_parquet(splits / "items.parquet")
    tables.interactions.write_parquet(splits / "interactions.parquet")
    made = context(root, "sequences", {"splits": splits})
    sequences.run(made)
    inputs = {"splits": splits, "sequences": made.output}
    encoders = {"collaborative_dimensions": 8}
    made = context(root, "collaborative_embeddings", inputs, encoders=encoders, **options)  # type: ignore[arg-type]
    step.run(made)
    return made.output


def test_nothing_leaks_from_validation_test_or_users_set_aside(tmp_path: Path) -> None:
    tables = split()
    hidden = (pl.col("part") != "train") | (pl.col("group") != "regular")
    shuffled = tables.interactions.with_columns(
        pl.when(hidden)
        .then(pl.col("item_index").shuffle(seed=1))
        .otherwise(pl.col("item_index"))
        .alias("item_index")
    )
    assert not shuffled.equals(tables.interactions)
    other = SplitTables(items=tables.items, interactions=shuffled, summary=tables.summary)
    first, second = run(tmp_path / "a", tables), run(tmp_path / "b", other)
    assert hash_files(first) == hash_files(second)
    vectors = ItemVectors.load(first)
    assert vectors.present.any()
    assert not vectors.present[tables.items["train_count"].to_numpy() == 0].any()
    assert not vectors.present[-1]
    assert not np.array_equal(  # and what training sees does matter
        vectors.vectors,
        collaborative_vectors(
            from_events(tables.interactions, UserGroup.REGULAR),
            26,
            dimensions=8,
            window=10,
            shift=1.0,
            seed=17,
        )[0],
    )


def test_kept_vectors_stay_and_new_items_are_absent(tmp_path: Path) -> None:
    name = "collaborative_embeddings"
    tables = split()
    first = run(tmp_path, tables)
    before = ItemVectors.load(first)
    encoder = (first / "encoder.json").read_bytes()
    kept = seal(tmp_path, name, first)
    grown = tmp_path / "grown"
    grown.mkdir()
    ids = ["0 new", *tables.items["item_id"].to_list()[1:]]  # one item came, one went
    pl.DataFrame(
        {"item_index": range(len(ids)), "item_id": ids, "train_count": [0] * len(ids)}
    ).write_parquet(grown / "items.parquet")
    made = context(tmp_path, name, {"splits": grown}, kept={name: kept})
    step.run(made)
    after = ItemVectors.load(made.output)
    assert after.item_ids == ids
    assert not after.present[0]
    assert after.vectors[1:].tobytes() == before.vectors[1:].tobytes()
    assert after.present[1:].tolist() == before.present[1:].tolist()
    assert (made.output / "encoder.json").read_bytes() == encoder


def test_carried_over_by_id() -> None:
    kept = ItemVectors(np.array([[1.0], [2.0]], dtype=np.float32), np.array([True, False]), ["b", "a"])
    moved = carried_over(kept, ["a", "b", "c"])
    assert moved.vectors.ravel().tolist() == [2, 1, 0]
    assert moved.present.tolist() == [False, True, False]
