"""The BentoML service.

    bentoml serve bento.service:Recommender        follows SEGUE_DATASET's deployment
    SEGUE_MODE=baked SEGUE_BUNDLE=<folder> …       serves one bundle; what a built Bento does

It binds to loopback unless told otherwise. Answers come from :mod:`segue.serving`; here are only the
endpoints, the metrics and the refusals.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import bentoml
from bentoml.exceptions import BadInput, ServiceUnavailable
from pydantic import Field

from bento.edge import Edge
from bento.image import image
from segue.errors import DataError, StateError, UnavailableError
from segue.serving.requests import (
    MAX_BATCH,
    Answer,
    Event,
    EventsAnswer,
    ExplainAnswer,
    ExplainRequest,
    Feedback,
    FeedbackAnswer,
    RecommendRequest,
    SimilarAnswer,
    SimilarRequest,
)

# A built Bento carries its bundle beside this package; a checkout has none there.
BAKED_BUNDLE = Path(__file__).resolve().parent.parent / "bundle"

Batch = Annotated[list[RecommendRequest], Field(min_length=1, max_length=MAX_BATCH)]
Events = Annotated[list[Event], Field(min_length=1, max_length=10_000)]
Responses = Annotated[list[Feedback], Field(min_length=1, max_length=10_000)]
R = TypeVar("R")


class Metrics:
    """Made by the worker, not on import: prometheus_client must know by then that several processes count."""

    def __init__(self) -> None:
        from prometheus_client import Counter, Histogram

        self.requests = Counter("segue_requests", "Lists made.", ["path", "arm", "preview"])
        self.fallbacks = Counter("segue_fallbacks", "Lists that another path had to make.", ["path"])
        self.refused = Counter("segue_refused", "Requests that were refused.", ["endpoint"])
        self.unavailable = Counter(
            "segue_unavailable", "Requests refused because the online store is away.", ["endpoint"]
        )
        self.warnings = Counter("segue_warnings", "Lists that were made with a warning.", ["path"])
        self.latency = Histogram(
            "segue_latency_seconds",
            "Time to make a list, exposure logging included.",
            ["path"],
            buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
        )

    def count(self, answer: Answer) -> None:
        self.requests.labels(answer.path, answer.arm or "", str(answer.preview).lower()).inc()
        self.latency.labels(answer.path).observe(answer.latency_ms / 1000)
        if answer.fallback is not None:
            self.fallbacks.labels(answer.path).inc()
        if answer.warnings:
            self.warnings.labels(answer.path).inc()


@bentoml.service(
    name="segue",
    image=image(),
    threads=int(os.environ.get("SEGUE_REQUEST_THREADS", "8")),
    http={"host": "127.0.0.1"},
    traffic={"timeout": 30},
    # Read by the container's entry point, which must listen beyond its own loopback to be reached at all.
    envs=[{"name": "BENTOML_HOST", "value": "0.0.0.0"}, {"name": "BENTOML_DO_NOT_TRACK", "value": "True"}],
)
class Recommender:
    """Recommendations from a cascade or a generative model, as the deployment says."""

    def __init__(self) -> None:
        import torch

        from segue.serving.service import Service

        # Requests run side by side in threads; one list is too small to gain from several cores.
        torch.set_num_threads(int(os.environ.get("SEGUE_TORCH_THREADS", "1")))
        self._metrics = Metrics()
        self._service = Service.from_environment(environment())
        _workers.append(self)

    @bentoml.api
    def recommend(self, request: RecommendRequest, /) -> Answer:
        """One list. ``path`` omitted: as deployed; named: a preview."""
        return self._counted("recommend", lambda: [self._service.recommend(request)])[0]

    @bentoml.api
    def recommend_batch(self, requests: Batch) -> list[Answer]:
        """Lists for several requests, in their order."""
        return self._counted("recommend_batch", lambda: self._service.recommend_batch(requests))

    @bentoml.api
    def candidates(self, request: RecommendRequest, /) -> Answer:
        """Candidates with scores, to be one recall route of another cascade; never an exposure."""
        return self._counted("candidates", lambda: [self._service.candidates(request)])[0]

    @bentoml.api
    def similar_items(self, request: SimilarRequest, /) -> SimilarAnswer:
        """Items like one item."""
        return self._or_refuse("similar_items", lambda: self._service.similar(request))

    @bentoml.api
    def explain(self, request: ExplainRequest, /) -> ExplainAnswer:
        """Why an item: a sentence, the events that mattered and the shared theme; never an exposure."""
        return self._or_refuse("explain", lambda: self._service.explain(request))

    @bentoml.api
    def events(self, events: Events) -> EventsAnswer:
        """What users did; posting an event twice is harmless."""
        return self._or_refuse("events", lambda: self._service.post(events))

    @bentoml.api
    def feedback(self, feedback: Responses) -> FeedbackAnswer:
        """How users responded to what was shown, by the answers' ``exposure_id``; posting it twice is harmless."""
        return self._or_refuse("feedback", lambda: self._service.feedback(feedback))

    @bentoml.on_shutdown
    def shut_down(self) -> None:
        _workers.remove(self)
        self._service.close()

    def health(self) -> dict[str, Any]:
        return self._service.health()

    def __is_ready__(self) -> bool:
        return bool(self._service.health()["bundles"])

    def _counted(self, endpoint: str, make: Callable[[], list[Answer]]) -> list[Answer]:
        answers = self._or_refuse(endpoint, make)
        for answer in answers:
            self._metrics.count(answer)
        return answers

    def _or_refuse(self, endpoint: str, make: Callable[[], R]) -> R:
        try:
            return make()
        except (DataError, StateError) as error:
            self._metrics.refused.labels(endpoint).inc()
            raise BadInput(str(error)) from error
        except UnavailableError as error:
            self._metrics.unavailable.labels(endpoint).inc()
            raise ServiceUnavailable(str(error)) from error


def environment() -> Mapping[str, str]:
    """The process's environment; a Bento that carries its bundle is baked unless it is told otherwise."""
    given = dict(os.environ)
    if BAKED_BUNDLE.is_dir():
        given.setdefault("SEGUE_MODE", "baked")
        given.setdefault("SEGUE_BUNDLE", str(BAKED_BUNDLE))
    return given


_workers: list[Any] = []  # the instance of this process, once it is up


def _health() -> dict[str, Any] | None:
    return _workers[-1].health() if _workers else None


Recommender.add_asgi_middleware(Edge, health=_health)
