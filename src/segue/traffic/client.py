"""Clients of a recommendation service: over HTTP, or of a :class:`segue.serving.service.Service` in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol, Self, TypeVar

import httpx

from segue.errors import StateError, UnavailableError
from segue.serving.requests import (
    MAX_BATCH,
    Answer,
    Event,
    EventsAnswer,
    Feedback,
    FeedbackAnswer,
    RecommendRequest,
)
from segue.serving.service import Service

R = TypeVar("R")

_TRIES: Final = 5  # of what its ids make harmless to repeat
_PAUSE_SECONDS: Final = 0.5  # before the second try; twice as long before each later one


class Client(Protocol):
    """What drives a service needs of it. Every method raises UnavailableError where the service does not answer, and
    StateError where it refuses."""

    def recommend(self, requests: Sequence[RecommendRequest]) -> list[Answer]:
        """A list each, in order. Never repeated: a call that failed may have been logged all the same."""
        ...

    def events(self, events: Sequence[Event]) -> EventsAnswer: ...

    def feedback(self, feedback: Sequence[Feedback]) -> FeedbackAnswer: ...

    def health(self) -> dict[str, Any]: ...


class HttpClient:
    """A service at ``url``.

    Args:
        url: such as ``http://127.0.0.1:3000``.
        at_a_time: 0: lists are asked for in batches. Otherwise one by one, so many at a time, so that each answer's
            latency is its own and not that of a batch.
        timeout: seconds until a call counts as unanswered.
    """

    def __init__(self, url: str, *, at_a_time: int = 0, timeout: float = 60.0) -> None:
        self.url = url.rstrip("/")
        self._client = httpx.Client(base_url=self.url, timeout=timeout)
        self._pool = ThreadPoolExecutor(at_a_time) if at_a_time else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
        self._client.close()

    def recommend(self, requests: Sequence[RecommendRequest]) -> list[Answer]:
        bodies = [request.model_dump(mode="json", exclude_none=True) for request in requests]
        if self._pool is not None:
            single = self._pool.map(lambda body: self._post("/recommend", body), bodies)
            return [Answer.model_validate(answer) for answer in single]
        answers: list[Answer] = []
        for start in range(0, len(bodies), MAX_BATCH):
            found = self._post("/recommend_batch", {"requests": bodies[start : start + MAX_BATCH]})
            answers += [Answer.model_validate(answer) for answer in found]
        return answers

    def events(self, events: Sequence[Event]) -> EventsAnswer:
        body = {"events": [event.model_dump(mode="json", exclude_none=True) for event in events]}
        return EventsAnswer.model_validate(_patiently(lambda: self._post("/events", body)))

    def feedback(self, feedback: Sequence[Feedback]) -> FeedbackAnswer:
        body = {"feedback": [one.model_dump(mode="json", exclude_none=True) for one in feedback]}
        return FeedbackAnswer.model_validate(_patiently(lambda: self._post("/feedback", body)))

    def health(self) -> dict[str, Any]:
        found = self._call("GET", "/health")
        if not isinstance(found, dict):
            raise StateError(f"{self.url}/health is no Segue service's: it answered {found!r}")
        return found

    def _post(self, path: str, body: Any) -> Any:
        return self._call("POST", path, body)

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        try:
            response = self._client.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise UnavailableError(
                f"no service answers at {self.url}{path} ({type(error).__name__}: {error}): start one with `make serve`"
            ) from error
        if response.status_code == httpx.codes.SERVICE_UNAVAILABLE:
            raise UnavailableError(f"{self.url}{path}: {_error_of(response)}")
        if response.status_code != httpx.codes.OK:
            raise StateError(f"{self.url}{path} answered {response.status_code}: {_error_of(response)}")
        return response.json()


class ServiceClient:
    """A service in this process, without the web in between."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def recommend(self, requests: Sequence[RecommendRequest]) -> list[Answer]:
        return self._service.recommend_batch(requests)

    def events(self, events: Sequence[Event]) -> EventsAnswer:
        return _patiently(lambda: self._service.post(events))

    def feedback(self, feedback: Sequence[Feedback]) -> FeedbackAnswer:
        return _patiently(lambda: self._service.feedback(feedback))

    def health(self) -> dict[str, Any]:
        return self._service.health()


def _patiently(call: Callable[[], R]) -> R:
    """The call again while the service or its store is away, some seconds long."""
    pause = _PAUSE_SECONDS
    for _ in range(_TRIES - 1):
        try:
            return call()
        except UnavailableError:
            time.sleep(pause)
            pause *= 2
    return call()


def _error_of(response: httpx.Response) -> str:
    try:
        body = response.json()
    except ValueError:
        return response.text[:200]
    return str(body.get("error", body)) if isinstance(body, dict) else str(body)
