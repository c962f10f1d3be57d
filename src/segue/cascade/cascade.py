"""The cascade that serves: recall -> rank -> select. And each of its models as a path of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path as Folder
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from segue.artifacts import read_json
from segue.cascade.item_knn import ItemKnn, dense
from segue.cascade.popularity import Popularity
from segue.cascade.rank import rank_scores
from segue.cascade.recall import DenseIndex, recall_shared, recall_sparse
from segue.cascade.scorers import DenseScorer, SasrecScorer, TwoTowerScorer
from segue.cascade.settings import CascadeSettings
from segue.errors import ArtifactError, DataError
from segue.items import Items
from segue.paths import IndexArray, ListRules, RankedList, Request
from segue.ranking.rules import allowed_mask, checked_items
from segue.ranking.select import select
from segue.schema import PathName

if TYPE_CHECKING:
    from segue.paths import Path

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

CONFIG = "incumbent.json"
ROUTES = ("sasrec", "item_knn", "two_tower", "popularity")
_CELLS = 2**25  # requests x items looked at together: bounds the memory of the masks


class CascadePath:
    """recall: SASRec, item-to-item, two-tower (FAISS) and popularity propose ``recall_per_route`` items each.
    rank: SASRec's score, items that it does not know as :mod:`segue.cascade.rank` says. select: the one
    selector.

    SASRec is a recall route too, so that its own best items always reach its ranking: the cascade is not
    handicapped against SASRec over the full catalogue.
    """

    name = PathName.CASCADE

    def __init__(
        self,
        items: Items,
        settings: CascadeSettings,
        *,
        sasrec: DenseScorer,
        item_knn: ItemKnn,
        two_tower: DenseScorer,
        popularity: Popularity,
    ) -> None:
        self.items = items
        self.settings = settings
        self.sasrec, self.item_knn, self.two_tower, self.popularity = sasrec, item_knn, two_tower, popularity
        self._sasrec_index = DenseIndex(sasrec.vectors, sasrec.known)
        self._two_tower_index = DenseIndex(two_tower.vectors, two_tower.known)
        self._by_popularity = np.lexsort((np.arange(len(items)), -popularity.counts))
        self._log_counts = np.log1p(popularity.counts).astype(np.float32)

    def recommend(self, requests: Sequence[Request], k: int, rules: ListRules) -> list[RankedList]:
        """One list a request. Raises DataError for ``k`` below 1 and for item indices that do not exist."""
        return self.recommend_with(requests, k, rules, {})

    def recommend_with(
        self,
        requests: Sequence[Request],
        k: int,
        rules: ListRules,
        routes: Mapping[str, Sequence[IndexArray]],
    ) -> list[RankedList]:
        """One list a request, further ``routes`` among its recall: by name, [M] item indices a request.

        They are ranked like all others, so an item that the ranker puts behind the list's end is not shown, whoever
        proposed it. Raises DataError as :meth:`recommend`, and for routes that are named like an own one, or do not
        answer every request.
        """
        for name, proposed in routes.items():
            if name in ROUTES:
                raise DataError(
                    f"{name!r} is a recall route of this cascade: call the further one differently"
                )
            if len(proposed) != len(requests):
                raise DataError(
                    f"route {name!r} proposes for {len(proposed)} requests, and there are {len(requests)}"
                )
        lists: list[RankedList] = []
        for batch in _batches(requests, k, self.items):
            part = slice(len(lists), len(lists) + len(batch))
            further = {name: proposed[part] for name, proposed in routes.items()}
            lists.extend(self._batch(batch, k, rules, further))
        return lists

    def score_alone(self, requests: Sequence[Request], items: Sequence[IndexArray]) -> list[Floats]:
        """[M] of each request's ``items`` [M], each as if it were the only candidate, by the model that ranks it: SASRec,
        for items that it does not know the two-tower model, for items that neither knows the logarithm of their count.

        Which model that is depends on the item alone, so the scores of *one* item are comparable between requests; a list
        puts those of the different models behind one another. A history that the model cannot read scores 0, its
        zero vector. Raises DataError for items that do not exist.
        """
        scored = [(scorer, scorer.users(requests)[0]) for scorer in (self.two_tower, self.sasrec)]
        found = []
        for row, own in enumerate(items):
            known = checked_items(own, len(self.items), "score")
            scores = self._log_counts[known]
            for scorer, users in scored:
                scores = np.where(scorer.known[known], scorer.vectors[known] @ users[row], scores)
            found.append(scores.astype(np.float32))
        return found

    def recall(
        self, requests: Sequence[Request], rules: ListRules, per_route: int | None = None
    ) -> dict[str, IndexArray]:
        """Each route's proposals [B, per_route], best first, -1 where it has no more; every rule obeyed."""
        allowed = _masks(requests, rules, len(self.items))
        return self._recall(
            requests, allowed, self.sasrec.users(requests), self.two_tower.users(requests), per_route
        )

    def _recall(
        self,
        requests: Sequence[Request],
        allowed: Bools,
        sasrec: tuple[Floats, Bools],
        two_tower: tuple[Floats, Bools],
        per_route: int | None = None,
    ) -> dict[str, IndexArray]:
        limit = per_route or self.settings.recall_per_route
        return {
            "sasrec": self._sasrec_index.recall(*sasrec, allowed, limit),
            "item_knn": recall_sparse(self.item_knn.scores(requests), allowed, limit),
            "two_tower": self._two_tower_index.recall(*two_tower, allowed, limit),
            "popularity": recall_shared(self._by_popularity, allowed, limit),
        }

    def _batch(
        self,
        requests: Sequence[Request],
        k: int,
        rules: ListRules,
        further: Mapping[str, Sequence[IndexArray]],
    ) -> Iterator[RankedList]:
        allowed = _masks(requests, rules, len(self.items))
        sasrec, two_tower = self.sasrec.users(requests), self.two_tower.users(requests)
        # A list longer than a route's proposals would otherwise run short.
        limit = max(k, self.settings.recall_per_route)
        proposers = np.zeros(allowed.shape, dtype=np.uint8)
        for bit, found in enumerate(self._recall(requests, allowed, sasrec, two_tower, limit).values()):
            rows, columns = np.nonzero(found >= 0)
            proposers[rows, found[rows, columns]] |= 1 << bit
        for bit, proposed in enumerate(further.values(), start=len(ROUTES)):
            for row, items in enumerate(proposed):
                known = checked_items(items, len(self.items), "a recall route")
                proposers[row, known[allowed[row, known]]] |= 1 << bit
        rows, candidates = np.nonzero(proposers)
        scores = rank_scores(
            rows,
            sasrec=_products(sasrec[0], self.sasrec.vectors, rows, candidates),
            in_sasrec=sasrec[1][rows] & self.sasrec.known[candidates],
            two_tower=_products(two_tower[0], self.two_tower.vectors, rows, candidates),
            in_two_tower=two_tower[1][rows] & self.two_tower.known[candidates],
            popularity=self._log_counts[candidates],
            unknown_items=self.settings.unknown_items,
        )
        sources = _sources((*ROUTES, *further))[proposers[rows, candidates]]
        bounds = np.searchsorted(rows, np.arange(len(requests) + 1))
        for row, request in enumerate(requests):
            part = slice(bounds[row], bounds[row + 1])
            yield select(candidates[part], scores[part], sources[part].tolist(), rules, k, request.history)


class _ScoringPath:
    """A path that scores the whole catalogue and selects."""

    name = PathName.CASCADE
    source: str

    def __init__(self, items: Items) -> None:
        self.items = items
        self._everything = np.arange(len(items), dtype=np.int64)

    def scores(self, requests: Sequence[Request]) -> Floats:
        """[B, N]; -inf where the model cannot score an item."""
        raise NotImplementedError

    def recommend(self, requests: Sequence[Request], k: int, rules: ListRules) -> list[RankedList]:
        """One list a request. Raises DataError for ``k`` below 1 and for item indices that do not exist."""
        lists: list[RankedList] = []
        for batch in _batches(requests, k, self.items):
            allowed = _masks(batch, rules, len(self.items))
            scores = np.where(allowed, self.scores(batch), np.float32(-np.inf))
            lists.extend(
                select(self._everything, row, self.source, rules, k, request.history)
                for row, request in zip(scores, batch, strict=True)
            )
        return lists


class DensePath(_ScoringPath):
    """A dense scorer over the full catalogue. A history that it cannot read gets an empty list."""

    def __init__(self, scorer: DenseScorer, items: Items) -> None:
        super().__init__(items)
        self.source = scorer.name
        self.scorer = scorer

    def scores(self, requests: Sequence[Request]) -> Floats:
        users, answered = self.scorer.users(requests)
        known = answered[:, None] & self.scorer.known[None, :]
        return np.where(known, users @ self.scorer.vectors.T, np.float32(-np.inf))


class SasrecPath(DensePath):
    """SASRec alone."""


class TwoTowerPath(DensePath):
    """The two-tower model alone."""


class ItemKnnPath(_ScoringPath):
    """Item-to-item collaborative filtering alone; items that no history item speaks for are not listed."""

    source = "item_knn"

    def __init__(self, model: ItemKnn, items: Items) -> None:
        super().__init__(items)
        self.model = model

    def scores(self, requests: Sequence[Request]) -> Floats:
        return dense(self.model.scores(requests))


class PopularityPath(_ScoringPath):
    """Popularity alone: the fallback, which answers every request. A score is the count of events."""

    name = PathName.POPULARITY
    source = "popularity"

    def __init__(self, model: Popularity, items: Items) -> None:
        super().__init__(items)
        self.model = model

    def scores(self, requests: Sequence[Request]) -> Floats:
        return np.broadcast_to(self.model.counts, (len(requests), len(self.model.counts)))


def load_cascade(folder: Folder, items: Items) -> CascadePath:
    """The cascade of an incumbent's folder over ``items``, aligned by item id.

    ``items`` may have grown since: items that no model was trained on reach lists through the two-tower's
    content (where the folder holds it) and through popularity. Raises ArtifactError where the folder is
    not whole.
    """
    settings = _settings(folder)
    return CascadePath(
        items,
        settings,
        sasrec=SasrecScorer.load(folder / "sasrec", items),
        item_knn=ItemKnn.load(folder / "item_knn", items),
        two_tower=TwoTowerScorer.load(folder / "two_tower", items),
        popularity=Popularity.load(folder / "popularity", items),
    )


def load_paths(folder: Folder, items: Items) -> dict[str, Path]:
    """Every model of an incumbent's folder as a path of its own, and the cascade made of them, by name."""
    cascade = load_cascade(folder, items)
    return {
        "cascade": cascade,
        "sasrec": SasrecPath(cascade.sasrec, items),
        "item_knn": ItemKnnPath(cascade.item_knn, items),
        "two_tower": TwoTowerPath(cascade.two_tower, items),
        "popularity": PopularityPath(cascade.popularity, items),
    }


def _settings(folder: Folder) -> CascadeSettings:
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict) or "settings" not in config:
        raise ArtifactError(f"{folder / CONFIG} holds no settings: run the step incumbent again")
    return CascadeSettings.stored(config["settings"])


def _batches(requests: Sequence[Request], k: int, items: Items) -> Iterator[Sequence[Request]]:
    if k < 1:
        raise DataError(f"k is {k}: ask for at least one item")
    size = max(1, _CELLS // max(1, len(items)))
    for low in range(0, len(requests), size):
        yield requests[low : low + size]


def _masks(requests: Sequence[Request], rules: ListRules, n_items: int) -> Bools:
    """[B, N] what each request may be shown."""
    return np.stack([allowed_mask(rules, request, n_items) for request in requests])


def _products(users: Floats, vectors: Floats, rows: IndexArray, items: IndexArray) -> Floats:
    """[M] products of user row and item vector, a piece at a time."""
    found = np.empty(len(rows), dtype=np.float32)
    for low in range(0, len(rows), 2**16):
        part = slice(low, low + 2**16)
        found[part] = np.einsum("md,md->m", users[rows[part]], vectors[items[part]])
    return found


@cache
def _sources(routes: tuple[str, ...]) -> npt.NDArray[np.object_]:
    """[2^R] the text for every set of ``routes``, by their bits."""
    if len(routes) > 8:
        raise DataError(f"{len(routes)} recall routes: at most 8 are told apart")
    return np.array(
        [
            "+".join(name for bit, name in enumerate(routes) if proposers >> bit & 1)
            for proposers in range(1 << len(routes))
        ],
        dtype=object,
    )
