"""Agreement of prefixes with content and with co-consumption, room, metrics and findings: each against an oracle."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.tokenizers.agreement import by_chance, co_consumption, neighbour_agreement_by_depth, prefix_groups
from segue.tokenizers.item_map import ItemMap
from segue.tokenizers.quality import (
    codes_quality,
    quality_metrics,
    reconstruction_error,
    reconstruction_error_by_depth,
)
from segue.tokenizers.quality_check import findings
from segue.tokenizers.room import room_report
from segue.tokenizers.settings import SemanticIdSettings

from .examples import SMALL, codebook, modalities

BOOK = codebook(60, SMALL.model_copy(update={"level_sizes": (6, 4, 16)}))
CODES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=2, max_size=14)


@given(CODES)
@settings(max_examples=40, deadline=None)
def test_groups_are_equal_where_the_first_codes_are(rows: list[tuple[int, int]]) -> None:
    codes = np.array(rows)
    groups = prefix_groups(codes)
    for one, other in combinations(range(len(rows)), 2):
        for depth in (1, 2):
            same = rows[one][:depth] == rows[other][:depth]
            assert (groups[one, depth - 1] == groups[other, depth - 1]) == same
            if rows[one][:depth] < rows[other][:depth]:
                assert groups[one, depth - 1] < groups[other, depth - 1]
    assert groups.max(axis=0).tolist() == [len({row[:depth] for row in rows}) - 1 for depth in (1, 2)]


@given(CODES)
@settings(max_examples=40, deadline=None)
def test_chance_counts_pairs_of_different_items(rows: list[tuple[int, int]]) -> None:
    pairs = list(combinations(rows, 2))
    expected = [np.mean([one[:depth] == other[:depth] for one, other in pairs]) for depth in (1, 2)]
    np.testing.assert_allclose(by_chance(prefix_groups(np.array(rows))), expected)


def test_chance_of_one_item_is_nothing() -> None:
    groups = prefix_groups(np.zeros((1, 2), dtype=np.int64))
    assert by_chance(groups) == [0.0, 0.0]
    assert neighbour_agreement_by_depth(np.zeros((1, 3), dtype=np.float32), groups, 5, 0) == [0.0, 0.0]


def test_deeper_agreement_is_never_more_and_equals_brute_force() -> None:
    rng = np.random.default_rng(3)
    vectors, codes = rng.normal(size=(25, 3)).astype(np.float32), rng.integers(0, 2, (25, 2))
    found = neighbour_agreement_by_depth(vectors, prefix_groups(codes), 4, 0)
    shares = np.zeros((25, 2))
    for row in range(25):
        others = [other for other in range(25) if other != row]
        others.sort(key=lambda other: float(((vectors[row].astype(float) - vectors[other]) ** 2).sum()))
        for depth in (1, 2):
            shares[row, depth - 1] = np.mean(
                [(codes[other, :depth] == codes[row, :depth]).all() for other in others[:4]]
            )
    np.testing.assert_allclose(found, shares.mean(axis=0))
    assert found[1] < found[0]


@given(CODES, st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_co_consumption_equals_the_pairs_one_by_one(rows: list[tuple[int, int]], seed: int) -> None:
    count = len(rows)
    half = np.triu(np.random.default_rng(seed).integers(0, 3, (count, count)), 1)
    counts = half + half.T
    found = co_consumption(scipy.sparse.csr_array(counts.astype(float)), prefix_groups(np.array(rows)))
    drawn = [(one, other) for one, other in combinations(range(count), 2) for _ in range(half[one, other])]
    assert found["pairs"] == len(drawn)
    if not drawn:
        assert found["by_depth"] == found["by_chance"] == [None, None]
        return
    margin = counts.sum(axis=1)
    for depth in (1, 2):
        same = [[rows[one][:depth] == rows[other][:depth] for other in range(count)] for one in range(count)]
        assert found["by_depth"][depth - 1] == pytest.approx(
            np.mean([same[one][other] for one, other in drawn]), abs=1e-6
        )
        weight = {(one, other): margin[one] * margin[other] for one, other in combinations(range(count), 2)}
        shared = sum(value for (one, other), value in weight.items() if same[one][other])
        assert found["by_chance"][depth - 1] == pytest.approx(shared / sum(weight.values()), abs=1e-6)


def test_pairs_inside_prefixes_beat_chance_and_pairs_across_do_not() -> None:
    groups = prefix_groups(np.array([[0, 0], [0, 1], [1, 0], [1, 1]]))
    inside, across = np.zeros((4, 4)), np.zeros((4, 4))
    inside[[0, 1, 2, 3], [1, 0, 3, 2]] = 5
    across[[0, 2, 1, 3], [2, 0, 3, 1]] = 5
    together = co_consumption(scipy.sparse.csr_array(inside), groups)
    assert together == {"pairs": 10, "by_depth": [1.0, 0.0], "by_chance": [0.333333, 0.0]}
    assert co_consumption(scipy.sparse.csr_array(across), groups)["by_depth"] == [0.0, 0.0]


def test_reconstruction_by_depth_is_the_mean_of_what_begins_alike() -> None:
    vectors = np.array([[1.0, 0.0], [3.0, 0.0], [-2.0, 1.0], [-2.0, -1.0]], dtype=np.float32)
    reconstructed = np.array([[1.0, 0.0], [3.0, 0.0], [-2.0, 0.0], [-2.0, 0.0]])
    groups = prefix_groups(np.array([[0, 0], [0, 1], [1, 0], [1, 0]]))
    # Depth 1: means (2, 0) and (-2, 0), so errors 1, 1, 1, 1 over 20; depth 2: 0, 0, 1, 1.
    assert reconstruction_error_by_depth(vectors, reconstructed, groups) == pytest.approx([4 / 20, 2 / 20])


def test_the_last_depth_is_the_whole_prefix_and_each_code_says_more() -> None:
    vectors, _ = BOOK.fuse(modalities(60))
    codes = BOOK.encode(vectors)
    quality = codes_quality(BOOK, vectors, codes, neighbours=5, seed=0)
    first, last = quality["reconstruction_error_by_depth"]
    assert last == quality["reconstruction_error"]
    assert last < first < 1
    plain = reconstruction_error(vectors, BOOK.tokenizer.centroids[0][codes[:, 0]].astype(np.float64))  # type: ignore[attr-defined]
    assert first == pytest.approx(plain, abs=0.1)  # near to what the first table of centroids alone gives


@given(CODES)
@settings(max_examples=30, deadline=None)
def test_figures_before_disambiguation(rows: list[tuple[int, int]]) -> None:
    codes = np.array(rows)
    vectors = np.random.default_rng(0).normal(size=(len(rows), 6)).astype(np.float32)
    quality = codes_quality(BOOK, vectors, codes, neighbours=2, seed=0)
    alone = sum(rows.count(row) == 1 for row in rows)
    assert quality["unique_item_rate"] == pytest.approx(alone / len(rows), abs=1e-6)
    assert quality["unique_item_rate"] == pytest.approx(1 - quality["collisions"] / len(rows), abs=1e-6)
    assert quality["excess_collisions"] == len(rows) - len(set(rows))
    for level, size in enumerate((6, 4)):
        used = {row[level] for row in rows}
        entry = quality["levels"][level]
        assert (entry["in_use"], entry["dead"]) == (len(used), size - len(used))
        shares = [sum(row[level] == code for row in rows) / len(rows) for code in used]
        assert entry["entropy_bits"] == pytest.approx(-sum(p * np.log2(p) for p in shares), abs=1e-5)


def test_metrics_are_single_figures() -> None:
    vectors, _ = BOOK.fuse(modalities(60))
    quality = codes_quality(BOOK, vectors, BOOK.encode(vectors), neighbours=5, seed=0)
    metrics = quality_metrics(quality)
    assert all(isinstance(value, int | float) for value in metrics.values())
    assert metrics["level_2_perplexity"] == quality["levels"][1]["perplexity"]
    assert metrics["reconstruction_error_depth_2"] == quality["reconstruction_error"]
    assert metrics["neighbour_agreement_depth_1"] == quality["neighbour_agreement"]


def test_room_counts_what_each_prefix_can_still_take_retired_items_included() -> None:
    given_items = modalities(60)
    item_map = ItemMap.build(BOOK, given_items["text"].item_ids, *BOOK.fuse(given_items))
    room = room_report(BOOK, item_map)
    prefixes = {tuple(row) for row in item_map.codes[:, :2].tolist()}
    free = sorted(
        16 - sum(tuple(row) == prefix for row in item_map.codes[:, :2].tolist()) for prefix in prefixes
    )
    assert room["prefixes_by_free"] == {str(one): free.count(one) for one in free}
    assert (room["least"], room["most"], room["in_use"]) == (free[0], free[-1], sum(free))
    assert room["median"] == np.median(free)
    assert room["in_all"] == BOOK.capacity - 60
    assert room_report(BOOK, item_map.retire(["i0000"])) == room


def test_findings_name_exactly_what_passes_a_threshold() -> None:
    quality = {
        "items": 10,
        "unique_item_rate": 0.1,
        "excess_collisions": 6,
        "levels": [{"usage": 0.5}, {"usage": 0.01}],
    }
    at_the_thresholds = SemanticIdSettings(
        least_unique_item_rate=0.1, least_first_level_usage=0.5, most_excess_collision_rate=0.6
    )
    assert findings(quality, at_the_thresholds) == []
    strict = SemanticIdSettings(
        least_unique_item_rate=0.2, least_first_level_usage=0.6, most_excess_collision_rate=0.5
    )
    found = findings(quality, strict)
    assert [(one["finding"], one["value"], one["threshold"]) for one in found] == [
        ("unique_item_rate", 0.1, 0.2),
        ("first_level_usage", 0.5, 0.6),
        ("excess_collision_rate", 0.6, 0.5),
    ]
    assert "10.0%" in found[0]["told"]
