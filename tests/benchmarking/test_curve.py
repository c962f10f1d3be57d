from __future__ import annotations

from pathlib import Path

import pytest

from segue.benchmarking.curve import Curve


def test_a_curve_goes_on_where_it_was(tmp_path: Path) -> None:
    told: list[int] = []
    first = Curve(tmp_path, 100, lambda epoch, _: told.append(epoch))
    first.add(0, {"validation": 0.1, "tokens_per_second": 50.0})
    second = Curve(tmp_path, 100)
    second.add(1, {"validation": 0.2, "tokens_per_second": 25.0})
    assert told == [0]
    assert [epoch["validation"] for epoch in second.epochs] == [0.1, 0.2]
    assert second.train_seconds == pytest.approx(2.0 + 4.0)
    assert Curve(tmp_path, 100).epochs == second.epochs


def test_an_epoch_that_a_kill_left_untold_counts_as_the_next_one(tmp_path: Path) -> None:
    curve = Curve(tmp_path, 100)
    curve.add(1, {"validation": 0.2, "tokens_per_second": 25.0})
    assert len(curve.epochs) == 2
    assert curve.train_seconds == pytest.approx(8.0)


def test_an_epoch_that_is_told_twice_counts_once(tmp_path: Path) -> None:
    curve = Curve(tmp_path, 100)
    for validation in (0.1, 0.3):
        curve.add(0, {"validation": validation, "tokens_per_second": 50.0})
    assert [epoch["validation"] for epoch in curve.epochs] == [0.3]
