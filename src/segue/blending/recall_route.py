"""The path ``recall_route``: generated items join the cascade's candidates, and the cascade ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from segue.paths import CandidateRanker, ListRules, Path, RankedList, Request
from segue.schema import PathName

DEPTH: Final = 100  # items that the route proposes: as many as the generative path's beam finds


class RecallRoutePath:
    """Implements :class:`segue.paths.Path`. The sources name the route ``generative`` beside the cascade's own.

    The ranker has the last word. Where it scores the whole catalogue itself and recalls its own best, as the built-in incumbent's
    SASRec does, the route adds to the top only what that ranker cannot score: the path is for rankers that see no more
    than what was recalled.
    """

    name = PathName.RECALL_ROUTE

    def __init__(self, *, cascade: CandidateRanker, generative: Path) -> None:
        self._cascade, self._generative = cascade, generative

    def recommend(self, requests: Sequence[Request], k: int, rules: ListRules) -> list[RankedList]:
        """One list a request. Raises what the parts raise."""
        generated = self._generative.recommend(requests, max(k, DEPTH), rules)
        routes = {PathName.GENERATIVE.value: [ranked.items for ranked in generated]}
        return self._cascade.recommend_with(requests, k, rules, routes)
