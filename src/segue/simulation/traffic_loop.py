"""The loop that drives a service with a crowd: who is due asks for a list, whose click is due reports it."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np

from segue.migration.deployment import Arm
from segue.serving.requests import Answer, Feedback, RecommendRequest
from segue.simulation.click_model import PositionBasedModel
from segue.simulation.planted import factors, is_lost
from segue.simulation.settings import SimulationSettings, Truth
from segue.simulation.users import Crowd, Histories
from segue.traffic.client import Client
from segue.traffic.exposure_count import ExposureCount

_IDLE_SECONDS: Final = 0.02  # the longest sleep when nobody is due
_FEEDBACK_A_CALL: Final = 2000
_FIRST_BATCH: Final = 16  # lists in the first call
_LEAST_BATCH: Final = 16


class Looks(Protocol):
    """Who looks at what was gathered while the traffic goes on."""

    def look(self, traffic: Traffic) -> bool:
        """Called every now and then; whether the simulation has seen enough."""
        ...


@dataclass(slots=True)
class Traffic:
    """What was served so far. ``elapsed``: seconds since the first request."""

    started: float = 0.0  # of the monotonic clock
    visits: int = 0
    users: set[int] = field(default_factory=set)
    lost_users: set[int] = field(default_factory=set)  # by the truth: their lists were never asked for
    clicks: int = 0
    unreported: int = 0  # clicks that never arrive
    reported: int = 0
    waiting: int = 0  # reports that are not due yet
    exposures: ExposureCount = field(default_factory=ExposureCount)
    revisions: dict[int, float] = field(default_factory=dict)  # revision -> seconds when it first answered
    first_at: dict[int, float] = field(default_factory=dict)  # the same as a time since 1970
    exhausted: bool = False  # everybody has come
    ended: float = 0.0  # seconds, when the loop ended

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.started


class TrafficLoop:
    """Drives ``client`` with ``crowd`` until ``looks`` has seen enough, or everybody came and was counted.

    Args:
        arm_of: the arm that a user would get at this moment, for truths that lose users before their first list.
        prefix: of the feedback's ids: one for each simulation.
    """

    def __init__(
        self,
        client: Client,
        crowd: Crowd,
        histories: Histories,
        *,
        settings: SimulationSettings,
        truth: Truth,
        seed: int,
        arm_of: Callable[[str], Arm],
        prefix: str,
    ) -> None:
        self._client = client
        self._crowd = crowd
        self._histories = histories
        self._settings = settings
        self._truth = truth
        self._seed = seed
        self._model = PositionBasedModel(seed, settings.population.examination_decay)
        self._arm_of = arm_of
        self._prefix = prefix
        self._due: list[tuple[float, int, Feedback]] = []  # a heap: (seconds, tie breaker, report)
        self._count = 0
        self._next = 0
        self._batch = min(_FIRST_BATCH, settings.batch)
        self.traffic = Traffic()

    def run(self, looks: Looks, *, linger_seconds: float) -> Traffic:
        """``linger_seconds``: how long the looks go on after the last visit and report, so that every window closes."""
        traffic = self.traffic
        traffic.started = time.monotonic()
        next_look, ended = 0.0, None
        while True:
            now = traffic.elapsed
            served = self._visit(now)
            reported = self._report(now)
            if traffic.elapsed >= next_look:
                if looks.look(traffic):
                    break
                next_look = traffic.elapsed + self._settings.look_every_seconds
            if self._next >= self._crowd.visits and not self._due:
                traffic.exhausted = True
                ended = traffic.elapsed if ended is None else ended
                if traffic.elapsed > ended + linger_seconds:
                    looks.look(traffic)
                    break
            if not served and not reported:
                time.sleep(_IDLE_SECONDS)
        self._report(np.inf)  # what is on its way arrives, late as it is
        traffic.ended = traffic.elapsed
        return traffic

    def _visit(self, now: float) -> int:
        """Those who are due ask for their lists, at most a batch of them; how many did."""
        crowd, traffic = self._crowd, self.traffic
        end = min(int(np.searchsorted(crowd.at, now, side="right")), self._next + self._batch)
        due = [visit for visit in range(self._next, end) if not self._loses(visit)]
        self._next = max(self._next, end)
        if not due:
            return 0
        asked = time.monotonic()
        answers = self._client.recommend([self._request(visit) for visit in due])
        arrived = time.time()
        self._pace(len(due), time.monotonic() - asked)
        traffic.exposures.add(answers)
        traffic.visits += len(due)
        for visit, answer in zip(due, answers, strict=True):
            traffic.users.add(int(crowd.user[visit]))
            if answer.deployment is not None and answer.deployment not in traffic.revisions:
                traffic.revisions[answer.deployment] = traffic.elapsed
                traffic.first_at[answer.deployment] = arrived
            self._click(visit, answer, arrived)
        return len(due)

    def _pace(self, lists: int, seconds: float) -> None:
        """As many lists in the next call as may take ``call_seconds`` at the speed of this one."""
        fitting = int(lists * self._settings.call_seconds / max(seconds, 1e-6))
        self._batch = min(max(fitting, _LEAST_BATCH), 2 * self._batch, self._settings.batch)

    def _loses(self, visit: int) -> bool:
        user = int(self._crowd.user[visit])
        if user in self.traffic.lost_users:
            return True
        if self._crowd.number[visit] > 0 or self._truth.lost_users == 0.0:
            return False
        name = self._crowd.name(user)
        if is_lost(self._truth, self._seed + 2, name, self._arm_of(name)):
            self.traffic.lost_users.add(user)
            return True
        return False

    def _request(self, visit: int) -> RecommendRequest:
        crowd = self._crowd
        user = int(crowd.user[visit])
        return RecommendRequest(
            user_id=crowd.name(user),
            history=self._histories.at(
                int(crowd.template[user]), int(crowd.known[user]), int(crowd.number[visit])
            ),
            k=self._settings.population.list_length,
        )

    def _click(self, visit: int, answer: Answer, arrived: float) -> None:
        """Draw the visit's clicks, and put their report where it belongs in time."""
        if answer.exposure_id is None:
            return
        crowd, traffic = self._crowd, self.traffic
        user, number = int(crowd.user[visit]), int(crowd.number[visit])
        ids = [item.item_id for item in answer.items]
        clicked = self._model.clicks(
            crowd.name(user), number, float(crowd.appeal[user]), ids, factors(self._truth, answer)
        )
        ranks = np.flatnonzero(clicked)
        traffic.clicks += len(ranks)
        delay = float(crowd.delay[visit])
        if not np.isfinite(delay):
            traffic.unreported += len(ranks)
            return
        for rank in ranks:
            report = Feedback(
                feedback_id=f"{self._prefix}:{user}:{number}:{rank}",
                kind="click",
                item_id=ids[rank],
                exposure_id=answer.exposure_id,
                timestamp=arrived,
            )
            self._count += 1
            heapq.heappush(self._due, (traffic.elapsed + delay, self._count, report))

    def _report(self, now: float) -> int:
        """Post what is due; how many reports."""
        due: list[Feedback] = []
        while self._due and self._due[0][0] <= now:
            due.append(heapq.heappop(self._due)[2])
        for start in range(0, len(due), _FEEDBACK_A_CALL):
            self._post(due[start : start + _FEEDBACK_A_CALL])
        self.traffic.waiting = len(self._due)
        return len(due)

    def _post(self, reports: Sequence[Feedback]) -> None:
        self._client.feedback(reports)
        self.traffic.reported += len(reports)
