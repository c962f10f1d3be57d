"""The shadow answers the same users again and again, and nobody waits for it or sees it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from segue.migration.deployment import Deployment, Shadow
from segue.registry.bundle import read_bundle
from segue.schema import PathName
from segue.serving.engine import Engine
from segue.serving.following import Serving
from segue.serving.requests import RecommendRequest
from segue.serving.routing import is_shadowed
from segue.serving.service import Service
from segue.serving.shadowing import QUEUED
from tests.serving.worlds import USERS

NAMES = [f"u{number:02d}" for number in range(USERS)]


def deployment(cascade: str, shadow: str, rate: float) -> Deployment:
    return Deployment.model_validate(
        {
            "revision": 1, "parent": None, "stage": "cascade", "salt": "s", "lasting_salt": "l", "actor": "a",
            "reason": "", "at": "2026-01-01T00:00:00+00:00",
            "arms": [{"name": "cascade", "bundle": cascade, "path": "cascade", "share": 1.0}],
            "shadow": Shadow(bundle=shadow, path=PathName.GENERATIVE, rate=rate).model_dump(),
        }
    )  # fmt: skip


@pytest.fixture
def engines(incumbent_only: Path, full: Path) -> Iterator[dict[str, Engine]]:
    found = {read_bundle(folder).bundle_id: Engine.load(folder) for folder in (incumbent_only, full)}
    yield found
    for engine in found.values():
        engine.close()


def service_of(engines: dict[str, Engine], rate: float) -> tuple[Service, Deployment]:
    first, second = engines
    document = deployment(first, second, rate)
    serving = Serving(engines, document)
    return Service(lambda: serving), document


def test_the_shadowed_are_answered_twice_and_shown_once(engines: dict[str, Engine], full_id: str) -> None:
    service, document = service_of(engines, 0.5)
    shadowed = [name for name in NAMES if is_shadowed(document, name)]
    assert 0 < len(shadowed) < len(NAMES)
    for _ in range(2):
        answers = service.recommend_batch(
            [RecommendRequest(user_id=name, history=["i001"], k=5) for name in NAMES]
        )
        assert {answer.path for answer in answers} == {"cascade"}
    # Neither a preview nor a list that is logged nowhere is a request of an experiment.
    service.recommend(RecommendRequest(user_id=shadowed[0], history=["i001"], path="generative"))
    service.recommend_batch([RecommendRequest(user_id=shadowed[0], history=["i001"])], expose=False)
    service._shadower.settle()
    told = service.health()["shadow"]
    assert list(told) == [full_id[:12]]
    found: dict[str, Any] = told[full_id[:12]]
    assert (found["lists"], found["failures"], found["dropped"]) == (2 * len(shadowed), 0, 0)
    assert 0 <= found["overlap"] <= 1
    assert found["latency_ms"] > 0
    service.close()


def test_a_shadow_that_fails_or_hangs_costs_nobody_a_list(
    engines: dict[str, Engine], full_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, _ = service_of(engines, 1.0)
    released = threading.Event()

    def hang(*_: object, **__: object) -> None:
        released.wait(30)
        raise RuntimeError("the contender is broken")

    monkeypatch.setattr(engines[full_id], "recommend", hang)
    wanted = QUEUED + 20
    for number in range(wanted):
        answer = service.recommend(RecommendRequest(user_id=NAMES[number % USERS], history=["i001"], k=3))
        assert (answer.path, len(answer.items)) == ("cascade", 3)
    released.set()
    service._shadower.settle()
    told = service.health()["shadow"][full_id[:12]]
    assert told["lists"] == 0
    assert told["failures"] + told["dropped"] == wanted
    assert told["dropped"] >= 19  # one is at work, the queue holds the rest
    service.close()


def test_without_a_shadow_no_thread_is_started(engines: dict[str, Engine]) -> None:
    service, _ = service_of(engines, 0.0)
    service.recommend(RecommendRequest(user_id="u00", history=["i001"]))
    assert service.health()["shadow"] == {}
    assert service._shadower._thread is None
    service.close()
