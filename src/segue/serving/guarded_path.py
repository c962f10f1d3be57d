"""A path as the engine runs it: behind a circuit breaker, within a time budget, its lists looked at before anybody sees them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from concurrent.futures import TimeoutError as FutureTimeout
from typing import TypeVar

import numpy as np

from segue.errors import ArtifactError, ConfigurationError
from segue.paths import CandidateRanker, IndexArray, ItemScorer, ListRules, Path, RankedList, Request, Scores
from segue.ranking.rules import allowed_mask
from segue.schema import PathName
from segue.serving.breaker import Breaker

logger = logging.getLogger("segue.serving")

R = TypeVar("R")


class PathFailure(Exception):
    """``path`` made nothing that may be shown. Of a path that is made of others, the one of them that failed."""

    def __init__(self, path: PathName, reason: str) -> None:
        super().__init__(reason)
        self.path = path


class UnreadablePath:
    """A path whose model this code cannot read: it fails with the reason, so that breaker and fallback deal with it."""

    def __init__(self, name: PathName, reason: str) -> None:
        self.name = name
        self.reason = reason

    def recommend(
        self,
        requests: Sequence[Request],  # noqa: ARG002
        k: int,  # noqa: ARG002
        rules: ListRules,  # noqa: ARG002
    ) -> list[RankedList]:
        raise ArtifactError(self.reason)

    def score(
        self,
        requests: Sequence[Request],  # noqa: ARG002
        items: Sequence[IndexArray],  # noqa: ARG002
    ) -> list[Scores]:
        raise ArtifactError(self.reason)


class GuardedPath:
    """Implements :class:`segue.paths.CandidateRanker` and :class:`segue.paths.ItemScorer` over a path that can do so.

    Whatever goes wrong is logged, counted by the breaker and raised as one PathFailure. A PathFailure that the path itself
    raises comes from a guarded part of it: its own breaker has counted it, so it passes through uncounted. Raises
    ConfigurationError where the path can only recommend: no failure of it, but of whoever wants more.

    Args:
        path: what is guarded.
        owner: whose it is, for the log.
        n_items: how many items the catalogue has.
        breaker: None: the last resort, which is always tried.
        pool, budget: where it runs, and how many seconds one request may take there. None: in the caller's
            thread, and as long as it takes; so runs what is made of guarded parts, which have budgets of their own.
        delay: seconds that every call takes longer on purpose (:mod:`segue.serving.faults`).
    """

    def __init__(
        self,
        path: Path,
        *,
        owner: str,
        n_items: int,
        breaker: Breaker | None,
        pool: Executor | None = None,
        budget: float | None = None,
        delay: float = 0.0,
    ) -> None:
        self.name = path.name
        self._path = path
        self._owner = owner
        self._n_items = n_items
        self._breaker = breaker
        self._pool = pool
        self._budget = budget
        self._delay = delay

    def recommend(self, requests: Sequence[Request], k: int, rules: ListRules) -> list[RankedList]:
        return self._guarded(
            lambda: self._path.recommend(requests, k, rules),
            lambda lists: self._check_lists(lists, requests, k, rules),
            len(requests),
        )

    def recommend_with(
        self,
        requests: Sequence[Request],
        k: int,
        rules: ListRules,
        routes: Mapping[str, Sequence[IndexArray]],
    ) -> list[RankedList]:
        path = self._path
        if not isinstance(path, CandidateRanker):
            raise ConfigurationError(f"the path {self.name} of {self._owner} ranks no candidates but its own")
        return self._guarded(
            lambda: path.recommend_with(requests, k, rules, routes),
            lambda lists: self._check_lists(lists, requests, k, rules),
            len(requests),
        )

    def score(self, requests: Sequence[Request], items: Sequence[IndexArray]) -> list[Scores]:
        path = self._path
        if not isinstance(path, ItemScorer):
            raise ConfigurationError(
                f"the path {self.name} of {self._owner} scores no items that it is given"
            )
        return self._guarded(
            lambda: path.score(requests, items),
            lambda scores: self._check_scores(scores, items),
            len(requests),
        )

    def ask(self, work: Callable[[Path], R], count: int) -> R:
        """What ``work`` makes of the path, which takes as long as ``count`` requests may. Raises PathFailure."""
        return self._guarded(lambda: work(self._path), lambda made: None, count)  # noqa: ARG005  # nothing to check

    def _guarded(self, work: Callable[[], R], check: Callable[[R], None], count: int) -> R:
        breaker = self._breaker
        if breaker is not None and not breaker.allows():
            raise PathFailure(self.name, "circuit breaker open")
        started = time.monotonic()
        try:
            made = self._run(work, count)
            check(made)
        except FutureTimeout as error:
            self._failed()
            logger.warning("path %s took over %.0f ms", self.name, (time.monotonic() - started) * 1000)
            raise PathFailure(self.name, "over its time budget") from error
        except PathFailure as failure:
            if failure.path is self.name:
                self._failed()
                logger.error("path %s of %s: %s", self.name, self._owner, failure)
            raise
        except Exception as error:
            self._failed()
            logger.exception("path %s of %s failed", self.name, self._owner)
            raise PathFailure(self.name, f"raised {type(error).__name__}") from error
        if breaker is not None:
            breaker.succeeded()
        return made

    def _run(self, work: Callable[[], R], count: int) -> R:
        if self._pool is None:
            return self._late(work)
        future = self._pool.submit(self._late, work)
        try:
            return future.result(timeout=None if self._budget is None else self._budget * max(1, count))
        except FutureTimeout:
            future.cancel()
            raise

    def _late(self, work: Callable[[], R]) -> R:
        if self._delay > 0:
            time.sleep(self._delay)
        return work()

    def _failed(self) -> None:
        if self._breaker is not None:
            self._breaker.failed()

    def _check_lists(
        self, lists: Sequence[RankedList], requests: Sequence[Request], k: int, rules: ListRules
    ) -> None:
        """What is shown is a list of this catalogue that obeys the rules, whoever made it."""
        if len(lists) != len(requests):
            raise PathFailure(self.name, "made a wrong number of lists")
        for ranked, request in zip(lists, requests, strict=True):
            allowed = allowed_mask(rules, request, self._n_items)
            shown = ranked.items
            if not shown.size:
                if allowed.any():
                    raise PathFailure(self.name, "made an empty list")
                continue
            inside = bool((shown >= 0).all() and (shown < self._n_items).all())
            if not inside or not allowed[shown].all() or len(np.unique(shown)) < len(shown) or len(shown) > k:
                raise PathFailure(self.name, "made an invalid list")
            if not np.isfinite(ranked.scores).all():
                raise PathFailure(self.name, "gave scores that are no numbers")

    def _check_scores(self, scores: Sequence[Scores], items: Sequence[IndexArray]) -> None:
        """Each item has a score, or -inf where it can have none."""
        if [len(own) for own in scores] != [len(own) for own in items]:
            raise PathFailure(self.name, "gave a wrong number of scores")
        if any(np.isnan(own).any() or np.isposinf(own).any() for own in scores):
            raise PathFailure(self.name, "gave scores that are no numbers")
