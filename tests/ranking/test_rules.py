"""The rules as a mask over the items."""

from __future__ import annotations

import numpy as np
import pytest

from segue.errors import DataError
from segue.paths import ListRules, Request
from segue.ranking.rules import allowed_mask


def request(*history: int) -> Request:
    items = np.array(history, dtype=np.int64)
    return Request(history=items, timestamps=np.zeros_like(items))


def test_everything_is_allowed_but_what_was_seen():
    assert allowed_mask(ListRules(), request(1, 3, 3), 5).tolist() == [True, False, True, False, True]
    assert allowed_mask(ListRules(filter_seen=False), request(1), 3).all()


def test_all_rules_hold_together_and_the_given_mask_stays_as_it_was():
    allowed = np.array([True, True, True, False])
    rules = ListRules(allowed=allowed, excluded=np.array([2]))
    assert allowed_mask(rules, request(0), 4).tolist() == [False, True, False, False]
    assert allowed.tolist() == [True, True, True, False]


def test_refuses_what_does_not_fit_the_items():
    with pytest.raises(DataError, match="one entry per item"):
        allowed_mask(ListRules(allowed=np.ones(3, dtype=bool)), request(), 4)
    with pytest.raises(DataError, match="excluded names item index 9"):
        allowed_mask(ListRules(excluded=np.array([9])), request(), 4)
    with pytest.raises(DataError, match="history names item index -1"):
        allowed_mask(ListRules(), request(-1), 4)
