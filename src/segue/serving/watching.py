"""The guardrail watcher over the online store: its reader, and the loop that a command or a server runs.

The reader keeps what it has counted, also across refreshes. A look costs the exposures since the last one, and the rows of those
users whose window has closed in between; nobody else's rows are read again. :meth:`segue.serving.store.Store.online_users`,
which reads everything, is its reference.
"""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

import polars as pl
from sqlalchemy.exc import SQLAlchemyError

from segue import __version__
from segue.deployed_params import load_or_remembered
from segue.errors import ArtifactError, ConfigurationError, SegueError
from segue.migration.ledger import Ledger
from segue.migration.online import About
from segue.migration.online_catalogue import catalogue_facts
from segue.migration.online_experiment import Experiment
from segue.migration.online_users import CatalogueFacts, OnlineUsers, closed, no_users
from segue.migration.policy import Status
from segue.migration.settings import OnlineSettings
from segue.migration.state_machine import StateMachine
from segue.migration.watch import Crossing, Watcher, guarding_policy
from segue.params import load_params
from segue.registry.bundle import read_bundle
from segue.serving.store import Store, open_store
from segue.serving.store.store import SETTLE_SECONDS
from segue.serving.store.windows import feedback_windows, serving_windows
from segue.workspace import Workspace

logger = logging.getLogger("segue.watch")

EVERY_SECONDS = 0.2
BUSY_SECONDS = 2.0
LATE_SECONDS = 30.0  # no write of an exposure is open for so long: a lock is waited for 10 s at most
_MOST_AT_ONCE = 20_000  # users whose rows are in memory at once


class StoreReader:
    """Counts the users of one experiment as their windows close.

    A list that is logged only after its user was counted (it waited in a spool) changes nothing here; whoever reads the whole
    store sees it. A call that fails loses nothing: the next one goes on where it stood.

    ``clock`` gives seconds that only grow.
    """

    def __init__(
        self,
        store: Store,
        experiment: Experiment,
        settings: OnlineSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._experiment = experiment
        self._settings = settings
        self._clock = clock
        self.moment = float("-inf")
        self._begin()

    def _begin(self) -> None:
        """Know nobody."""
        self._settled = 0  # up to here no exposure can become visible any more
        self._marks: deque[tuple[float, int]] = deque()  # (clock, newest sequence then), not yet settled
        self._first: dict[str, tuple[float, str]] = {}  # user -> first list of the experiment, and its arm
        self._newest: float | None = None
        self._erased: frozenset[str] = frozenset()
        self._feedback, self._serving = _Window(feedback_windows), _Window(serving_windows)

    def continue_with(self, experiment: Experiment) -> None:
        """Go on after a refresh: the lists of ``experiment`` count, among them all that counted before."""
        assert self._experiment.identity == experiment.identity, "another experiment needs another reader"
        assert self._experiment.served <= experiment.served, "what was counted must go on counting"
        self._experiment = experiment

    def users(self, now: float | None = None) -> OnlineUsers:
        """All users counted at ``now`` (default: the present moment). It must not go back between two calls."""
        moment = time.time() - SETTLE_SECONDS if now is None else now
        self._forget_erased()
        self._meet()
        for window in (self._feedback, self._serving):
            window.count(moment, self._store, self._experiment, self._settings)
        self.moment = moment
        return self.at(moment)

    def at(self, moment: float) -> OnlineUsers:
        """Of the users of the last call those who had counted at ``moment``, not later than that call's."""
        assigned: dict[str, int] = {}
        for when, arm in self._first.values():
            if when <= moment:
                assigned[arm] = assigned.get(arm, 0) + 1
        return OnlineUsers(
            feedback=closed(self._feedback.counted, moment),
            serving=closed(self._serving.counted, moment),
            assigned=dict(sorted(assigned.items())),
            first_exposed_at=min((when for when, _ in self._first.values()), default=None),
            last_exposed_at=self._newest,
        )

    def moments(self, after: float) -> list[float]:
        """When users began to count, from behind ``after`` to the last call's moment, oldest first."""
        found = {when for when, _ in self._first.values()}
        for window in (self._feedback, self._serving):
            found.update(window.counted["closes_at"].to_list())
        return sorted(when for when in found if after < when <= self.moment)

    def _meet(self) -> None:
        """See who is new.

        With several writers an exposure may become visible after one with a larger sequence number. Its number was given out
        before, though, and a write does not take long: what was the newest number ``LATE_SECONDS`` before a reading has nothing
        behind it that this reading missed, and the next one begins there. What is read twice is met twice, which
        changes nothing.
        """
        newest = self._store.newest_sequence("exposures")
        if newest < (self._marks[-1][1] if self._marks else self._settled):
            self._begin()  # rows are gone: another store lies there by now, or one from a backup
        now, settings = self._clock(), self._settings
        deployments = {revision for revision, _, _ in self._experiment.served}
        for user, arm, deployment, bundle, shown_at in self._store.exposure_keys(
            after=self._settled, deployments=deployments
        ):
            if user is None or arm is None or (deployment, arm, bundle) not in self._experiment.served:
                continue
            self._newest = shown_at if self._newest is None else max(self._newest, shown_at)
            known = self._first.get(user)
            if known is not None and known[0] <= shown_at:
                continue
            self._first[user] = (shown_at, arm)
            self._feedback.expect(shown_at + settings.window_seconds + settings.late_seconds, user)
            self._serving.expect(shown_at + settings.serving_window_seconds, user)
        self._marks.append((now, newest))
        late = 0.0 if self._store.commits_in_order else LATE_SECONDS
        while self._marks and self._marks[0][0] <= now - late:
            self._settled = self._marks.popleft()[1]

    def _forget_erased(self) -> None:
        erased = frozenset(self._store.erased())
        gone = erased - self._erased
        if gone:
            for user in gone:
                self._first.pop(user, None)
            self._feedback.forget(gone)
            self._serving.forget(gone)
            if self._store.commits_in_order:
                self._settled = 0  # SQLite gives the numbers of deleted newest rows out again
        self._erased = erased


class _Window:
    """Those who wait for the end of one window, and those counted at it (``counted``: USER_WINDOWS)."""

    def __init__(
        self,
        windows: Callable[[pl.DataFrame, pl.DataFrame, Experiment, OnlineSettings], pl.DataFrame],
    ) -> None:
        self._windows = windows
        self._waiting: list[tuple[float, str]] = []  # a heap of (closes_at, user)
        self._due: set[str] = set()
        self.counted = no_users()

    def expect(self, closes_at: float, user: str) -> None:
        heapq.heappush(self._waiting, (closes_at, user))

    def count(self, moment: float, store: Store, experiment: Experiment, settings: OnlineSettings) -> None:
        """Count those whose window has closed. Who was due when the store failed is still due at the next call."""
        while True:
            while self._waiting and self._waiting[0][0] <= moment and len(self._due) < _MOST_AT_ONCE:
                self._due.add(heapq.heappop(self._waiting)[1])
            if not self._due:
                return
            found = self._windows(*store.rows_of(self._due), experiment, settings)
            # A list that came late gives a user a second turn: the first count stays.
            new = found.join(self.counted.select("user_hash"), on="user_hash", how="anti")
            self.counted = pl.concat([self.counted, new])
            self._due.clear()

    def forget(self, users: frozenset[str]) -> None:
        self._waiting = [(closes_at, user) for closes_at, user in self._waiting if user not in users]
        heapq.heapify(self._waiting)
        self._due -= users
        self.counted = self.counted.filter(~pl.col("user_hash").is_in(list(users)))


class Watch:
    """A watcher's life: opens ledger and store, looks, and goes on when either was away.

    Changed parameters are heeded at the next look; while they are wrong those of before guard (at the start those of the last
    deployment), and ``problem`` says so. The bundles need not be on this machine; without the one on trial guardrails about
    items cannot be measured, and ``problem`` says so.

    Raises ConfigurationError where there is no ledger to watch, or wrong parameters and none that were kept.
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
        self._stamp = self._stamp_of_params()
        self._params = load_or_remembered(workspace, dataset, logger.warning)
        self._problems: dict[str, str] = {}  # what is wrong although it could be looked, by what it is about
        self._abouts: dict[str, About] = {}  # by bundle
        self._ledger = Ledger.open(workspace, dataset)
        self._store: Store | None = None
        self._watcher = self._new_watcher()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.problem: str | None = (
            None  # why the last look failed, or what it could not heed; None: all is well
        )
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

    @property
    def standing(self) -> str:
        """How the guardrails stood at the last look, in words: none is broken, or a crossing would have been told."""
        users, verdicts = self._watcher.users, self._watcher.guardrails
        counted = f"({users} users counted)"
        held = sum(verdict.status is Status.MET for verdict in verdicts)
        if not users:
            return f"no guardrail has evidence yet {counted}"
        if verdicts and held == len(verdicts):
            return f"every guardrail holds {counted}"
        return f"no guardrail is broken; {held} of {len(verdicts)} surely hold {counted}"

    def look(self) -> Crossing | None:
        """Look once. Raises SegueError or SQLAlchemyError where ledger or store cannot be read."""
        self._heed_params()
        crossing = self._watcher.look()
        if self.experiment is None:
            self._problems.pop("items", None)
        self.looked_at, self.problem = time.time(), "; ".join(self._problems.values()) or None
        if crossing is not None:
            self._told(crossing)
        return crossing

    def run(self, every: float = EVERY_SECONDS) -> None:
        """Look until :meth:`stop`. A database that is away is tried again; why it failed is logged once a reason."""
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                self.look()
            except (SegueError, SQLAlchemyError) as error:
                self._failed(str(error))
            except Exception as error:  # a watcher that died would let every guardrail be crossed
                logger.exception("the watcher could not look")
                self._failed(f"{type(error).__name__}: {error}")
                self._watcher = self._new_watcher()  # half a look may have been lost: count afresh
            # Looking takes at most half of a processor, however many users there are.
            self._stop.wait(max(every, time.monotonic() - began))

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

    def _heed_params(self) -> None:
        stamp = self._stamp_of_params()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            params = load_params(self._workspace, self._dataset)
            if self.experiment is not None:
                guarding_policy(self.experiment, params.migration)
        except ConfigurationError as error:
            self._note("parameters", f"the changed parameters are not heeded, those of before guard: {error}")
            return
        self._problems.pop("parameters", None)
        before, self._params = self._params, params
        if (before.migration, before.evaluation) != (params.migration, params.evaluation):
            logger.info("the parameters have changed: counting afresh by the new ones")
            self._watcher = self._new_watcher()

    def _stamp_of_params(self) -> list[tuple[int, int] | None]:
        """Another one where a file of the parameters is another."""
        files = (self._workspace.params_file, self._workspace.profile_file(self._dataset))
        found = [file.stat() if file.is_file() else None for file in files]
        return [None if one is None else (one.st_mtime_ns, one.st_size) for one in found]

    def _note(self, about: str, problem: str) -> None:
        if self._problems.get(about) != problem:
            logger.error(problem)
        self._problems[about] = problem

    def _catalogue(self, experiment: Experiment) -> CatalogueFacts | None:
        try:
            facts = catalogue_facts(self._bundles, experiment, self._params.evaluation.long_tail_share)
        except ArtifactError as error:
            self._note(
                "items", f"guardrails about items do not guard, for want of the bundle on trial: {error}"
            )
            return None
        self._problems.pop("items", None)
        return facts

    def _about(self, experiment: Experiment) -> About:
        """Of the bundle on trial. A guardrail does not wait for a bundle that only the servers hold."""
        bundle = experiment.on_trial.facts.bundle_id
        if bundle not in self._abouts:
            try:
                snapshot = read_bundle(self._bundles / bundle, verify=False).histories_snapshot
            except ArtifactError as error:
                logger.warning("the evidence will not say of which histories the bundle is: %s", error)
                snapshot = "unknown"
            self._abouts[bundle] = About(self._dataset, snapshot, f"segue {__version__}")
        return self._abouts[bundle]

    @property
    def _bundles(self) -> Path:
        return self._workspace.bundles(self._dataset)
