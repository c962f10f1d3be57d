"""The path ``blended``: both paths' lists, fused by the deployment's weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from segue.blending.fusion import fuse
from segue.blending.weights import checked_weights
from segue.paths import ListRules, Path, RankedList, Request
from segue.schema import PathName

DEPTH: Final = 100  # places of each list that are looked at: as many as the generative path's beam finds


class BlendedPath:
    """Implements :class:`segue.paths.Path`. A part without a weight is not asked, so the other's list comes out as it is.

    ``weights``: as ``deployment.blend`` has them; None: one half each. Raises ConfigurationError for others.
    """

    name = PathName.BLENDED

    def __init__(
        self, *, cascade: Path, generative: Path, weights: Mapping[str, float] | None = None
    ) -> None:
        self.weights = checked_weights(weights)
        # The generative path first: where it fails, nothing was spent on the other yet, which then serves alone.
        parts = {PathName.GENERATIVE: generative, PathName.CASCADE: cascade}
        self._parts = {name: path for name, path in parts.items() if self.weights[name] > 0}

    def recommend(self, requests: Sequence[Request], k: int, rules: ListRules) -> list[RankedList]:
        """One list a request. Raises what the parts raise."""
        depth = k if len(self._parts) == 1 else max(k, DEPTH)
        by_part = {name: path.recommend(requests, depth, rules) for name, path in self._parts.items()}
        return [
            fuse({name: by_part[name][row] for name in sorted(by_part)}, self.weights, request, k, rules)
            for row, request in enumerate(requests)
        ]
