"""Which path is made of the other two, and how."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from segue.blending.blended import BlendedPath
from segue.blending.interleaved import InterleavedPath
from segue.blending.recall_route import RecallRoutePath
from segue.blending.rerank import RerankPath
from segue.paths import CandidateRanker, ItemScorer, Path
from segue.schema import PathName

COMPOSED: Final = frozenset({PathName.RECALL_ROUTE, PathName.RERANK, PathName.BLENDED, PathName.INTERLEAVED})


def compose(
    name: PathName,
    *,
    cascade: CandidateRanker,
    generative: ItemScorer,
    blend: Mapping[str, float] | None = None,
) -> Path:
    """The path ``name`` over both. ``blend``: the weights of ``blended``; None: one half each.

    Raises KeyError for a path that is not in :data:`COMPOSED`, ConfigurationError for weights that are none.
    """
    match name:
        case PathName.RECALL_ROUTE:
            return RecallRoutePath(cascade=cascade, generative=generative)
        case PathName.RERANK:
            return RerankPath(cascade=cascade, generative=generative)
        case PathName.BLENDED:
            return BlendedPath(cascade=cascade, generative=generative, weights=blend)
        case PathName.INTERLEAVED:
            return InterleavedPath(cascade=cascade, generative=generative)
    raise KeyError(f"{name.value} is not made of other paths")
