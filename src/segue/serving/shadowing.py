"""Shadow mode: a sample of the users is answered a second time, by the shadow's path, for nobody to see.

The answer that is shown waits for nothing: shadow requests go to one thread over a short queue, and what does not fit
is dropped and counted. What a shadow shows of itself (lists, failures, latency, how much it shares with what was shown) is
read in :meth:`Service.health`; it is no exposure and never evidence of what users think.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Final

from segue.schema import PathName
from segue.serving.engine import Engine, History
from segue.serving.following import Serving
from segue.serving.requests import Filters
from segue.serving.routing import is_shadowed

logger = logging.getLogger("segue.serving")

QUEUED: Final = (
    64  # shadow requests that may wait; more would be answered too late to tell the latency under load
)
_LOOK_SECONDS: Final = 0.1  # between looks at whether to stop


@dataclass(frozen=True, slots=True)
class _Job:
    engine: Engine
    path: PathName
    history: History
    k: int | None
    filters: Filters
    shown: frozenset[str]


@dataclass
class Tally:
    """What became of the shadow requests of one bundle."""

    lists: int = 0
    fallbacks: int = 0  # another path than the shadow's made the list
    failures: int = 0
    dropped: int = 0  # the queue was full
    shared: float = 0.0  # sum over lists of the share of the shown items that the shadow's list holds too
    seconds: float = 0.0

    def told(self) -> dict[str, Any]:
        return {
            "lists": self.lists,
            "fallbacks": self.fallbacks,
            "failures": self.failures,
            "dropped": self.dropped,
            "overlap": None if self.lists == 0 else round(self.shared / self.lists, 4),
            "latency_ms": None if self.lists == 0 else round(self.seconds / self.lists * 1000, 3),
        }


@dataclass
class Shadower:
    """Runs shadow requests in a thread of its own, which starts with the first."""

    tallies: dict[str, Tally] = field(default_factory=dict)  # by bundle
    _queue: queue.Queue[_Job] = field(default_factory=lambda: queue.Queue(QUEUED))
    _stopping: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def offer(
        self, serving: Serving, history: History, shown: list[str], *, k: int | None, filters: Filters
    ) -> None:
        """Compute the shadow's list too, if this user is among the shadowed and there is room. Never waits."""
        deployment = serving.deployment
        if deployment is None or deployment.shadow is None or not is_shadowed(deployment, history.user_id):
            return
        shadow = deployment.shadow
        job = _Job(serving.engines[shadow.bundle], shadow.path, history, k, filters, frozenset(shown))
        with self._guard:
            tally = self.tallies.setdefault(shadow.bundle, Tally())
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="segue-shadow", daemon=True)
                self._thread.start()
            try:
                self._queue.put_nowait(job)
            except queue.Full:
                tally.dropped += 1

    def settle(self) -> None:
        """Wait until every request that was taken is answered."""
        self._queue.join()

    def stop(self) -> None:
        """End the thread after the request that it is at; what waits is forgotten."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout=10)

    def told(self) -> dict[str, dict[str, Any]]:
        """By bundle, for people."""
        with self._guard:
            return {bundle[:12]: tally.told() for bundle, tally in self.tallies.items()}

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                job = self._queue.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                continue
            try:
                self._answer(job)
            finally:
                self._queue.task_done()

    def _answer(self, job: _Job) -> None:
        began = time.perf_counter()
        try:
            (served,) = job.engine.recommend([job.history], path=job.path, k=job.k, filters=job.filters)
        except Exception:  # whatever the contender does, nobody's list may suffer; the count is the finding
            logger.exception("the shadow of bundle %s failed", job.engine.bundle_id[:12])
            with self._guard:
                self.tallies[job.engine.bundle_id].failures += 1
            return
        seconds = time.perf_counter() - began
        found = {item.item_id for item in served.items}
        with self._guard:
            tally = self.tallies[job.engine.bundle_id]
            tally.lists += 1
            tally.seconds += seconds
            tally.fallbacks += served.path is not job.path
            tally.shared += len(found & job.shown) / max(len(job.shown), 1)
