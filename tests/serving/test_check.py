"""The serving check's arithmetic, and that a server that fails is stopped and explained."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from segue.schema import PathName
from segue.serving.check import (
    Case,
    Finding,
    ServerError,
    inspect_answer,
    overlap,
    sample_cases,
    server,
    summarize,
)
from segue.serving.engine import Engine

CASE = Case("u", ["a", "b"], None)
CATALOGUE = {"a": 0, "b": 1, "c": 2, "d": 3}


def answer(*items: str, path: str = "generative") -> dict[str, object]:
    return {"items": [{"item_id": item} for item in items], "path": path}


def test_an_answer_is_looked_at_item_by_item() -> None:
    def look(reply: dict[str, object], **kwargs: bool) -> Finding:
        return inspect_answer(reply, CASE, PathName.GENERATIVE, 1.0, CATALOGUE, **kwargs)

    assert look(answer("c", "d")) == Finding(200, 1.0, items=2)
    assert look(answer("c", "a")).seen == 1
    assert look(answer("c", "a"), filter_seen=False).seen == 0
    assert look(answer("x", "c", "c")).invalid == 2  # unknown, and shown twice
    assert look(answer("c", path="cascade")).fallback


def test_rates_and_percentiles() -> None:
    findings = [Finding(200, float(ms), items=10) for ms in range(1, 99)]
    findings += [Finding(500, 1000.0), Finding(200, 99.0, items=10, invalid=1, seen=2, fallback=True)]
    row = summarize(findings)
    assert (row["requests"], row["errors"], row["error_rate"]) == (100, 1, 0.01)
    assert row["invalid_rate"] == pytest.approx(1 / 990)
    assert row["seen_rate"] == pytest.approx(2 / 990)
    assert row["fallback_rate"] == pytest.approx(1 / 99)
    assert row["latency_p50_ms"] == 50.0  # of answered requests


def test_no_answer_at_all_has_no_latency() -> None:
    row = summarize([Finding(0, 3.0)])
    assert row["error_rate"] == 1.0
    assert math.isnan(row["latency_p99_ms"])


def test_the_sample_is_regular_users_and_repeatable(world: Path) -> None:
    cases = sample_cases(world / "splits", 20, 3)
    assert cases == sample_cases(world / "splits", 20, 3)
    assert cases != sample_cases(world / "splits", 20, 4)
    assert len({case.user_id for case in cases}) == 20
    assert all(case.user_id < "u27" for case in cases)
    assert len(sample_cases(world / "splits", 60, 3)) == 60


def test_overlap_with_oneself_is_complete(full: Path, world: Path) -> None:
    engine = Engine.load(full)
    assert overlap(engine, engine, PathName.GENERATIVE, sample_cases(world / "splits", 5, 3), 10) == [1.0] * 5
    engine.close()


def test_a_server_that_does_not_start_is_explained(tmp_path: Path) -> None:
    with (
        pytest.raises(ServerError, match="no_such_service"),
        server(
            "no_such_service:Nothing",
            environment={"BENTOML_HOME": str(tmp_path)},
            log=tmp_path / "log",
            start_seconds=30,
            folder=tmp_path,
        ),
    ):
        pytest.fail("it cannot be ready")
