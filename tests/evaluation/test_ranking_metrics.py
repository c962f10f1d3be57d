"""Every metric against a plain loop that states its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.evaluation import metrics
from segue.evaluation.metrics import PAD


def random_lists(generator: np.random.Generator, users: int, length: int, items: int) -> np.ndarray:
    lists = np.full((users, length), PAD, dtype=np.int64)
    for row in range(users):
        size = int(generator.integers(0, min(length, items) + 1))
        lists[row, :size] = generator.permutation(items)[:size]
    return lists


def plain_ndcg(items: list[int], targets: set[int], k: int) -> float:
    gained = sum(1 / math.log2(rank + 2) for rank, item in enumerate(items[:k]) if item in targets)
    return gained / sum(1 / math.log2(rank + 2) for rank in range(min(len(targets), k)))


def plain_mrr(items: list[int], targets: set[int], k: int) -> float:
    return next((1 / (rank + 1) for rank, item in enumerate(items[:k]) if item in targets), 0.0)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 12), many=st.booleans())
def test_ranking_metrics_equal_their_definitions(seed: int, k: int, many: bool) -> None:
    generator = np.random.default_rng(seed)
    lists = random_lists(generator, users=6, length=8, items=15)
    sets = [
        set(generator.permutation(15)[: int(generator.integers(1, 5)) if many else 1].tolist())
        for _ in range(6)
    ]
    targets = (
        [np.array(sorted(chosen)) for chosen in sets] if many else np.array([min(chosen) for chosen in sets])
    )
    hit, counts = metrics.relevance(lists, targets)
    plain = [[item for item in row if item != PAD] for row in lists.tolist()]
    expected_recall = [len(set(row[:k]) & own) / len(own) for row, own in zip(plain, sets, strict=True)]
    np.testing.assert_allclose(metrics.recall(hit, counts, k), expected_recall)
    for function, reference in ((metrics.ndcg, plain_ndcg), (metrics.mrr, plain_mrr)):
        expected = [reference(row, own, k) for row, own in zip(plain, sets, strict=True)]
        np.testing.assert_allclose(function(hit, counts, k), expected)


def test_ndcg_of_one_target_is_the_discount_at_its_rank() -> None:
    lists = np.array([[5, 6, 7], [6, 5, 7], [6, 7, 8]])
    hit, counts = metrics.relevance(lists, np.array([5, 5, 5]))
    np.testing.assert_allclose(metrics.ndcg(hit, counts, 10), [1.0, 1 / math.log2(3), 0.0])
    assert metrics.target_ranks(lists, np.array([5, 5, 5])).tolist() == [0, 1, -1]


def test_a_user_without_targets_has_no_value() -> None:
    hit, counts = metrics.relevance(np.array([[1, 2]]), [np.empty(0, dtype=np.int64)])
    assert all(
        np.isnan(function(hit, counts, 2)).all() for function in (metrics.recall, metrics.ndcg, metrics.mrr)
    )


def test_another_number_of_users_is_refused() -> None:
    with pytest.raises(ValueError, match="2 lists, but targets of 3 users"):
        metrics.relevance(np.zeros((2, 4), dtype=np.int64), np.zeros(3, dtype=np.int64))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 8))
def test_list_statistics_equal_their_definitions(seed: int, k: int) -> None:
    generator = np.random.default_rng(seed)
    lists = random_lists(generator, users=5, length=6, items=12)
    vectors = generator.normal(size=(12, 4))
    present = generator.random(12) > 0.2
    vectors[3] = 0.0  # present, but it has no direction
    audience = generator.integers(0, 30, size=12)
    members = generator.random(12) > 0.5
    for row, values in enumerate(lists):
        head = [int(item) for item in values[:k] if item != PAD]
        unit = [vectors[i] / np.linalg.norm(vectors[i]) for i in head if present[i] and i != 3]
        pairs = [1 - unit[a] @ unit[b] for a in range(len(unit)) for b in range(a)]
        expected = [
            np.mean(pairs) if pairs else np.nan,
            np.mean([-math.log2((audience[i] + 1) / 31) for i in head]) if head else np.nan,
            np.mean([members[i] for i in head]) if head else np.nan,
        ]
        found = [
            metrics.diversity(lists, vectors, present, k)[row],
            metrics.novelty(lists, audience, 30, k)[row],
            metrics.share_of(lists, members, k)[row],
        ]
        np.testing.assert_allclose(found, expected, atol=1e-12)
    heads = {int(item) for item in lists[:, :k].ravel() if item != PAD}
    assert metrics.coverage(lists, 12, k) == pytest.approx(len(heads) / 12)


def test_invalid_counts_every_way_an_item_can_be_wrong_once() -> None:
    valid = np.ones(10, dtype=bool)
    valid[4] = False
    lists = np.array(
        [
            [0, 1, 2, 3],  # nothing wrong
            [0, 99, 4, 0],  # outside the catalogue, retired, twice
            [7, 8, PAD, PAD],  # 7 was seen
            [PAD, PAD, PAD, PAD],  # an empty list has no rate
        ]
    )
    seen = [np.array([9]), np.array([9]), np.array([7, 7]), np.array([1])]
    np.testing.assert_allclose(metrics.invalid_rate(lists, valid, seen), [0.0, 0.75, 0.5, np.nan])
    np.testing.assert_allclose(metrics.invalid_rate(lists, valid)[2], 0.0)


def test_source_share_counts_joint_proposals_and_ignores_the_end_of_a_list() -> None:
    sources = np.array([[0, 1, 2, PAD], [2, 2, PAD, PAD], [PAD] * 4])
    share = metrics.source_share(sources, ["beam", "beam+dense", "dense"], "beam", 4)
    np.testing.assert_allclose(share, [2 / 3, 0.0, np.nan])


def test_long_tail_is_the_least_popular_share_of_the_catalogue() -> None:
    counts = np.array([9, 0, 5, 5, 1, 100, 7, 2, 3, 4])
    tail = metrics.long_tail(counts, 0.8)
    assert tail.sum() == 8
    assert set(np.flatnonzero(~tail).tolist()) == {0, 5}
    assert counts[tail].max() <= counts[~tail].min()
