"""Injected delays: they delay what is named, are said, and are refused where they are no delays."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from segue.errors import ConfigurationError
from segue.items import Items
from segue.registry.bundle import read_bundle
from segue.schema import PathName
from segue.serving.engine import Engine, History
from segue.serving.faults import injected_delays
from segue.serving.requests import RecommendRequest
from segue.serving.service import Service
from segue.serving.store import Store
from segue.workspace import Workspace
from tests.serving.test_following import Write, first, pilot, workspace, write
from tests.serving.worlds import FakePath

__all__ = ["first", "workspace", "write"]  # fixtures
ARMS = {"control", "treatment"}


@pytest.mark.parametrize("path", [PathName.GENERATIVE, PathName.BLENDED, PathName.RERANK])
def test_a_named_path_and_what_is_made_of_it_are_late_and_make_the_same_list(
    full: Path, path: PathName
) -> None:
    plain, delayed = Engine.load(full), Engine.load(full, delays={PathName.GENERATIVE: 120.0})
    history = [History(item_ids=["i001"])]
    try:
        started = time.perf_counter()
        slow = delayed.recommend(history, path=path)
        assert time.perf_counter() - started >= 0.12
        assert slow == plain.recommend(history, path=path)
        assert (delayed.delays, plain.delays) == ({PathName.GENERATIVE: 120.0}, {})
    finally:
        plain.close()
        delayed.close()


def test_a_delay_beyond_the_budget_falls_back(full: Path) -> None:
    engine = Engine(
        read_bundle(full),
        Items.load(full),
        {name: FakePath(name, 40) for name in (PathName.CASCADE, PathName.GENERATIVE)},
        budget_ms=60.0,
        delays={PathName.GENERATIVE: 400.0},
    )
    try:
        found = engine.recommend([History(item_ids=["i001"])], path=PathName.GENERATIVE)[0]
        assert found.path is PathName.CASCADE
        assert found.fallback == "generative: over its time budget"
    finally:
        engine.close()


def test_a_server_says_what_is_injected(workspace: Workspace, write: Write, first: str, full_id: str) -> None:
    write(pilot(first, full_id, revision=1) | {"parent": None})
    environment = {"SEGUE_INJECT_DELAY_MS": "generative=5"}
    service = Service.following(workspace, "tiny", environment=environment)
    try:
        health = service.health()
        assert health["status"] == "degraded"
        assert health["injected_delays_ms"] == {f"{full_id[:12]} generative": 5.0}
    finally:
        service.close()


def test_in_a_batch_a_slow_arm_is_slow_and_the_other_is_not(
    workspace: Workspace, write: Write, first: str, full_id: str
) -> None:
    """Whichever comes first; the exposures carry what the answers say, so a latency guardrail sees batches too."""
    write(pilot(first, full_id, revision=1) | {"parent": None})
    environment = {"SEGUE_INJECT_DELAY_MS": "generative=250"}
    service = Service.following(workspace, "tiny", environment=environment)
    store = Store.at(workspace.state("tiny") / "online.sqlite")
    try:
        ask = [RecommendRequest(user_id=f"b{number}") for number in range(12)]
        arms = [answer.arm or "" for answer in service.recommend_batch(ask)]
        by_arm = [ask[place] for place in sorted(range(12), key=arms.__getitem__)]
        for batch in (by_arm, by_arm[::-1]):
            answers = service.recommend_batch(batch)
            latencies = {arm: {one.latency_ms for one in answers if one.arm == arm} for arm in ARMS}
            assert {one.fallback for one in answers} == {None}
            (slow,), (quick,) = latencies["treatment"], latencies["control"]  # one call an arm
            assert quick < 250 <= slow
        logged = {row["exposure_id"]: row["latency_ms"] for row in store.exposures()}
        assert all(logged[one.exposure_id or ""] == one.latency_ms for one in answers)
    finally:
        store.close()
        service.close()


def test_what_the_variable_says() -> None:
    assert injected_delays({}) == injected_delays({"SEGUE_INJECT_DELAY_MS": ""}) == {}
    assert injected_delays({"SEGUE_INJECT_DELAY_MS": "generative=300, cascade=0.5"}) == {
        PathName.GENERATIVE: 300.0,
        PathName.CASCADE: 0.5,
    }


@pytest.mark.parametrize(
    "text", ["generative", "magic=3", "generative=-1", "generative=nan", "generative=inf", "=3"]
)
def test_what_is_no_delay_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="SEGUE_INJECT_DELAY_MS"):
        injected_delays({"SEGUE_INJECT_DELAY_MS": text})
