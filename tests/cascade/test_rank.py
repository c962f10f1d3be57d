"""One score for items that different models know."""

from __future__ import annotations

import numpy as np

from segue.cascade.rank import rank_scores

ROWS = np.array([0, 0, 0, 0, 1, 1])
SASREC = np.array([2.0, 5.0, 0.0, 0.0, 0.0, 0.0], dtype=np.float32)
IN_SASREC = np.array([True, True, False, False, False, False])
TWO_TOWER = np.array([0.1, 0.9, 0.5, 0.0, 0.3, 0.7], dtype=np.float32)
IN_TWO_TOWER = np.array([True, True, True, False, True, True])
POPULARITY = np.array([0.0, 0.0, 0.0, 9.0, 0.0, 1.0], dtype=np.float32)


def scores(how):
    return rank_scores(
        ROWS,
        sasrec=SASREC,
        in_sasrec=IN_SASREC,
        two_tower=TWO_TOWER,
        in_two_tower=IN_TWO_TOWER,
        popularity=POPULARITY,
        unknown_items=how,
    )


def test_behind_puts_unknown_items_in_tiers():
    found = scores("behind")
    assert found[:2].tolist() == [2.0, 5.0]  # what SASRec knows keeps its score
    assert found[2] == 1.0  # one below the last of them
    assert found[3] == 0.0  # and popularity alone behind that, however popular
    assert found[4:].tolist() == TWO_TOWER[4:].tolist()  # where nothing is above, nothing is shifted


def test_among_reads_a_two_tower_score_off_what_both_know():
    found = scores("among")
    np.testing.assert_allclose(found[2], 3.5)  # halfway in the one, halfway in the other
    assert found[3] < 2.0
    assert found[5] > found[4]


def test_only_popularity_left_is_the_order_of_popularity():
    nobody = np.zeros(6, dtype=bool)
    found = rank_scores(
        ROWS,
        sasrec=SASREC,
        in_sasrec=nobody,
        two_tower=TWO_TOWER,
        in_two_tower=nobody,
        popularity=POPULARITY,
        unknown_items="behind",
    )
    assert found.tolist() == POPULARITY.tolist()
