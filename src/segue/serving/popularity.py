"""The last resort: the most popular items, which needs nothing but the item table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from segue.items import Items
from segue.paths import ListRules, RankedList, Request
from segue.ranking.select import select
from segue.schema import PathName


class PopularityPath:
    """Implements :class:`segue.paths.Path`. The score is the item's count in the training part."""

    name = PathName.POPULARITY

    def __init__(self, items: Items) -> None:
        self._indices = np.arange(len(items), dtype=np.int64)
        self._counts = items.train_counts.astype(np.float32)

    def recommend(self, requests: Sequence[Request], k: int, rules: ListRules) -> list[RankedList]:
        return [
            select(self._indices, self._counts, "popularity", rules, k, request.history)
            for request in requests
        ]
