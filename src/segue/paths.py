"""What serving and evaluation see of a recommender: requests in, ranked lists out (CONTRACTS 3)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from segue.schema import PathName

IndexArray = npt.NDArray[np.int64]


def user_key(user_id: str | None) -> int:
    """A user as a number of 63 bits, the same everywhere and always; -1: unknown. For models with user tokens."""
    if user_id is None:
        return -1
    return int.from_bytes(hashlib.blake2b(user_id.encode("utf-8"), digest_size=8).digest(), "big") >> 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request for a list, its items already turned into item indices."""

    history: IndexArray  # [T] item indices, oldest first; may be empty
    timestamps: IndexArray  # [T] seconds since 1970-01-01 UTC; zeros where the data has none
    user_id: str | None = None
    now: int | None = None  # seconds; None: the last timestamp
    context: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ListRules:
    """What a list must obey, whichever path makes it. Thin now: issue-free room for windows, quotas and diversity."""

    filter_seen: bool = True
    allowed: npt.NDArray[np.bool_] | None = (
        None  # [N] items that may be shown at all (stock, categories); None: all
    )
    excluded: IndexArray | None = None  # [E] items this request must not show


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedList:
    """Items, best first, with their scores and who proposed each."""

    items: IndexArray  # [k'] item indices, k' <= k
    scores: npt.NDArray[np.float32]  # [k']
    sources: tuple[str, ...]  # [k'] such as "beam", "dense", "beam+dense", "item_knn", "popularity"


class Path(Protocol):
    """One way to make a list. Cascades, generative models and blends all look like this."""

    name: PathName

    def recommend(self, requests: Sequence[Request], k: int, rules: ListRules) -> list[RankedList]:
        """One list a request, at most ``k`` long, every rule obeyed. Scores fall along the list."""
        ...
