"""Item-to-item filtering against its definition, written as loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.cascade.item_knn import ItemKnn, dense
from segue.errors import ArtifactError

from .conftest import make_items, make_sequences, request

N = 6
HISTORIES = st.lists(st.lists(st.integers(0, N - 1), min_size=1, max_size=6), min_size=1, max_size=8)


def oracle(histories, neighbours, shrinkage):
    users = [set(history) for history in histories]
    similarity = np.zeros((N, N))
    for i in range(N):
        for j in range(N):
            together = sum(i in user and j in user for user in users)
            norm = math.sqrt(sum(i in user for user in users) * sum(j in user for user in users))
            if i != j and together:
                similarity[i, j] = together / (norm + shrinkage)
        best = sorted(range(N), key=lambda j: (-np.float32(similarity[i, j]), j))[:neighbours]
        for j in set(range(N)) - set(best):
            similarity[i, j] = 0.0
    return similarity


@settings(max_examples=25, deadline=None)
@given(histories=HISTORIES, neighbours=st.integers(1, N), shrinkage=st.sampled_from([0.0, 2.0]))
def test_similarities_equal_the_definition(histories, neighbours, shrinkage):
    model = ItemKnn.fit(
        make_sequences(histories, labelled=False),
        [str(item) for item in range(N)],
        neighbours=neighbours,
        shrinkage=shrinkage,
    )
    np.testing.assert_allclose(
        model.similarity.toarray(), oracle(histories, neighbours, shrinkage), rtol=1e-5
    )


@settings(max_examples=25, deadline=None)
@given(histories=HISTORIES, asked=st.lists(st.integers(0, N - 1), max_size=5))
def test_scores_sum_over_the_history_and_newer_items_count_more(histories, asked):
    model = ItemKnn.fit(
        make_sequences(histories, labelled=False),
        [str(item) for item in range(N)],
        neighbours=N,
        shrinkage=0.0,
        half_life=2.0,
    )
    similarity = model.similarity.toarray()
    expected = sum(
        (similarity[item] * 2 ** (-age / 2.0) for age, item in enumerate(reversed(asked))), np.zeros(N)
    )
    found = model.scores([request(), request(*asked)]).toarray()
    np.testing.assert_allclose(found[1], expected, rtol=1e-5)
    assert not found[0].any()


def test_an_item_that_nothing_speaks_for_has_no_score():
    model = ItemKnn.fit(make_sequences([[0, 1]]), ["a", "b", "c"], neighbours=2, shrinkage=0.0)
    assert dense(model.scores([request(0)])).tolist() == [[-np.inf, 1.0, -np.inf]]


def test_is_found_by_id_in_a_table_that_grew_and_lost_an_item(tmp_path):
    model = ItemKnn.fit(
        make_sequences([[0, 1, 2]]), ["b", "d", "e"], neighbours=2, shrinkage=0.0, half_life=3.0
    )
    model.save(tmp_path)
    loaded = ItemKnn.load(tmp_path, make_items(["a", "b", "d"]))
    assert loaded.half_life == 3.0
    assert loaded.similarity.toarray().tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 0]]


def test_refuses_an_empty_folder(tmp_path):
    with pytest.raises(ArtifactError, match="run the step"):
        ItemKnn.load(tmp_path, make_items(["a"]))
