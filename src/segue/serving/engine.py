"""The engine behind any server: one bundle, its paths, and what happens when a path fails.

A list is made by the path that was asked for; where that path raises, is too slow, returns something that is
no list of this catalogue, or is not there, the next one makes it: generative -> cascade -> popularity. A path that is made of
the cascade's and the generative one (:mod:`segue.blending`) is followed by the cascade, or by popularity where it was
the cascade that failed; the failure counts for the part. The answer says which path made the list, and why; every failure is
logged with its traceback and counted.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path as FilePath

import numpy as np
import numpy.typing as npt
import polars as pl

from segue.blending.compose import COMPOSED, compose
from segue.data.context import Vocabulary
from segue.errors import ArtifactError, DataError
from segue.generative.explain import EVENTS, Explanation, Themes, explain, score_of, sentence
from segue.items import Items, ItemVectors
from segue.migration.deployment import SCENARIO
from segue.paths import ListRules, Path, RankedList, Request
from segue.ranking.select import select
from segue.registry.bundle import INCUMBENT, ITEM_MAP, MODEL, THEMES, BundleManifest, read_bundle
from segue.schema import Catalogue, PathName
from segue.serving.breaker import Breaker
from segue.serving.guarded_path import GuardedPath, PathFailure, UnreadablePath
from segue.serving.popularity import PopularityPath
from segue.serving.requests import Filters, RecommendedItem

logger = logging.getLogger("segue.serving")

ORDER: tuple[PathName, ...] = (PathName.GENERATIVE, PathName.CASCADE, PathName.POPULARITY)
_POOL_THREADS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """A history in item ids, oldest first."""

    item_ids: Sequence[str] = ()
    timestamps: Sequence[int] | None = None
    user_id: str | None = None
    now: int | None = None
    context: Mapping[str, str] | None = None
    draw: str | None = None  # see :attr:`segue.paths.Request.draw`


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A list in ids, and how it came about."""

    items: tuple[RecommendedItem, ...]
    path: PathName
    fallback: str | None
    unknown_items: tuple[str, ...]
    warnings: tuple[str, ...] = ()  # what of the request was not heeded


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """Why an item, in indices of this engine's items, and in words."""

    explanation: Explanation
    sentence: str
    history: npt.NDArray[
        np.int64
    ]  # those of its items that the catalogue knows: influences name their places
    path: PathName
    fallback: str | None
    unknown_items: tuple[str, ...]
    warnings: tuple[str, ...]


class Engine:
    """One bundle, loaded. Thread-safe: nothing but counters and breakers changes after construction.

    Args:
        manifest: what the bundle says of itself.
        items: its item table.
        paths: its paths by name; popularity is added where it is missing, and what can be made of them.
        vectors: the items' aligned vectors, for similar items; None: the cascade answers.
        themes: semantic IDs and what their prefixes are about, for explanations; None: they do without.
        vocabulary: of the context features that its model reads; None: it reads none.
        budget_ms: what one request may take on one path; a batch of B may take B times that. A path that is made of
            two asks each within its own.
        default_k: the length of a list where a request names none.
        delays: milliseconds that a path takes longer on purpose (:mod:`segue.serving.faults`).
    """

    def __init__(
        self,
        manifest: BundleManifest,
        items: Items,
        paths: Mapping[PathName, Path],
        *,
        vectors: ItemVectors | None = None,
        themes: Themes | None = None,
        vocabulary: Vocabulary | None = None,
        budget_ms: float = 500.0,
        default_k: int = 10,
        breakers: Mapping[PathName, Breaker] | None = None,
        delays: Mapping[PathName, float] | None = None,
    ) -> None:
        self.manifest = manifest
        self.items = items
        self.paths: dict[PathName, Path] = {PathName.POPULARITY: PopularityPath(items), **paths}
        self.default_k = default_k
        self.delays = {name: delay for name, delay in (delays or {}).items() if name in self.paths}
        self.failures: Counter[tuple[PathName, str]] = Counter()  # (path, reason) -> requests
        self._counting = threading.Lock()
        self._vectors = vectors
        self._themes = themes
        self._vocabulary = vocabulary or Vocabulary({}, {})
        self._budget = budget_ms / 1000
        self._breakers = {name: Breaker() for name in self.available} | dict(breakers or {})
        self._filter_seen = bool(manifest.rules.get("filter_seen", True))
        self._pool = ThreadPoolExecutor(_POOL_THREADS, thread_name_prefix="segue-path")
        self._guarded = {name: self._guard(path, self._pool) for name, path in self.paths.items()}

    @classmethod
    def load(
        cls, folder: FilePath, *, verify: bool = True, delays: Mapping[PathName, float] | None = None
    ) -> Engine:
        """The engine of the bundle in ``folder``. Raises ArtifactError where it is damaged or unknown."""
        manifest = read_bundle(folder, verify=verify)
        items = Items.load(folder)
        from segue.cascade import load_cascade

        paths: dict[PathName, Path] = {PathName.CASCADE: load_cascade(folder / INCUMBENT, items)}
        vectors, themes = None, None
        if manifest.kind == "full":
            from segue.generative.path import load_path
            from segue.tokenizers.item_map import bound_items

            bound = bound_items(folder / ITEM_MAP)
            try:
                paths[PathName.GENERATIVE] = load_path(folder / MODEL, bound, manifest.decoding)
            except ArtifactError as error:
                # Whole, or read_bundle had said so: a model of another version of this code. The cascade serves on.
                logger.error("%s", error)
                paths[PathName.GENERATIVE] = UnreadablePath(PathName.GENERATIVE, str(error))
            vectors = ItemVectors.load(folder / ITEM_MAP)
            themes = Themes(bound.codes.numpy(), _theme_words(folder))
        engine = cls(
            manifest,
            items,
            paths,
            vectors=vectors,
            themes=themes,
            vocabulary=Vocabulary.load(folder / MODEL),
            budget_ms=float(manifest.serving.get("path_budget_ms", 500.0)),
            default_k=int(manifest.serving.get("default_k", 10)),
            delays=delays,
        )
        engine.warm_up()
        return engine

    @property
    def bundle_id(self) -> str:
        return self.manifest.bundle_id

    def warm_up(self) -> None:
        """One list by every path, so that the first request does not pay for lazy initialisation.

        A path that fails here is only logged: its breaker and the fallback deal with it.
        """
        some = np.arange(min(3, len(self.items)), dtype=np.int64)
        request = Request(history=some, timestamps=np.zeros_like(some))
        for name, path in self.paths.items():
            if isinstance(path, UnreadablePath):
                continue  # said in a line when it was loaded
            try:
                path.recommend([request], min(self.default_k, len(self.items)), ListRules())
            except Exception:  # whatever a model raises; logged with its traceback
                logger.exception("path %s of bundle %s failed while warming up", name, self.bundle_id[:12])

    def close(self) -> None:
        """Let go of the threads; lists that are being made are finished."""
        self._pool.shutdown(wait=False)

    @property
    def available(self) -> list[PathName]:
        """Every path that can be asked for: the bundle's own, and what is made of them."""
        both = PathName.CASCADE in self.paths and PathName.GENERATIVE in self.paths
        return [*self.paths, *(name for name in PathName if both and name in COMPOSED)]

    def has(self, path: PathName) -> bool:
        return path in self.available

    @property
    def unreadable(self) -> dict[PathName, str]:
        """Paths whose model this code cannot read, and why."""
        return {name: path.reason for name, path in self.paths.items() if isinstance(path, UnreadablePath)}

    @property
    def open_breakers(self) -> list[PathName]:
        """Paths that are left alone for now, because they kept failing."""
        return [name for name, breaker in self._breakers.items() if breaker.is_open]

    def recommend(
        self,
        histories: Sequence[History],
        *,
        path: PathName,
        k: int | None = None,
        filters: Filters | None = None,
        blend: Mapping[str, float] | None = None,
        spared: Collection[str] = (),
    ) -> list[Served]:
        """One list per history, made by ``path`` or by the next one that can.

        ``blend``: the weights of the path ``blended``; None: one half each. ``spared``: names in a context that are no
        mistake though this bundle declares none such. Raises DataError for ``k`` below 1 and for a
        category that no item has, ConfigurationError for weights that are none.
        """
        length = self.default_k if k is None else k
        if length < 1:
            raise DataError(f"k is {length}: ask for at least one item")
        length = min(length, len(self.items))
        rules = self.rules(filters or Filters())
        requests, unknown = [], []
        for history in histories:
            request, missing = self._request(history)
            requests.append(request)
            unknown.append(tuple(missing))
        lists, made_by, reason = self._make(requests, length, rules, path, blend)
        return [
            Served(
                items=self._named(ranked),
                path=made_by,
                fallback=reason,
                unknown_items=missing,
                warnings=self._warnings(request, spared),
            )
            for ranked, missing, request in zip(lists, unknown, requests, strict=True)
        ]

    def similar(self, item_id: str, *, k: int | None = None, filters: Filters | None = None) -> Served:
        """Items whose vectors point the same way; otherwise the cascade's answer to a history of that item.

        Raises DataError for an item that the catalogue lacks.
        """
        index = self.items.index_of.get(item_id)
        if index is None:
            raise DataError(f"the catalogue of bundle {self.bundle_id[:12]} has no item {item_id!r}")
        if self._vectors is None or not self._vectors.present[index]:
            return self.recommend([History(item_ids=[item_id])], path=PathName.CASCADE, k=k, filters=filters)[
                0
            ]
        rules = self.rules(filters or Filters())
        candidates = np.flatnonzero(self._vectors.present)
        scores = self._unit_vectors[candidates] @ self._unit_vectors[index]
        own = np.asarray([index], dtype=np.int64)
        rules = ListRules(filter_seen=True, allowed=rules.allowed)
        ranked = select(candidates, scores, "vectors", rules, min(k or self.default_k, len(self.items)), own)
        return Served(items=self._named(ranked), path=PathName.GENERATIVE, fallback=None, unknown_items=())

    def explain(
        self, history: History, item_id: str, *, path: PathName, spared: Collection[str] = ()
    ) -> Explained:
        """Why ``path`` would show the item, or the first path after it that can say so.

        A path that is made of the cascade and the generative one is explained by the latter, a further recall route by
        the cascade, which ranks it. Raises DataError for an item that the catalogue lacks.
        """
        index = self.items.index_of.get(item_id)
        if index is None:
            raise DataError(f"the catalogue of bundle {self.bundle_id[:12]} has no item {item_id!r}")
        request, unknown = self._request(history)
        reasons: list[str] = []
        first = PathName.CASCADE if path is PathName.RECALL_ROUTE else PathName.GENERATIVE
        for name in ORDER[ORDER.index(path if path in ORDER else first) :]:
            try:
                found = self._explanation(name, request, index)
            except PathFailure as failure:
                reasons.append(f"{name.value}: {failure}")
                continue
            return Explained(
                explanation=found,
                sentence=sentence(found, request, self._labels, self.items.train_counts),
                history=request.history,
                path=name,
                fallback="; ".join(reasons) or None,
                unknown_items=tuple(unknown),
                warnings=self._warnings(request, spared),
            )
        raise RuntimeError(f"no path of bundle {self.bundle_id[:12]} could explain: {'; '.join(reasons)}")

    @property
    def declared(self) -> frozenset[str]:
        """The context features that its model reads."""
        return frozenset(self._vocabulary.features)

    def _warnings(self, request: Request, spared: Collection[str]) -> tuple[str, ...]:
        # The scenario routes a request, whether or not a model reads it.
        return tuple(self._vocabulary.complaints(request.context, spared=(SCENARIO, *spared)))

    def _explanation(self, name: PathName, request: Request, index: int) -> Explanation:
        if name is PathName.POPULARITY:
            return explain(None, request, index, self._themes)
        guarded = self._path(name, None)
        if isinstance(unreadable := self.paths[name], UnreadablePath):
            raise PathFailure(name, unreadable.reason)
        score = score_of(self.paths[name])
        if score is None:
            raise PathFailure(name, "cannot score an item")

        def made(_: Path) -> Explanation | None:
            try:
                return explain(score, request, index, self._themes)
            except DataError:  # not the path's fault: an item that it cannot say
                return None

        found = guarded.ask(made, min(len(request.history), EVENTS) + 2)
        if found is None:
            raise PathFailure(name, "has no score for this item")
        return found

    def rules(self, filters: Filters) -> ListRules:
        """The bundle's rules with a request's filters. Raises DataError for a category that no item has."""
        allowed: npt.NDArray[np.bool_] | None = None
        if filters.categories is not None:
            if unknown := sorted(set(filters.categories) - self._categories.keys()):
                raise DataError(f"no item has the category {unknown[0]!r}")
            allowed = np.zeros(len(self.items), dtype=bool)
            for category in filters.categories:
                allowed |= self._categories[category]
        if filters.allow is not None:
            listed = np.zeros(len(self.items), dtype=bool)
            listed[self.items.indices(filters.allow)[0]] = True
            allowed = listed if allowed is None else allowed & listed
        denied, _ = self.items.indices(filters.deny)
        return ListRules(
            filter_seen=self._filter_seen, allowed=allowed, excluded=denied if denied.size else None
        )

    @cached_property
    def _categories(self) -> dict[str, npt.NDArray[np.bool_]]:
        if Catalogue.CATEGORIES not in self.items.table.columns:
            return {}
        pairs = (
            self.items.table.select("item_index", Catalogue.CATEGORIES)
            .explode(Catalogue.CATEGORIES)
            .drop_nulls(Catalogue.CATEGORIES)
            .group_by(Catalogue.CATEGORIES, maintain_order=True)
            .agg(pl.col("item_index"))
        )
        masks = {}
        for category, indices in pairs.iter_rows():
            mask = np.zeros(len(self.items), dtype=bool)
            mask[indices] = True
            masks[category] = mask
        return masks

    @cached_property
    def _unit_vectors(self) -> npt.NDArray[np.float32]:
        if self._vectors is None:
            raise ArtifactError(f"bundle {self.bundle_id[:12]} has no item vectors")
        norms = np.linalg.norm(self._vectors.vectors, axis=1, keepdims=True)
        unit: npt.NDArray[np.float32] = (self._vectors.vectors / np.maximum(norms, 1e-12)).astype(np.float32)
        return unit

    @cached_property
    def titles(self) -> list[str | None]:
        if Catalogue.TITLE not in self.items.table.columns:
            return [None] * len(self.items)
        return self.items.table[Catalogue.TITLE].to_list()

    @cached_property
    def _labels(self) -> list[str]:
        """What an item is called in a sentence."""
        return [title or item for title, item in zip(self.titles, self.items.ids, strict=True)]

    def _request(self, history: History) -> tuple[Request, list[str]]:
        ids = list(history.item_ids)
        times = list(history.timestamps) if history.timestamps is not None else [0] * len(ids)
        known = [place for place, item in enumerate(ids) if item in self.items.index_of]
        if history.timestamps is not None:
            known.sort(key=lambda place: times[place])  # stable: equal times keep the order given
        indices = np.asarray([self.items.index_of[ids[place]] for place in known], dtype=np.int64)
        return (
            Request(
                history=indices,
                timestamps=np.asarray([times[place] for place in known], dtype=np.int64),
                user_id=history.user_id,
                now=history.now,
                context=dict(history.context or {}),
                draw=history.draw,
            ),
            [item for item in ids if item not in self.items.index_of],
        )

    def _named(self, ranked: RankedList) -> tuple[RecommendedItem, ...]:
        return tuple(
            RecommendedItem(
                item_id=self.items.ids[index], title=self.titles[index], score=float(score), source=source
            )
            for index, score, source in zip(ranked.items, ranked.scores, ranked.sources, strict=True)
        )

    def _make(
        self,
        requests: Sequence[Request],
        k: int,
        rules: ListRules,
        wanted: PathName,
        blend: Mapping[str, float] | None,
    ) -> tuple[list[RankedList], PathName, str | None]:
        reasons: list[str] = []
        failed: set[PathName] = set()
        order = ORDER[ORDER.index(wanted) :] if wanted in ORDER else (wanted, *ORDER[1:])
        for name in order:
            if name in failed:  # as a part of the path before: it need not be waited for twice
                continue
            try:
                lists = self._path(name, blend).recommend(requests, k, rules)
            except PathFailure as failure:
                failed.add(failure.path)
                reasons.append(f"{failure.path.value}: {failure}")
                with self._counting:
                    self.failures[failure.path, str(failure)] += len(requests)
                continue
            return lists, name, "; ".join(reasons) or None
        raise RuntimeError(f"no path of bundle {self.bundle_id[:12]} could make a list: {'; '.join(reasons)}")

    def _path(self, name: PathName, blend: Mapping[str, float] | None) -> GuardedPath:
        """Raises PathFailure where the bundle has no such path."""
        if name in self._guarded:
            return self._guarded[name]
        if not self.has(name):
            raise PathFailure(name, "not in this bundle")
        made = compose(
            name,
            cascade=self._guarded[PathName.CASCADE],
            generative=self._guarded[PathName.GENERATIVE],
            blend=blend,
        )
        # No pool: it waits for its parts, and threads that wait for threads of the same pool can wait for ever.
        return self._guard(made)

    def _guard(self, path: Path, pool: ThreadPoolExecutor | None = None) -> GuardedPath:
        last_resort = path.name is PathName.POPULARITY
        return GuardedPath(
            path,
            owner=f"bundle {self.bundle_id[:12]}",
            n_items=len(self.items),
            breaker=None if last_resort else self._breakers[path.name],
            pool=pool,
            budget=None if last_resort else self._budget,
            delay=self.delays.get(path.name, 0.0) / 1000,
        )


def _theme_words(folder: FilePath) -> dict[tuple[int, ...], tuple[str, ...]]:
    """By prefix; empty for a bundle of a version that packed no themes."""
    if not (folder / THEMES).is_file():
        return {}
    table = pl.read_parquet(folder / THEMES)
    return {
        tuple(prefix): tuple(words)
        for prefix, words in zip(table["prefix"].to_list(), table["words"].to_list(), strict=True)
    }
