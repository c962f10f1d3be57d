"""The one selector: whatever proposed the candidates, the list is made here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from segue.errors import DataError
from segue.paths import IndexArray, ListRules, RankedList
from segue.ranking.rules import hidden_items


def select(
    candidates: npt.NDArray[np.integer],
    scores: npt.NDArray[np.floating],
    sources: Sequence[str] | str,
    rules: ListRules,
    k: int,
    seen: npt.NDArray[np.integer],
) -> RankedList:
    """The best ``k`` candidates that the rules allow, best first.

    Args:
        candidates: [M] item indices; one that is proposed twice counts once, with its best score.
        scores: [M]; higher is better. -inf means "no candidate". Equal scores are ordered by item index.
        sources: [M] who proposed each candidate, or one name for all of them.
        rules: what the list must obey.
        k: the length asked for; where fewer candidates are left, the list is shorter.
        seen: [T] items that the user has seen, hidden where ``rules.filter_seen``.

    Raises DataError for ``k`` below 1, for shapes that do not agree, and for NaN or +inf scores.
    """
    if k < 1:
        raise DataError(f"k is {k}: ask for at least one item")
    items = np.asarray(candidates, dtype=np.int64)
    values = np.asarray(scores, dtype=np.float32)
    if items.ndim != 1 or items.shape != values.shape:
        raise DataError(f"candidates {items.shape} and scores {values.shape} must be arrays of one length")
    if not isinstance(sources, str) and len(sources) != len(items):
        raise DataError(f"{len(sources)} sources for {len(items)} candidates: give one each, or one for all")
    if np.isnan(values).any() or np.isposinf(values).any():
        place = int(np.flatnonzero(np.isnan(values) | np.isposinf(values))[0])
        raise DataError(f"item {items[place]} has the score {values[place]}: scores must be finite, or -inf")
    kept = np.flatnonzero(np.isfinite(values) & _shown(items, rules, seen))
    kept = _best(kept, values[kept], k, repeated=len(np.unique(items)) < len(items))
    kept = kept[np.lexsort((items[kept], -values[kept]))]
    _, first = np.unique(items[kept], return_index=True)
    kept = kept[np.sort(first)[:k]]
    return RankedList(
        items=items[kept],
        scores=values[kept],
        sources=(sources,) * len(kept)
        if isinstance(sources, str)
        else tuple(sources[int(at)] for at in kept),
    )


def _shown(items: IndexArray, rules: ListRules, seen: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
    """[M] whether each candidate may be shown."""
    if rules.allowed is None:
        shown = np.ones(len(items), dtype=bool)
    else:
        if items.size and (items.min() < 0 or items.max() >= len(rules.allowed)):
            raise DataError(
                f"candidate {items.max()} lies outside rules.allowed, of {len(rules.allowed)} entries: "
                "give one entry per item"
            )
        shown = rules.allowed[items].astype(bool)
    hidden = hidden_items(rules, seen)
    return shown & ~np.isin(items, hidden) if hidden.size else shown


def _best(kept: IndexArray, values: npt.NDArray[np.float32], k: int, *, repeated: bool) -> IndexArray:
    """Of ``kept``, those that can be among the best k: all at or above the k-th score, ties included."""
    if repeated or len(kept) <= k:
        return kept
    threshold = np.partition(values, len(values) - k)[len(values) - k]
    best: IndexArray = kept[values >= threshold]
    return best
