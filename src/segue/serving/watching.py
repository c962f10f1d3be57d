"""The guardrail watcher over the online store: its reader, and the loop that a command or a server runs.

The reader keeps what it has counted. A look costs the exposures since the last one, and the rows of those users whose window
has closed in between; nobody else's rows are read again. :meth:`segue.serving.store.Store.online_users`, which reads everything,
is its reference.
"""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import polars as pl
from sqlalchemy.exc import SQLAlchemyError

from segue import __version__
from segue.deployed_params import load_or_remembered
from segue.errors import ConfigurationError, SegueError
from segue.migration.ledger import Ledger
from segue.migration.online import About
from segue.migration.online_catalogue import catalogue_facts
from segue.migration.online_experiment import Experiment
from segue.migration.online_users import CatalogueFacts, OnlineUsers, closed, no_users
from segue.migration.settings import OnlineSettings
from segue.migration.state_machine import StateMachine
from segue.migration.watch import Crossing, Watcher
from segue.registry.bundle import read_bundle
from segue.serving.store import Store, open_store
from segue.serving.store.store import SETTLE_SECONDS
from segue.serving.store.windows import feedback_windows, serving_windows
from segue.workspace import Workspace

logger = logging.getLogger("segue.watch")

EVERY_SECONDS = 0.2
BUSY_SECONDS = 2.0
_MOST_AT_ONCE = 20_000  # users whose rows are in memory at once


class StoreReader:
    """Counts the users of one experiment as their windows close.

    A list that is logged only after its user was counted (it waited in a spool) changes nothing here; whoever reads the whole
    store sees it.
    """

    def __init__(self, store: Store, experiment: Experiment, settings: OnlineSettings) -> None:
        self._store = store
        self._experiment = experiment
        self._settings = settings
        self._after = 0
        self._first: dict[str, tuple[float, str]] = {}  # user -> first list of the experiment, and its arm
        self._newest: float | None = None
        self._open_feedback: list[tuple[float, str]] = []  # heaps of (closes_at, user)
        self._open_serving: list[tuple[float, str]] = []
        self._feedback: list[pl.DataFrame] = []
        self._serving: list[pl.DataFrame] = []

    def users(self, now: float | None = None) -> OnlineUsers:
        """All users counted at ``now`` (default: the present moment). It must not go back between two calls."""
        moment = time.time() - SETTLE_SECONDS if now is None else now
        self._meet()
        self._count(self._open_feedback, self._feedback, moment, feedback=True)
        self._count(self._open_serving, self._serving, moment, feedback=False)
        self._feedback, self._serving = [_one(self._feedback)], [_one(self._serving)]
        assigned: dict[str, int] = {}
        for when, arm in self._first.values():
            if when <= moment:
                assigned[arm] = assigned.get(arm, 0) + 1
        return OnlineUsers(
            feedback=closed(self._feedback[0], moment),
            serving=closed(self._serving[0], moment),
            assigned=dict(sorted(assigned.items())),
            first_exposed_at=min((when for when, _ in self._first.values()), default=None),
            last_exposed_at=self._newest,
        )

    def _meet(self) -> None:
        """See who is new."""
        settings = self._settings
        for sequence, user, arm, deployment, bundle, shown_at in self._store.exposure_keys(after=self._after):
            self._after = max(self._after, sequence)
            if user is None or arm is None or (deployment, arm, bundle) not in self._experiment.served:
                continue
            self._newest = shown_at if self._newest is None else max(self._newest, shown_at)
            known = self._first.get(user)
            if known is not None and known[0] <= shown_at:
                continue
            self._first[user] = (shown_at, arm)
            closes = shown_at + settings.window_seconds + settings.late_seconds
            heapq.heappush(self._open_feedback, (closes, user))
            heapq.heappush(self._open_serving, (shown_at + settings.serving_window_seconds, user))

    def _count(
        self, waiting: list[tuple[float, str]], counted: list[pl.DataFrame], moment: float, *, feedback: bool
    ) -> None:
        """Move those whose window has closed from ``waiting`` to ``counted``."""
        while waiting and waiting[0][0] <= moment:
            due: set[str] = set()
            while waiting and waiting[0][0] <= moment and len(due) < _MOST_AT_ONCE:
                due.add(heapq.heappop(waiting)[1])
            exposures, attributed = self._store.rows_of(due)
            windows = feedback_windows if feedback else serving_windows
            found = windows(exposures, attributed, self._experiment, self._settings)
            before = _one(counted)  # a list that came late gives a user a second turn: the first count stays
            counted.append(found.join(before.select("user_hash"), on="user_hash", how="anti"))


def _one(parts: list[pl.DataFrame]) -> pl.DataFrame:
    return pl.concat(parts) if parts else no_users()


class Watch:
    """A watcher's life: opens ledger and store, looks, and goes on when either was away.

    Where the parameters are wrong, those of the last deployment guard it, with a warning. Raises ConfigurationError where
    there is no ledger to watch, or wrong parameters and none that were kept.
    """

    def __init__(
        self,
        workspace: Workspace,
        dataset: str,
        *,
        environment: Mapping[str, str] | None = None,
        told: Callable[[Crossing], None] = lambda _: None,
    ) -> None:
        self._workspace = workspace
        self._dataset = dataset
        self._environment = environment
        self._told = told
        self._params = load_or_remembered(workspace, dataset, logger.warning)
        self._ledger = Ledger.open(workspace, dataset)
        self._store: Store | None = None
        self._watcher = self._new_watcher()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.problem: str | None = None  # why the last look failed; None: it did not
        self.looked_at = 0.0  # when a look last succeeded, seconds since 1970
        if self._ledger.current() is None:
            self._ledger.close()
            raise ConfigurationError(
                f"there is no deployment of {dataset} to watch: this machine has no ledger of it "
                "(`segue run` begins one; SEGUE_DATABASE_URL or SEGUE_LEDGER_URL names one elsewhere)"
            )

    @property
    def experiment(self) -> Experiment | None:
        """What is watched; None: no experiment runs."""
        return self._watcher.experiment

    def look(self) -> Crossing | None:
        """Look once. Raises SegueError or SQLAlchemyError where ledger or store cannot be read."""
        crossing = self._watcher.look()
        self.looked_at, self.problem = time.time(), None
        if crossing is not None:
            self._told(crossing)
        return crossing

    def run(self, every: float = EVERY_SECONDS) -> None:
        """Look until :meth:`stop`. A database that is away is tried again; why it failed is logged once a reason."""
        while not self._stop.is_set():
            try:
                self.look()
            except (SegueError, SQLAlchemyError) as error:
                self._failed(str(error))
            except Exception as error:  # a watcher that died would let every guardrail be crossed
                logger.exception("the watcher could not look")
                self._failed(f"{type(error).__name__}: {error}")
            self._stop.wait(every)

    def start(self, every: float = EVERY_SECONDS) -> None:
        """:meth:`run` in a thread of its own."""
        self._thread = threading.Thread(target=self.run, args=(every,), name="segue-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=10)
        if self._store is not None:
            self._store.close()
        self._ledger.close()

    def _failed(self, problem: str) -> None:
        if problem != self.problem:
            logger.error("the watcher could not look, and goes on trying: %s", problem)
        self.problem = problem
        self._watcher = self._new_watcher()  # half a look may have been lost: count afresh

    def _new_watcher(self) -> Watcher:
        return Watcher(
            StateMachine(self._ledger, self._params.migration),
            self._reader,
            self._about,
            catalogue=self._catalogue,
        )

    def _reader(self, experiment: Experiment) -> StoreReader:
        if self._store is None:
            self._store = open_store(
                self._workspace, self._dataset, self._environment, busy_seconds=BUSY_SECONDS
            )
        return StoreReader(self._store, experiment, self._params.migration.online)

    def _catalogue(self, experiment: Experiment) -> CatalogueFacts:
        return catalogue_facts(self._bundles, experiment, self._params.evaluation.long_tail_share)

    def _about(self, experiment: Experiment) -> About:
        bundle = read_bundle(self._bundles / experiment.on_trial.facts.bundle_id, verify=False)
        return About(self._dataset, bundle.histories_snapshot, f"segue {__version__}")

    @property
    def _bundles(self) -> Path:
        return self._workspace.bundles(self._dataset)
