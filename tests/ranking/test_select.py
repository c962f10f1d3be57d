"""The selector against a plain Python oracle, and its refusals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.errors import DataError
from segue.paths import ListRules
from segue.ranking.select import select

NOTHING = np.empty(0, dtype=np.int64)


def oracle(candidates, scores, sources, rules, k, seen):
    best: dict[int, tuple[float, str]] = {}
    for item, score, source in zip(candidates, scores, sources, strict=True):
        hidden = (
            (rules.filter_seen and item in set(seen))
            or (rules.excluded is not None and item in set(rules.excluded))
            or (rules.allowed is not None and not rules.allowed[item])
            or score == -np.inf
        )
        if not hidden and (item not in best or score > best[item][0]):
            best[item] = (score, source)
    return sorted(((-score, item, source) for item, (score, source) in best.items()))[:k]


@settings(max_examples=25, deadline=None)
@given(data=st.data(), n_items=st.integers(1, 12), k=st.integers(1, 15), filter_seen=st.booleans())
def test_equals_the_oracle(data, n_items, k, filter_seen):
    item = st.integers(0, n_items - 1)
    candidates = np.array(data.draw(st.lists(item, max_size=20)), dtype=np.int64)
    score = st.sampled_from([0.0, 0.5, 1.0, -2.0, float("-inf")])
    scores = np.array(
        data.draw(st.lists(score, min_size=len(candidates), max_size=len(candidates))), dtype=np.float32
    )
    sources = [f"source{place}" for place in range(len(candidates))]
    rules = ListRules(
        filter_seen=filter_seen,
        allowed=np.array(data.draw(st.lists(st.booleans(), min_size=n_items, max_size=n_items)), dtype=bool),
        excluded=np.array(data.draw(st.lists(item, max_size=3)), dtype=np.int64),
    )
    seen = np.array(data.draw(st.lists(item, max_size=5)), dtype=np.int64)
    expected = oracle(candidates.tolist(), scores.tolist(), sources, rules, k, seen.tolist())
    found = select(candidates, scores, sources, rules, k, seen)
    assert found.items.tolist() == [item for _, item, _ in expected]
    assert found.scores.tolist() == [-negative for negative, _, _ in expected]
    assert len(found.sources) == len(expected)


def test_ties_are_broken_by_item_index_even_at_the_cut():
    found = select(np.array([7, 3, 5, 1]), np.array([1.0, 1.0, 1.0, 0.0]), "model", ListRules(), 2, NOTHING)
    assert found.items.tolist() == [3, 5]
    assert found.sources == ("model", "model")


def test_a_repeated_candidate_keeps_its_best_score_and_that_source():
    found = select(
        np.array([4, 4, 2]), np.array([0.1, 0.9, 0.5]), ["beam", "dense", "beam"], ListRules(), 3, NOTHING
    )
    assert found.items.tolist() == [4, 2]
    assert found.sources == ("dense", "beam")


def test_a_k_larger_than_what_is_left_gives_a_shorter_list():
    found = select(np.array([1, 2, 3]), np.array([3.0, 2.0, 1.0]), "m", ListRules(), 10, np.array([1]))
    assert found.items.tolist() == [2, 3]
    assert select(NOTHING, np.empty(0, dtype=np.float32), "m", ListRules(), 10, NOTHING).items.size == 0


@pytest.mark.parametrize("k", [0, -3])
def test_refuses_a_k_below_one(k):
    with pytest.raises(DataError, match="at least one item"):
        select(np.array([1]), np.array([1.0]), "m", ListRules(), k, NOTHING)


@pytest.mark.parametrize("score", [np.nan, np.inf])
def test_refuses_scores_that_are_no_numbers(score):
    with pytest.raises(DataError, match="item 8"):
        select(np.array([6, 8]), np.array([1.0, score]), "m", ListRules(), 1, NOTHING)


def test_refuses_shapes_that_do_not_agree():
    with pytest.raises(DataError, match="one length"):
        select(np.array([1, 2]), np.array([1.0]), "m", ListRules(), 1, NOTHING)
    with pytest.raises(DataError, match="1 sources for 2"):
        select(np.array([1, 2]), np.array([1.0, 2.0]), ["m"], ListRules(), 1, NOTHING)
    with pytest.raises(DataError, match="outside"):
        select(np.array([9]), np.array([1.0]), "m", ListRules(allowed=np.ones(3, dtype=bool)), 1, NOTHING)
