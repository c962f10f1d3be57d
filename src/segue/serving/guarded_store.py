"""The online store as serving sees it: when its database is away, lists are made all the same (docs/adr/0011).

Histories are then missing, and the answer says so. Exposures go to a spool on this machine's disk and follow
when the database is back; where even that fails, the list has no exposure_id and is never counted as evidence.
Events and feedback are refused: who sent them keeps them and sends them again, which their ids make harmless.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from segue.errors import SegueError, UnavailableError
from segue.serving.requests import Event, Feedback
from segue.serving.spool import Spool
from segue.serving.store import Exposure, Posted, Store, StoredHistory

logger = logging.getLogger("segue.serving")

R = TypeVar("R")


class GuardedStore:
    """Opens a store, watches it, and tries again while it is away; requests never wait for what is known to be away.

    Args:
        open_store: opens it. What it raises but UnavailableError is a mistake of the configuration, and raised.
        spool: where exposures wait.
        retry_seconds: how often the database is tried while it is away.
    """

    def __init__(self, open_store: Callable[[], Store], spool: Spool, *, retry_seconds: float = 1.0) -> None:
        self._open = open_store
        self._spool = spool
        self._retry_seconds = retry_seconds
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._pending: Callable[[Store], None] | None = None
        self.store: Store | None = None
        self.problem: str | None = None  # why the store is not used; None: it is
        self.uncounted = 0  # exposures that could be logged nowhere
        self.put_off: str | None = (
            None  # why the work that waits for the store could not be done when it was back
        )
        self.spooled = 0  # exposures that had to wait, so far
        try:
            self.store = open_store()
        except UnavailableError as error:
            self._away(error)
        else:
            if spool.pending():
                self._watch("exposures of an earlier process wait to be written")

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=10)
        self._spool.close()
        if self.store is not None:
            self.store.close()

    def history(self, user_id: str) -> tuple[StoredHistory | None, str | None]:
        """The user's history, and why there is none although there may be one."""
        try:
            return self._use(lambda store: store.history(user_id)), None
        except UnavailableError:
            return None, "the user's history could not be read: the online store is away"

    def expose(self, exposures: Sequence[Exposure]) -> bool:
        """Log exposures; whether they are on disk, in the store or in the spool."""
        if not exposures:
            return True
        try:
            self._use(lambda store: store.log_exposures(exposures))
            return True
        except UnavailableError:
            return self._spool_them(exposures)

    def post(self, events: Sequence[Event]) -> Posted:
        """Keep events. Raises UnavailableError where the store is away."""
        return self._use(lambda store: store.post(events))

    def post_feedback(self, feedback: Sequence[Feedback]) -> Posted:
        """Keep feedback. Raises UnavailableError where the store is away."""
        return self._use(lambda store: store.post_feedback(feedback))

    def when_there(self, work: Callable[[Store], None]) -> None:
        """Do ``work`` now, or once the store is back; newer work takes the place of work that waits."""
        with self._lock:
            self._pending = work
        try:
            self._use(self._do_pending)
        except UnavailableError as error:
            logger.warning("put off until the online store is back: %s", error)

    def _use(self, work: Callable[[Store], R]) -> R:
        store, problem = self.store, self.problem
        if problem is not None or store is None:
            raise UnavailableError(problem or "the online store is not open")
        try:
            return work(store)
        except UnavailableError as error:
            self._away(error)
            raise

    def _spool_them(self, exposures: Sequence[Exposure]) -> bool:
        store = self.store
        named = exposures
        if store is not None:  # a name is written to disk only where nobody knows its hash yet
            named = [
                one
                if one.user_id is None
                else replace(one, user_id=None, user_hash=store.user_hash(one.user_id))
                for one in exposures
            ]
        try:
            self._spool.append(named)
        except OSError:
            logger.exception("%d exposures could be logged nowhere and will not be counted", len(exposures))
            with self._lock:
                self.uncounted += len(exposures)
            return False
        with self._lock:
            self.spooled += len(exposures)
        if self.problem is None:
            # The store came back between the failure and the line on disk: somebody must still carry it over.
            self._watch("exposures wait to be written")
        return True

    def _away(self, error: UnavailableError) -> None:
        logger.error("%s; exposures are kept on this machine until it is back", error)
        self._watch(str(error))

    def _watch(self, problem: str) -> None:
        with self._lock:
            self.problem = problem
            if (self._thread is None or not self._thread.is_alive()) and not self._stop.is_set():
                self._thread = threading.Thread(target=self._wait, name="segue-store", daemon=True)
                self._thread.start()

    def _wait(self) -> None:
        """Try until the store answers and everything that waited is done."""
        while True:
            try:
                self._come_back()
            except SegueError as error:
                self.problem = str(error)
            except Exception as error:  # the thread must live: nobody else would ever try again
                logger.exception("the online store could not be used again")
                self.problem = f"the online store could not be used again: {error}"
            else:
                with self._lock:
                    if self.problem is None:
                        self._thread = None
                        return
            if self._stop.wait(self._retry_seconds):
                return

    def _come_back(self) -> None:
        if self.store is None:
            self.store = self._open()
        self.store.ping()
        try:
            self._do_pending(self.store)
        except UnavailableError:
            raise
        except (
            SegueError
        ) as error:  # the store is back all the same; what waited is tried again after the next outage
            logger.error("what was put off until the online store is back cannot be done: %s", error)
            self.put_off = str(error)
        carried = self._spool.replay(self.store.log_exposures)
        self.problem = None  # from here on requests write to the store again …
        carried += self._spool.replay(self.store.log_exposures)  # … and what came in between is carried over
        logger.info("the online store is back; %d exposures were carried over", carried)

    def _do_pending(self, store: Store) -> None:
        with self._lock:
            work = self._pending
        if work is not None:
            work(store)
            with self._lock:
                self.put_off = None
                if self._pending is work:
                    self._pending = None
