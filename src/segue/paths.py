"""What serving and evaluation see of a recommender: requests in, ranked lists out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from segue.schema import PathName

IndexArray = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float32]


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
    # What the coins of an interleaved list are drawn from, such as the exposure's id; None: the user and their history.
    draw: str | None = None


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


@runtime_checkable
class CandidateRanker(Path, Protocol):
    """A path that also ranks candidates which others propose: a cascade with room for another recall route."""

    def recommend_with(
        self,
        requests: Sequence[Request],
        k: int,
        rules: ListRules,
        routes: Mapping[str, Sequence[IndexArray]],
    ) -> list[RankedList]:
        """As :meth:`recommend`, with further proposals: by the route's name, [M] item indices a request."""
        ...


@runtime_checkable
class ItemScorer(Path, Protocol):
    """A path that also scores the items it is given."""

    def score(self, requests: Sequence[Request], items: Sequence[IndexArray]) -> list[Scores]:
        """[M] scores of each request's ``items`` [M], those that its own lists would have; -inf where it has none.

        Raises DataError for items that do not exist.
        """
        ...
