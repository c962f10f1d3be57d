"""Replay: before each real event of a held-back user a list is asked for, then the event is posted.

Where the list held the item that the user went on to, that is posted as a click. Such a *hit* is not what a user who saw
the list would have done: they saw another page, years ago. It underestimates what a list is worth, alike for every arm.
Both are marked (:data:`segue.serving.store.records.REPLAYED`), and evidence on the running experiment leaves them out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from segue.errors import StateError
from segue.migration.deployment import SCENARIO
from segue.replay.events import ReplayEvent, ReplayEvents
from segue.replay.journal import Journal, Shown
from segue.serving.requests import Answer, Event, Feedback, RecommendRequest
from segue.serving.store import Store
from segue.traffic.client import Client
from segue.traffic.exposure_count import Comparison, ExposureCount

_TELL_EVERY = 1000  # events


@dataclass(frozen=True, slots=True)
class ArmHits:
    """Of one arm: users, lists, and lists that held what the user went on to."""

    users: int
    lists: int
    hits: int

    @property
    def rate(self) -> float:
        return self.hits / self.lists if self.lists else float("nan")


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay did: now, and with what an earlier run of it had done (``total``). ``scenario``: of every list asked for."""

    users: int
    events: int  # posted now
    total: int  # posted so far
    resumed: int  # lists of an interrupted run that were not asked for again
    erased: int  # events of erased users: not kept
    arms: dict[str, ArmHits]
    exposures: Comparison
    scenario: str | None = None


class Replay:
    """Drives one service with one data set's replay users.

    Args:
        client: of the service.
        store: where the service logs. events: what is replayed. journal: of this replay.
        scenario: to which the experiment is confined; every list is asked for in it, or nobody would enter.
        batch: lists a call at most. progress: told now and then.
    """

    def __init__(
        self,
        client: Client,
        store: Store,
        events: ReplayEvents,
        journal: Journal,
        *,
        dataset: str,
        scenario: str | None = None,
        batch: int = 128,
        progress: Callable[[str], None] = print,
    ) -> None:
        self._client = client
        self._store = store
        self._events = events
        self._journal = journal
        self._dataset = dataset
        self._scenario = scenario
        self._batch = batch
        self._progress = progress
        self._hash: dict[str, str] = {}

    def run(self) -> Replayed:
        """All that is left to replay.

        Raises StateError where the store knows the events already and the journal does not; UnavailableError where
        the service or its store stays away: what was done is in the journal, and the next run goes on from there.
        """
        posted = resumed = erased = told = 0
        first_ever = not self._journal.posted
        for wave in self._events.waves(self._batch):
            left = [event for event in wave if self._key(event) not in self._journal.posted]
            if not left:
                continue
            resumed += self._show(left)
            found = self._post(left)
            if first_ever and found.duplicates and not resumed:
                self._journal.forget()  # it holds this wave alone, and may be of the wrong store
                raise StateError(
                    f"{found.duplicates} of the first {len(left)} events were replayed before, by a run whose journal is not "
                    f"at {self._journal.path}: put it back, or begin with a new online store"
                )
            first_ever = False
            erased += found.erased
            posted += len(left)
            if posted // _TELL_EVERY > told:
                told = posted // _TELL_EVERY
                self._progress(f"{posted} events replayed")
        return Replayed(
            users=self._events.users,
            events=posted,
            total=len(self._journal.posted),
            resumed=resumed,
            erased=erased,
            arms=self.arms(),
            exposures=self.compare(),
            scenario=self._scenario,
        )

    def arms(self) -> dict[str, ArmHits]:
        """By arm, over the whole journal."""
        lists: dict[str, list[Shown]] = {}
        for one in self._journal.shown.values():
            lists.setdefault(one.arm or "no arm", []).append(one)
        return {
            arm: ArmHits(
                users=len({one.user_hash for one in shown}),
                lists=len(shown),
                hits=sum(one.hit is not None for one in shown),
            )
            for arm, shown in sorted(lists.items())
        }

    def compare(self) -> Comparison:
        """Every list of the journal against the store."""
        count = ExposureCount()
        for one in self._journal.shown.values():
            if one.exposure_id is None:
                count.unlogged += 1
            else:
                count.ids.append(one.exposure_id)
                count.by_arm[one.arm or "no arm"] += 1
        return count.compare(self._store)

    def _show(self, events: Sequence[ReplayEvent]) -> int:
        """Ask for a list before each event that has none yet; how many had one from an interrupted run."""
        new = [event for event in events if self._key(event) not in self._journal.shown]
        if new:
            context = {} if self._scenario is None else {SCENARIO: self._scenario}
            answers = self._client.recommend(
                [RecommendRequest(user_id=event.user_id, context=context, replay=True) for event in new]
            )
            self._journal.show(
                [self._shown(event, answer) for event, answer in zip(new, answers, strict=True)]
            )
        return len(events) - len(new)

    def _post(self, events: Sequence[ReplayEvent]) -> _Posted:
        """Clicks first, then the events: both under ids that make a second posting harmless."""
        shown = [self._journal.shown[self._key(event)] for event in events]
        clicks = [
            Feedback(
                feedback_id=self._id(one),
                kind="click",
                item_id=event.item_id,
                exposure_id=one.exposure_id,
                user_id=event.user_id,
            )
            for event, one in zip(events, shown, strict=True)
            if one.hit is not None
        ]
        if clicks:
            self._client.feedback(clicks)
        answer = self._client.events(
            [
                Event(event_id=self._id(one), user_id=event.user_id, item_id=event.item_id, action="replay")
                for event, one in zip(events, shown, strict=True)
            ]
        )
        self._journal.post(one.key for one in shown)
        return _Posted(answer.duplicates, answer.erased)

    def _shown(self, event: ReplayEvent, answer: Answer) -> Shown:
        ids = [item.item_id for item in answer.items]
        return Shown(
            user_hash=self._key(event)[0],
            position=event.position,
            exposure_id=answer.exposure_id,
            arm=answer.arm,
            deployment=answer.deployment,
            hit=ids.index(event.item_id) if event.item_id in ids else None,
        )

    def _key(self, event: ReplayEvent) -> tuple[str, int]:
        name = self._hash.get(event.user_id)
        if name is None:
            name = self._hash[event.user_id] = self._store.user_hash(event.user_id)
        return name, event.position

    def _id(self, shown: Shown) -> str:
        return f"replay:{self._dataset[:64]}:{shown.user_hash[:32]}:{shown.position}"


@dataclass(frozen=True, slots=True)
class _Posted:
    duplicates: int
    erased: int
