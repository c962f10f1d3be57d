"""The weights of a blend before anybody gave feedback: chosen on the validation part, by what would be served."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from segue.blending.blended import DEPTH
from segue.blending.fusion import fuse
from segue.blending.sources import proposers_of
from segue.evaluation.metrics import PAD, ndcg, relevance
from segue.evaluation.protocol import Cases
from segue.paths import ListRules, Path, RankedList, Request
from segue.schema import PathName


class ByProposer:
    """A path over blended lists whose sources tell who proposed an item and not at which place: tables count them."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._path = path

    def recommend(self, requests: Sequence[Request], k: int, rules: ListRules) -> list[RankedList]:
        return [
            replace(found, sources=tuple(proposers_of(source) for source in found.sources))
            for found in self._path.recommend(requests, k, rules)
        ]


def blend_by_share(
    cascade: Path,
    generative: Path,
    cases: Cases,
    rules: ListRules,
    *,
    shares: Sequence[float],
    k: int,
    batch_size: int,
) -> dict[float, float]:
    """Mean NDCG@k of blended lists for each of the generative part's ``shares``; both paths are asked once."""
    lists = {share: np.full((len(cases), k), PAD, dtype=np.int64) for share in shares}
    depth = max(k, DEPTH)
    for start in range(0, len(cases), batch_size):
        requests = cases.requests[start : start + batch_size]
        parts = {
            PathName.CASCADE: cascade.recommend(requests, depth, rules),
            PathName.GENERATIVE: generative.recommend(requests, depth, rules),
        }
        for row, request in enumerate(requests):
            own = {name: answers[row] for name, answers in parts.items()}
            for share, found in lists.items():
                weights = {PathName.CASCADE: 1 - share, PathName.GENERATIVE: share}
                items = fuse(own, weights, request, k, rules).items
                found[start + row, : len(items)] = items
    return {share: float(ndcg(*relevance(found, cases.targets), k).mean()) for share, found in lists.items()}


def best_share(by_share: Mapping[float, float]) -> float:
    """The share with the highest figure; of equals the one nearest to one half, then the smaller."""
    return min(by_share, key=lambda share: (-by_share[share], abs(share - 0.5), share))
