"""Replay against a real service in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from segue.errors import StateError, UnavailableError
from segue.replay.events import ReplayEvents
from segue.replay.journal import Journal
from segue.replay.run import Replay, Replayed
from segue.reporting.online_traffic import read_traffic
from segue.serving.requests import Answer, Event, EventsAnswer, Feedback, FeedbackAnswer, RecommendRequest
from segue.serving.service import Service
from segue.serving.store import Coverage, Store
from segue.traffic.client import ServiceClient
from tests.serving.worlds import EVENTS

IDENTITY = {"dataset": "tiny"}


class Interrupted(ServiceClient):
    """A service that goes away at the n-th call of a kind, before or after it did what it was asked."""

    def __init__(self, service: Service, method: str, number: int, *, after: bool) -> None:
        super().__init__(service)
        self._method, self._left, self._after = method, number, after

    def _call(self, method: str, argument: Any) -> Any:
        if method == self._method:
            self._left -= 1
            if self._left == 0 and not self._after:
                raise UnavailableError("gone")
        answer = getattr(ServiceClient, method)(self, argument)
        if method == self._method and self._left == 0:
            raise UnavailableError("gone")
        return answer

    def recommend(self, requests: Sequence[RecommendRequest]) -> list[Answer]:
        return (
            self._call("recommend", requests) if self._method == "recommend" else super().recommend(requests)
        )  # type: ignore[no-any-return]

    def events(self, events: Sequence[Event]) -> EventsAnswer:
        return self._call("events", events) if self._method == "events" else super().events(events)  # type: ignore[no-any-return]

    def feedback(self, feedback: Sequence[Feedback]) -> FeedbackAnswer:
        return self._call("feedback", feedback) if self._method == "feedback" else super().feedback(feedback)  # type: ignore[no-any-return]


def replay(client: Any, store: Store, splits: Path, path: Path, most: int | None = None) -> Replayed:
    with Journal(path, IDENTITY) as journal:
        events = ReplayEvents.read(splits, most=most)
        return Replay(
            client, store, events, journal, dataset="tiny", batch=2, progress=lambda text: None
        ).run()


def state(store: Store) -> tuple[int, int, int, list[tuple[str, list[str]]]]:
    counts = store.counts()
    histories = [
        (user, found.item_ids) for user in ("u27", "u28", "u29") if (found := store.history(user)) is not None
    ]
    return counts["exposures"], counts["feedback"], counts["events"], histories


def test_a_list_before_each_event_and_a_click_where_it_held_it(
    service: Service, store: Store, splits: Path, tmp_path: Path
) -> None:
    done = replay(ServiceClient(service), store, splits, tmp_path / "j")
    assert (done.users, done.events, done.total, done.resumed) == (3, 3 * EVENTS, 3 * EVENTS, 0)
    exposures, feedback, events, histories = state(store)
    assert (exposures, events) == (3 * EVENTS, 3 * EVENTS)
    table = ReplayEvents.read(splits).table
    for user, items in histories:
        assert items == table.filter(user_id=user).sort("position")["item_id"].to_list()
    # The hits, found again from what the store says was shown, list by list.
    shown = {user: [] for user, _ in histories}  # type: dict[str, list[list[str]]]
    for row in store.exposures():
        user = next(user for user in shown if store.user_hash(user) == row["user_hash"])
        shown[user].append(row["item_ids"])
    hits = sum(
        item in lists for user, items in histories for item, lists in zip(items, shown[user], strict=True)
    )
    assert feedback == hits == sum(arm.hits for arm in done.arms.values())
    assert hits > 0
    assert done.exposures.lost == 0
    assert sum(arm.lists for arm in done.arms.values()) == exposures
    sums = store.user_sums(replayed=True)
    assert sums.table["clicks"].sum() == hits
    assert (sums.coverage.unattributed, sums.coverage.stated) == (0, hits)


def test_what_was_replayed_is_nobody_elses_figure(
    service: Service, store: Store, splits: Path, tmp_path: Path
) -> None:
    """A user of the replay comes for real as well: that list and the click on it count, and no others."""
    replay(ServiceClient(service), store, splits, tmp_path / "j")
    assert {row["exposure_id"].startswith("replay-") for row in store.exposures()} == {True}
    assert store.user_sums().table.is_empty()
    assert store.user_sums().coverage == Coverage()
    assert read_traffic(store) is None
    user = ReplayEvents.read(splits).table["user_id"][0]
    real = service.recommend(RecommendRequest(user_id=user))
    item = real.items[0].item_id
    service.feedback([Feedback(feedback_id="f", kind="click", item_id=item, exposure_id=real.exposure_id)])
    sums = store.user_sums()
    assert sums.table.select("user_hash", "exposures", "clicks").rows() == [(store.user_hash(user), 1, 1)]
    assert (sums.coverage.exposures, sums.coverage.feedback, sums.coverage.stated) == (1, 1, 1)
    exposures, attributed = store.rows_of([store.user_hash(user)])
    assert exposures["exposure_id"].to_list() == attributed["exposure_id"].to_list() == [real.exposure_id]
    again = store.user_sums(replayed=True)
    assert again.table["exposures"].sum() == 3 * EVENTS
    traffic = read_traffic(store)
    assert traffic is not None
    assert sum(arm.lists for arm in traffic.arms) == 1


def test_users_keep_their_arm(service: Service, store: Store, splits: Path, tmp_path: Path) -> None:
    replay(ServiceClient(service), store, splits, tmp_path / "j")
    arms: dict[str, set[str]] = {}
    for row in store.exposures():
        arms.setdefault(row["user_hash"], set()).add(row["arm"])
    assert len(arms) == 3
    assert all(len(found) == 1 for found in arms.values())


def test_repeating_a_replay_does_nothing(
    service: Service, store: Store, splits: Path, tmp_path: Path
) -> None:
    first = replay(ServiceClient(service), store, splits, tmp_path / "j")
    before = state(store)
    again = replay(ServiceClient(service), store, splits, tmp_path / "j")
    assert state(store) == before
    assert (again.events, again.total, again.arms) == (0, first.total, first.arms)


@pytest.mark.parametrize("method", ["recommend", "events", "feedback"])
@pytest.mark.parametrize("after", [False, True])
def test_an_interrupted_replay_goes_on_without_counting_twice(
    service: Service,
    store: Store,
    splits: Path,
    tmp_path: Path,
    method: str,
    after: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("segue.traffic.client._TRIES", 1)
    with pytest.raises(UnavailableError):
        replay(Interrupted(service, method, 2, after=after), store, splits, tmp_path / "j")
    done = replay(ServiceClient(service), store, splits, tmp_path / "j")
    exposures, feedback, events, histories = state(store)
    assert events == 3 * EVENTS
    assert all(len(items) == EVENTS for _, items in histories)
    assert done.total == 3 * EVENTS
    # A call that was answered to nobody has left lists that nobody saw: they are in the store, and not in the client's count.
    unseen = 1 if (method, after) == ("recommend", True) else 0
    assert exposures == 3 * EVENTS + unseen
    assert done.exposures.lost == 0
    assert done.exposures.counted == 3 * EVENTS
    assert feedback == sum(arm.hits for arm in done.arms.values())


def test_a_replay_whose_journal_is_gone_is_refused(
    service: Service, store: Store, splits: Path, tmp_path: Path
) -> None:
    replay(ServiceClient(service), store, splits, tmp_path / "j", most=2)
    with pytest.raises(StateError, match="replayed before, by a run whose journal is not"):
        replay(ServiceClient(service), store, splits, tmp_path / "other")
    assert not (tmp_path / "other").read_bytes()  # else a journal put back there would be of another store


def test_more_events_of_the_same_users_go_on_where_it_stood(
    service: Service, store: Store, splits: Path, tmp_path: Path
) -> None:
    replay(ServiceClient(service), store, splits, tmp_path / "j", most=2)
    done = replay(ServiceClient(service), store, splits, tmp_path / "j")
    assert (done.events, done.total) == (3 * EVENTS - 6, 3 * EVENTS)
    assert state(store)[:1] == (3 * EVENTS,)
