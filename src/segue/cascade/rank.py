"""Ranking: one score for all candidates of a request, whichever model knows them.

SASRec scores what it knows. An item that it does not know (inserted since, or without any event) can only
be placed by the two-tower model, whose score has another scale, and an item that neither knows only by
popularity:

- ``behind``: three tiers in that order, each shifted so that its best stands one below the tier before it;
- ``among``: a two-tower score is first read off the candidates that both models know: what is as far up in
their
  two-tower scores as it can be in their SASRec scores (piecewise linear quantile matching). Popularity
  stays behind.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]


def rank_scores(
    rows: Indices,
    *,
    sasrec: Floats,
    in_sasrec: Bools,
    two_tower: Floats,
    in_two_tower: Bools,
    popularity: Floats,
    unknown_items: Literal["behind", "among"],
) -> Floats:
    """[M] scores of M candidates, comparable within one request.

    Args:
        rows: [M] the request of each candidate, ascending.
        sasrec, two_tower, popularity: [M] scores by each model.
        in_sasrec, in_two_tower: [M] whether that model can score this candidate for this request.
    """
    scores = np.where(in_sasrec, sasrec, np.float32(0)).astype(np.float32)
    placed = in_sasrec.copy()
    if unknown_items == "among":
        both = in_sasrec & in_two_tower
        for row in np.unique(rows[in_two_tower & ~in_sasrec]):
            low, high = np.searchsorted(rows, [row, row + 1])
            known = np.flatnonzero(both[low:high]) + low
            if not len(known):
                continue
            unknown = np.flatnonzero(in_two_tower[low:high] & ~in_sasrec[low:high]) + low
            scores[unknown] = np.interp(two_tower[unknown], np.sort(two_tower[known]), np.sort(sasrec[known]))
            placed[unknown] = True
    scores = _behind(scores, placed, two_tower, in_two_tower & ~placed, rows)
    placed |= in_two_tower
    return _behind(scores, placed, popularity, ~placed, rows)


def _behind(scores: Floats, placed: Bools, own: Floats, tier: Bools, rows: Indices) -> Floats:
    """``scores`` with the candidates of ``tier`` put behind the placed ones of their request, in ``own``
    order.
    """
    if not tier.any():
        return scores
    requests = int(rows[-1]) + 1
    floor = np.full(requests, np.inf, dtype=np.float32)
    np.minimum.at(floor, rows[placed], scores[placed])
    best = np.full(requests, -np.inf, dtype=np.float32)
    np.maximum.at(best, rows[tier], own[tier])
    shift = np.where(np.isfinite(floor), floor - 1 - best, np.float32(0))
    moved = scores.copy()
    moved[tier] = own[tier] + shift[rows[tier]]
    return moved
