from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks import harness
from benchmarks.render import render
from segue.artifacts import read_json


def test_contenders_take_turns_after_one_warm_up_each() -> None:
    calls: list[str] = []
    seconds = harness.median_seconds({name: partial(calls.append, name) for name in ("a", "b")}, 3)
    assert calls == ["a", "b"] * 4
    assert set(seconds) == {"a", "b"}


def test_who_takes_minutes_runs_fewer_times_and_unwarmed() -> None:
    calls: list[str] = []
    tasks = {name: partial(calls.append, name) for name in ("slow", "a")}
    seconds = harness.median_seconds(tasks, 3, {"slow": 2})
    assert calls == ["a", "slow", "a", "slow", "a", "a"]
    assert set(seconds) == {"slow", "a"}


def test_the_median_lies_among_the_repeats_and_the_warm_up_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([0.0, 3.0, 10.0, 11.0, 20.0, 27.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    assert harness.median_seconds({"a": lambda: None}, 3) == {"a": {"median": 3.0, "low": 1.0, "high": 7.0}}


def test_what_is_written_says_where_it_comes_from_and_is_rendered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    monkeypatch.setattr("sys.argv", ["benchmarks/speed.py"])
    rows: list[dict[str, Any]] = [
        {"engine": "ours", "seconds": 0.123456, "batch": 16},
        {"engine": "theirs", "seconds": None},
    ]
    path = harness.write("speed", "How fast.", ("engine", "seconds"), rows, notes=["Only a test."])
    assert path == tmp_path / "speed.json"
    written = read_json(path)
    assert isinstance(written, dict)
    assert written["command"] == "python -m benchmarks.speed"
    assert written["rows"] == rows
    assert written["machine"]["processor"]
    assert written["machine"]["threads"] >= 1

    page = render(tmp_path)
    assert page.startswith("# Measured")
    for line in ("## speed", "| engine | seconds |", "| ours | 0.1235 |", "| theirs | not measured |"):
        assert line in page.splitlines()
    assert page.rstrip().endswith("- Only a test.")


def test_sections_stand_in_the_order_of_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    for name in ("b", "a"):
        harness.write(name, "", ("x",), [{"x": 1}])
    page = render(tmp_path)
    assert page.index("## a") < page.index("## b")


def test_an_empty_folder_renders_the_header_alone(tmp_path: Path) -> None:
    assert "##" not in render(tmp_path)


def test_what_a_gpu_measured_stays_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    monkeypatch.setattr("sys.argv", ["benchmarks/speed.py"])

    def run(found: float | None) -> Any:
        harness.main(
            "speed", "Speed.\n\nHow fast.", ("ms",), lambda _: [{"ms": found}], lambda _: [],
            size=1, quick=0, figure="ms",
        )  # fmt: skip
        written = read_json(tmp_path / "speed.json")
        assert isinstance(written, dict)
        return written["rows"]

    assert run(None) == [{"ms": None}]  # better than nothing
    assert run(2.0) == [{"ms": 2.0}]
    assert run(None) == [{"ms": 2.0}]
    assert "stays as it is" in capsys.readouterr().out
