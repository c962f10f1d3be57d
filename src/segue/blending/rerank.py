"""The path ``rerank``: the cascade proposes, the generative path ranks by its exact scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from segue.paths import ItemScorer, ListRules, Path, RankedList, Request
from segue.ranking.select import select
from segue.schema import PathName

DEPTH: Final = 100  # of the cascade's list: about as many candidates as the generative path scores of its own


class RerankPath:
    """Implements :class:`segue.paths.Path`. The sources are the cascade's, the scores the generative path's.

    No item is shown that the cascade would not have among its best ``max(k, DEPTH)``, and no beam is searched.
    """

    name = PathName.RERANK

    def __init__(self, *, cascade: Path, generative: ItemScorer) -> None:
        self._cascade, self._generative = cascade, generative

    def recommend(self, requests: Sequence[Request], k: int, rules: ListRules) -> list[RankedList]:
        """One list a request. Raises what the parts raise."""
        proposed = self._cascade.recommend(requests, max(k, DEPTH), rules)
        scores = self._generative.score(requests, [ranked.items for ranked in proposed])
        return [
            select(ranked.items, own, ranked.sources, rules, k, request.history)
            for ranked, own, request in zip(proposed, scores, requests, strict=True)
        ]
