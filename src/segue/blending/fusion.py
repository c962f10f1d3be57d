"""Fusing two ranked lists by their ranks.

Weighted reciprocal rank fusion: an item's score is the sum over lists s of ``w_s / (c + rank_s)``, ranks from 1 (Cormack,
Clarke & Büttcher 2009, "Reciprocal Rank Fusion Outperforms Condorcet and Individual Rank Learning Methods", SIGIR, section 2;
there with equal weights and c = 60). Ranks and not scores, because the scores of the two paths cannot be compared: the
cascade's hold shifts between tiers (:mod:`segue.cascade.rank`), the generative path's are log-probabilities with no floor,
and any normalisation by the extremes of a list would hang on its worst candidate.

``c`` says how flat a list is. With c = 0 two lists that share nothing are mixed in proportion to their weights: of the
first k places each gets its weight's share, however small k is. With c = 60 and weights of 0.6 and 0.4 the second list's
best would come 32nd: that suits many equal lists, not two with weights that are to be felt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from segue.blending.sources import written
from segue.paths import ListRules, RankedList, Request
from segue.ranking.select import select
from segue.schema import PathName

SMOOTHING: Final = 0.0  # c


def reciprocal(rank: float) -> float:
    """What a place counts, from 1; the feature by which a blend's weights are learnt."""
    return 1.0 / (SMOOTHING + rank)


def places(lists: Mapping[PathName, RankedList]) -> dict[int, dict[str, int]]:
    """Each item's place in the lists that have it, from 1; items in order of their first appearance."""
    found: dict[int, dict[str, int]] = {}
    for name, ranked in lists.items():
        for place, item in enumerate(ranked.items.tolist(), start=1):
            found.setdefault(item, {})[name.value] = place
    return found


def fuse(
    lists: Mapping[PathName, RankedList],
    weights: Mapping[PathName, float],
    request: Request,
    k: int,
    rules: ListRules,
) -> RankedList:
    """The ``k`` best of both ``lists`` by their ``weights``; the sources tell each item's places."""
    found = places(lists)
    scores = [
        sum(weights[PathName(name)] * reciprocal(place) for name, place in own.items())
        for own in found.values()
    ]
    return select(
        np.fromiter(found, dtype=np.int64, count=len(found)),
        np.asarray(scores, dtype=np.float32),
        [written(own) for own in found.values()],
        rules,
        k,
        request.history,
    )
