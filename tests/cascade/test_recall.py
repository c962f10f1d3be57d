"""Every recall route against sorting the whole catalogue."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from segue.cascade.recall import DenseIndex, recall_shared, recall_sparse


def oracle(scores, may, limit):
    """The best allowed items, equal scores by index."""
    items = [item for item in range(len(scores)) if may[item]]
    return sorted(items, key=lambda item: (-scores[item], item))[:limit]


def listed(row):
    return [item for item in row.tolist() if item >= 0]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), limit=st.integers(1, 9))
def test_every_route_equals_the_sorted_catalogue(seed, limit):
    random = np.random.default_rng(seed)
    n, b = 8, 3
    allowed = random.random((b, n)) < 0.6
    known = random.random(n) < 0.7
    vectors = random.normal(size=(n, 4)).astype(np.float32)
    users = random.normal(size=(b, 4)).astype(np.float32)
    answered = np.array([True, True, False])

    found = DenseIndex(vectors, known).recall(users, answered, allowed, limit)
    for row in range(b):
        expected = oracle(vectors @ users[row], allowed[row] & known, limit) if answered[row] else []
        assert listed(found[row]) == expected

    scores = np.where(random.random((b, n)) < 0.5, random.integers(1, 4, (b, n)), 0).astype(np.float32)
    found = recall_sparse(sparse.csr_matrix(scores), allowed, limit)
    for row in range(b):
        assert listed(found[row]) == oracle(scores[row], allowed[row] & (scores[row] > 0), limit)

    order = random.permutation(n)
    found = recall_shared(order, allowed, limit)
    for row in range(b):
        assert listed(found[row]) == [item for item in order if allowed[row, item]][:limit]


def test_an_index_of_nothing_finds_nothing():
    index = DenseIndex(np.zeros((3, 2), dtype=np.float32), np.zeros(3, dtype=bool))
    found = index.recall(np.ones((1, 2), dtype=np.float32), np.array([True]), np.ones((1, 3), dtype=bool), 2)
    assert (found == -1).all()
