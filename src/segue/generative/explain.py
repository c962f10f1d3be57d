"""Why this item: the events of the history that mattered most, the theme that it shares with them, and a sentence.

An event's importance is by how much the path's own score of the item falls when the event is left out:

    importance(t) = score(item | history) - score(item | history without event t)

which is occlusion (Zeiler & Fergus 2014, arXiv:1311.2901, section 4.2) with events for patches. For the generative path
the score is the fused log-probability, so importances are nats. The history without the event is read as if it had never
happened: where a model reads only the newest events, an older one moves up.

What it does not say: two events that tell the model the same thing each matter little, because the other is still there.
Shapley values (Lundberg & Lee 2017, arXiv:1705.07874) would share the credit between them, at the price of a number of
histories that grows exponentially, or of sampling noise that changes the answer between two requests; one history an
event is what a page can wait for.

Pure: paths, codes and words are passed in, and nothing is said that they do not bear out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from segue.errors import DataError
from segue.paths import IndexArray, ItemScorer, Path, Request, Scores

EVENTS = 20  # of a history, the newest, that are left out one by one
NAMED = 2  # events in the sentence
WORDS = 3  # of the theme in the sentence
_WORTH_NAMING = 0.25  # of the most important event's importance
_DECIMALS = 4  # of an importance: below that float32 sums of another batch decide
_POPULAR = 0.1  # the most popular tenth of the catalogue

Basis = Literal["history", "context", "popularity"]

# Every sentence there is. {events}: titles; {words}: a theme; {context}: what the request said.
BECAUSE = "Because you chose {events}."
BECAUSE_AND_THEME = 'Because you chose {events}; it shares the theme "{words}".'
SHARED_THEME = 'Like {events}, it belongs to the theme "{words}".'
WHOLE_HISTORY = "Suggested by your history as a whole."
CONTEXT = "Suggested for {context}."
POPULAR = "Popular with others."
FIRST_LOOK = "A first look at the catalogue: the more you choose, the better it fits."


# [M] scores of each request's items [M]; those of one item must be comparable between requests. -inf: it has none.
Score = Callable[[Sequence[Request], Sequence[IndexArray]], Sequence[Scores]]


@runtime_checkable
class ScoresAlone(Protocol):
    """A path whose lists rank candidates by one another, but which can score an item by itself."""

    def score_alone(self, requests: Sequence[Request], items: Sequence[IndexArray]) -> Sequence[Scores]:
        """As :data:`Score`."""
        ...


def score_of(path: Path | None) -> Score | None:
    """How ``path`` scores items that it is given; None: it does not."""
    if isinstance(path, ItemScorer):
        return path.score
    return path.score_alone if isinstance(path, ScoresAlone) else None


@dataclass(frozen=True, slots=True)
class Influence:
    """One event of the history and what it did to the item's score."""

    place: int  # in the request's history
    importance: float  # above 0: the event speaks for the item


@dataclass(frozen=True, slots=True)
class SharedTheme:
    """The longest prefix of the item's semantic ID that events of the history have, too."""

    prefix: tuple[int, ...]
    words: tuple[str, ...]  # heaviest first; none where no words are known
    places: tuple[int, ...]  # of those events in the request's history, newest first


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why ``item``, as data. :func:`sentence` says it in words."""

    item: int
    basis: Basis
    score: float | None  # of the item; None: nobody was asked for one
    influences: tuple[Influence, ...]  # most important first, of equals the newest
    context_importance: float | None  # of the request's context as a whole; None: it has none
    theme: SharedTheme | None


@dataclass(frozen=True)
class Themes:
    """Semantic IDs and what their prefixes are about."""

    codes: npt.NDArray[np.int64]  # [N, L]; the last level only tells neighbours apart
    words: Mapping[tuple[int, ...], tuple[str, ...]]

    def shared(self, item: int, history: IndexArray) -> SharedTheme | None:
        """The theme that ``item`` shares with the newest :data:`EVENTS` events; None: not even the first code.

        The item itself, where it is among them, is no such event.
        """
        first = max(0, len(history) - EVENTS)
        recent = history[first:]
        equal = (
            np.logical_and.accumulate(self.codes[recent, :-1] == self.codes[item, :-1], axis=1)
            if len(recent)
            else np.zeros((0, self.codes.shape[1] - 1), dtype=bool)
        )
        depths = np.where(recent == item, 0, equal.sum(axis=1))
        depth = int(depths.max(initial=0))
        if not depth:
            return None
        prefix = tuple(self.codes[item, :depth].tolist())
        places = (np.flatnonzero(depths == depth) + first)[::-1]
        return SharedTheme(prefix, self.words.get(prefix, ()), tuple(places.tolist()))


def explain(score: Score | None, request: Request, item: int, themes: Themes | None) -> Explanation:
    """Why a path with this ``score`` would show ``item`` to ``request``; None: it reads neither history nor context.

    Scores at most :data:`EVENTS` + 2 histories, in one call. Raises DataError where the item has no score.
    """
    if score is None:
        return Explanation(item, "popularity", None, (), None, None)
    theme = None if themes is None else themes.shared(item, request.history)
    places = range(max(0, len(request.history) - EVENTS), len(request.history))
    asked = [request, *(_without(request, place) for place in places)]
    if request.context:
        asked.append(replace(request, context={}))
    wanted = np.array([item], dtype=np.int64)
    scores = np.concatenate(score(asked, [wanted] * len(asked))).astype(np.float64)
    if not np.isfinite(scores).all():
        raise DataError(f"item {item} has no score by this path")
    falls = np.round(scores[0] - scores[1:], _DECIMALS) + 0.0  # + 0.0: no negative zero
    influences = [
        Influence(place, float(fall)) for place, fall in zip(places, falls[: len(places)], strict=True)
    ]
    influences.sort(key=lambda influence: (-influence.importance, -influence.place))
    of_context = float(falls[-1]) if request.context else None
    basis: Basis = "history"
    if not len(request.history):
        basis = "context" if of_context is not None and of_context > 0 else "popularity"
    return Explanation(item, basis, float(scores[0]), tuple(influences), of_context, theme)


def _without(request: Request, place: int) -> Request:
    return replace(
        request,
        history=np.delete(request.history, place),
        timestamps=np.delete(request.timestamps, place),
        # Without the newest event, "now" would move into the past.
        now=request.now
        if request.now is not None or not len(request.timestamps)
        else int(request.timestamps[-1]),
    )


def sentence(
    explanation: Explanation, request: Request, titles: Sequence[str], train_counts: IndexArray
) -> str:
    """The explanation in one sentence for the person who sees the item. ``titles`` [N], ``train_counts`` [N]."""
    if explanation.basis == "context":
        said = ", ".join(f"{name} {value}" for name, value in sorted(request.context.items()))
        return CONTEXT.format(context=said)
    if explanation.basis == "popularity":
        above = int((train_counts > train_counts[explanation.item]).sum())
        popular = train_counts[explanation.item] > 0 and above < _POPULAR * len(train_counts)
        return POPULAR if popular else FIRST_LOOK
    words = ", ".join(explanation.theme.words[:WORDS]) if explanation.theme is not None else ""
    events = _listed(_worth_naming(explanation, request), titles)
    if events:
        return (BECAUSE_AND_THEME if words else BECAUSE).format(events=events, words=words)
    if words and explanation.theme is not None:
        shared = [int(request.history[place]) for place in explanation.theme.places]
        return SHARED_THEME.format(events=_listed(_distinct(shared), titles), words=words)
    return WHOLE_HISTORY


def _worth_naming(explanation: Explanation, request: Request) -> list[int]:
    """Items of the history that speak for the item, at most :data:`NAMED`; never the item itself."""
    speaking = [
        influence
        for influence in explanation.influences
        if influence.importance > 0 and request.history[influence.place] != explanation.item
    ]
    if not speaking:
        return []
    least = _WORTH_NAMING * speaking[0].importance
    return _distinct([int(request.history[event.place]) for event in speaking if event.importance >= least])


def _distinct(items: Sequence[int]) -> list[int]:
    return list(dict.fromkeys(items))[:NAMED]


def _listed(items: Sequence[int], titles: Sequence[str]) -> str:
    return " and ".join(titles[item] for item in items)
