"""Explanations: the definition, what is said in words, and what is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.errors import DataError
from segue.generative.explain import EVENTS, Explanation, Influence, Themes, explain, sentence
from segue.generative.path import GenerativePath
from segue.paths import IndexArray, Request

from . import tiny

BOUND = tiny.items(retired=(4,))
PATH = GenerativePath(
    tiny.model(BOUND), BOUND, dense_weight=0.5, beam_width=24, dense_candidates=24, max_length=8
)
TITLES = [f"Film {item}" for item in range(30)]
COUNTS = np.arange(30)


def request(*history: int, context: dict[str, str] | None = None) -> Request:
    return Request(
        history=np.array(history, dtype=np.int64),
        timestamps=np.arange(len(history), dtype=np.int64) * 60,
        context=context or {},
    )


class Additive:
    """A score that is a sum over the history and the context, so that every importance is known beforehand."""

    def __init__(self, weights: dict[int, float], context: float = 0.0) -> None:
        self.weights, self.context, self.calls = weights, context, 0

    def __call__(self, requests: Sequence[Request], items: Sequence[IndexArray]) -> list[np.ndarray]:
        self.calls += 1
        sums = [
            sum(self.weights.get(int(item), 0.0) for item in one.history)
            + (self.context if one.context else 0.0)
            for one in requests
        ]
        return [np.full(len(own), total, dtype=np.float32) for own, total in zip(items, sums, strict=True)]


def themes(codes: list[list[int]], words: dict[tuple[int, ...], tuple[str, ...]] | None = None) -> Themes:
    return Themes(np.array(codes, dtype=np.int64), words or {})


def said(
    path: Additive | None, of: Request, item: int, about: Themes | None = None, counts: IndexArray = COUNTS
) -> str:
    return sentence(explain(path, of, item, about), of, TITLES, counts)


@given(history=st.lists(st.integers(0, 23).filter(lambda item: item != 4), max_size=12))
@settings(max_examples=25, deadline=None)
def test_an_importance_is_what_the_score_loses_without_the_event(history: list[int]) -> None:
    found = explain(PATH.score, request(*history), 7, None)
    whole = PATH.score([request(*history)], [np.array([7])])[0][0]
    assert found.score == pytest.approx(whole, abs=1e-5)
    assert sorted(influence.place for influence in found.influences) == list(range(len(history)))
    for influence in found.influences:
        of = request(*history)
        left = Request(
            history=np.delete(of.history, influence.place),
            timestamps=np.delete(of.timestamps, influence.place),
        )
        without = PATH.score([left], [np.array([7])])[0][0]
        assert influence.importance == pytest.approx(whole - without, abs=2e-4)
    order = [(-influence.importance, -influence.place) for influence in found.influences]
    assert order == sorted(order)


def test_one_call_whatever_the_history_and_only_the_newest_events() -> None:
    path = Additive({0: 100.0, 2: 1.0})
    found = explain(path, request(0, *[2] * EVENTS), 9, None)
    assert path.calls == 1
    assert [influence.place for influence in found.influences] == list(
        range(EVENTS, 0, -1)
    )  # ties: newest first


@pytest.mark.parametrize(("now", "meant"), [(None, 180), (1000, 1000)])
def test_without_an_event_it_is_no_earlier_than_it_was(now: int | None, meant: int) -> None:
    """Were the newest event left out with the moment that it gives, its importance would be a change of time as well."""

    class Recording(Additive):
        asked: tuple[Request, ...] = ()

        def __call__(self, requests: Sequence[Request], items: Sequence[IndexArray]) -> list[np.ndarray]:
            self.asked = tuple(requests)
            return super().__call__(requests, items)

    path = Recording({1: 1.0})
    explain(path, replace(request(1, 2, 3, 5), now=now), 9, None)
    whole, *without = path.asked
    assert whole.now == now
    assert [len(one.history) for one in without] == [3] * 4
    assert {one.now for one in without} == {meant}


def test_the_sentence_names_the_events_that_speak_for_the_item() -> None:
    path = Additive({1: 2.0, 2: 5.0, 3: -1.0, 5: 0.1})
    assert said(path, request(1, 3, 2, 5), 9) == "Because you chose Film 2 and Film 1."
    assert said(path, request(2, 3, 5), 9) == "Because you chose Film 2."  # 5 is a trifle beside it
    assert said(path, request(2, 2, 1), 9) == "Because you chose Film 2 and Film 1."  # named once
    assert said(path, request(2, 1), 2) == "Because you chose Film 1."  # nothing is its own reason


def test_a_theme_is_the_longest_shared_prefix() -> None:
    about = themes(
        [[0, 0, 0], [0, 1, 0], [0, 1, 1], [1, 1, 2], [0, 1, 2]], {(0, 1): ("space", "war", "alien", "robot")}
    )
    found = about.shared(4, np.array([2, 0, 3, 1]))
    assert found is not None
    assert (found.prefix, found.places) == ((0, 1), (3, 0))
    assert about.shared(3, np.array([0, 1])) is None
    assert about.shared(4, np.array([4], dtype=np.int64)) is None  # the item itself
    assert about.shared(4, np.array([], dtype=np.int64)) is None
    path = Additive({1: 1.0})
    assert said(path, request(0, 1), 4, about) == (
        'Because you chose Film 1; it shares the theme "space, war, alien".'
    )
    assert said(Additive({1: -1.0}), request(0, 1), 4, about) == (
        'Like Film 1, it belongs to the theme "space, war, alien".'
    )


def test_what_nothing_bears_out_is_not_said() -> None:
    silent = Additive({})
    assert said(silent, request(1, 2), 9) == "Suggested by your history as a whole."
    no_words = themes([[0, 0]] * 30)
    assert said(silent, request(1, 2), 9, no_words) == "Suggested by your history as a whole."
    assert said(silent, request(), 29) == "Popular with others."
    assert said(silent, request(), 1).startswith("A first look")
    assert said(None, request(1, 2), 29) == "Popular with others."
    assert said(silent, request(), 29, counts=np.zeros(30, dtype=np.int64)).startswith("A first look")


def test_a_context_speaks_only_where_the_score_heeds_it() -> None:
    asked = request(context={"hour": "21", "device": "tv"})
    heeding = explain(Additive({}, context=0.5), asked, 9, None)
    assert (heeding.basis, heeding.context_importance) == ("context", 0.5)
    assert sentence(heeding, asked, TITLES, COUNTS) == "Suggested for device tv, hour 21."
    assert explain(Additive({}), asked, 9, None).basis == "popularity"
    assert explain(Additive({}), request(1), 9, None).context_importance is None


def test_a_rounding_error_is_no_reason() -> None:
    class Noisy(Additive):
        def __call__(self, requests: Sequence[Request], items: Sequence[IndexArray]) -> list[np.ndarray]:
            exact = super().__call__(requests, items)
            return [own - 2e-5 * place / len(exact) for place, own in enumerate(exact)]

    assert said(Noisy({}), request(1, 2), 9) == "Suggested by your history as a whole."


def test_an_item_without_a_score_is_refused() -> None:
    with pytest.raises(DataError, match="no score"):
        explain(PATH.score, request(1), 4, None)  # retired


def test_a_single_level_of_codes_has_no_theme() -> None:
    assert themes([[0], [0]]).shared(0, np.array([1])) is None


def test_the_words_are_data_too() -> None:
    explanation = Explanation(9, "history", 1.0, (Influence(0, 1.0),), None, None)
    assert sentence(explanation, request(3), TITLES, COUNTS) == "Because you chose Film 3."
