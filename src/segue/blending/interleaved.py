"""The path ``interleaved``: a team draft of both paths' lists, whose clicks tell which one users prefer."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from segue.blending.fusion import places
from segue.blending.sources import NEITHER, written
from segue.migration.statistics.interleaving import Team, team_draft
from segue.paths import ListRules, Path, RankedList, Request
from segue.ranking.select import select
from segue.schema import PathName

_NAMES: dict[Team, PathName] = {"a": PathName.CASCADE, "b": PathName.GENERATIVE}


class InterleavedPath:
    """Implements :class:`segue.paths.Path`; drafted as :mod:`segue.migration.statistics.interleaving` says, team a the cascade.

    Each side brings exactly the list that it would show alone. A request's coins are drawn from ``Request.draw``,
    else from its user and history: the same request gets the same list in any process. Sources begin with the item's
    team (:mod:`segue.blending.sources`); a score is the reciprocal of the place.
    """

    name = PathName.INTERLEAVED

    def __init__(self, *, cascade: Path, generative: Path) -> None:
        self._cascade, self._generative = cascade, generative

    def recommend(self, requests: Sequence[Request], k: int, rules: ListRules) -> list[RankedList]:
        """One list a request. Raises what the parts raise."""
        # The generative path first: where it fails, nothing was spent on the other yet, which then serves alone.
        generative = self._generative.recommend(requests, k, rules)
        cascade = self._cascade.recommend(requests, k, rules)
        return [
            _drafted(own, other, request, k, rules)
            for own, other, request in zip(cascade, generative, requests, strict=True)
        ]


def coins(request: Request) -> np.random.Generator:
    """The request's own coins, the same everywhere."""
    drawn = request.draw
    if drawn is None:
        drawn = f"{request.user_id!r} {request.history.tolist()}"
    return np.random.default_rng(int.from_bytes(hashlib.sha256(drawn.encode()).digest()[:8], "big"))


def _drafted(
    cascade: RankedList, generative: RankedList, request: Request, k: int, rules: ListRules
) -> RankedList:
    draft = team_draft(cascade.items.tolist(), generative.items.tolist(), k, coins(request))
    found = places({PathName.CASCADE: cascade, PathName.GENERATIVE: generative})
    sources = []
    for item, team in zip(draft.items, draft.teams, strict=True):
        own = found[item]
        if team is None:
            sources.append(NEITHER + written(own))
            continue
        first = _NAMES[team].value
        sources.append(written({first: own[first], **own}))
    return select(
        np.asarray(draft.items, dtype=np.int64),
        1.0 / np.arange(1, len(draft.items) + 1, dtype=np.float32),
        sources,
        rules,
        k,
        request.history,
    )
