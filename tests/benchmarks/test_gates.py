from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import gates, harness
from benchmarks.gates import NOTHING, Size
from benchmarks.render import render
from segue.artifacts import read_json
from segue.migration.simulation import Effect, Population, Schedule, simulate_so_far
from segue.migration.statistics import bounded

REDUCED = Size(aa=Schedule(240, 100, 80), planted=Schedule(60, 100, 80))


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return gates.measure(REDUCED)


def rate(rows: list[dict[str, Any]], gate: str, planted: str = NOTHING) -> float:
    (found,) = [row["rate"] for row in rows if row["gate"].startswith(gate) and row["planted"] == planted]
    return float(found)


def test_no_sequential_gate_raises_more_false_alarms_than_it_promises(rows: list[dict[str, Any]]) -> None:
    assert gates.broken(rows) == []
    held = [row for row in rows if row["planted"] == NOTHING and not row["gate"].startswith(gates.INVALID)]
    assert len(held) >= 14
    assert {row["experiments"] for row in held} == {240}
    assert {row["looks"] for row in held} == {100}


def test_what_is_not_valid_is_shown_to_break(rows: list[dict[str, Any]]) -> None:
    """Else the gates above hold because the simulation is too easy."""
    shown = {row["gate"] for row in rows if row["gate"].startswith(gates.INVALID)}
    assert shown == {*gates.CONTRAST, gates.TREATED_PAST}
    for gate in shown:
        found = rate(rows, gate)
        assert gates.lower_bound(found, 240) > 0.15
    disguised = [row | {"gate": row["gate"].removeprefix(gates.INVALID)} for row in rows]
    assert len(gates.broken(disguised)) == 3


def test_larger_faults_are_found_more_often(rows: list[dict[str, Any]]) -> None:
    for gate in ("ctr, users, asymptotic with CUPED", gates.PREFERENCE):
        small, large = (rate(rows, gate, f"clicks -{loss} %") for loss in (2, 10))
        assert large > small + 0.1
    # What is judged by sharper figures is found more often.
    order = ("clicks a user, asymptotic", "ctr, users, asymptotic with CUPED")
    assert rate(rows, order[0], "clicks -10 %") < rate(rows, order[1], "clicks -10 %")
    assert rate(rows, "latency relative", "latency +20 %") > 0.9
    assert rate(rows, gates.FALLBACKS, "fallbacks +50 %") > 0.5
    assert rate(rows, gates.SLOWEST, "latency +20 %") > 0.9
    assert rate(rows, gates.RATIO, "2 points of skew (48 : 52)") > 0.5


def test_the_table_says_which_look_found_the_fault(
    rows: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crossed = np.zeros((3, 10), dtype=bool)
    crossed[0, 4:6] = crossed[1, 8] = True
    found = gates.row("ctr", "clicks -2 %", crossed, lag=5)
    assert (found["rate"], found["median_looks"], found["nominal"]) == (pytest.approx(2 / 3), 12.0, 0.05)
    assert gates.row("ctr", NOTHING, crossed[2:], lag=5)["median_looks"] is None
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    harness.write("gates", "How often.", gates.COLUMNS, rows, notes=gates.notes(REDUCED))
    assert "| gate | planted | experiments | looks | rate | nominal | median_looks |" in render(tmp_path)


def test_the_side_of_the_truth_is_that_of_the_betting_interval() -> None:
    values = (np.random.default_rng(0).random((6, 4, 100)) < 0.35).astype(float)
    for truth in (0.2, 0.35, 0.5):
        side = gates.betting(values, truth, 0.95)
        for row in range(6):
            ends = bounded.betting_bounds(values[row].ravel(), 0.95, [100, 200, 300, 400])
            np.testing.assert_array_equal(side.low[row] > 0, ends.low > truth)
            np.testing.assert_array_equal(side.high[row] < 0, ends.high < truth)


def test_users_so_far_are_all_who_entered_with_what_was_reported() -> None:
    people, schedule = Population(), Schedule(2, 12, 500)
    a, b = simulate_so_far(people, schedule, np.random.default_rng(0), Effect(clicks=0.5))
    np.testing.assert_array_equal(a.n + b.n, np.broadcast_to(500 * np.arange(1, 13), (2, 12)))
    assert (np.diff(a.total, axis=1) >= 0).all()
    early, late = (float(b.total[:, look, 0].sum() / b.total[:, look, 1].sum()) for look in (0, 11))
    assert early < 0.8 * late  # clicks come later than requests
    assert a.total[:, 11, 0].sum() < 0.7 * b.total[:, 11, 0].sum()


def test_the_committed_figures_hold() -> None:
    """The full run, as it was committed: 2,000 experiments of 100 looks, and no valid gate above its nominal rate."""
    result: Any = read_json(harness.RESULTS / "gates.json")
    assert tuple(result["columns"]) == gates.COLUMNS
    assert gates.broken(result["rows"]) == []
    nothing = [row for row in result["rows"] if row["planted"] == NOTHING]
    assert {(row["experiments"], row["looks"]) for row in nothing} == {(2000, 100)}
