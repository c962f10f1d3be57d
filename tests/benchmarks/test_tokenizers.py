from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import harness, tokenizers
from benchmarks.render import render
from benchmarks.tokenizers import ENGINES, OURS, Size

TINY = Size(train=400, assign=300, insert=30, dimensions=8, bits=3, levels=2, repeats=1)


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_reconstructs_what_it_was_given(name: str) -> None:
    rows, engine = tokenizers.vectors(400, TINY), ENGINES[name]
    model = engine.fit(rows, TINY)
    found = tokenizers.error(engine, model, rows, engine.encode(model, rows))
    assert 0 < found < 0.9


def test_the_ratio_is_over_the_fastest_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizers, "child_peak", lambda *_: 1.5)
    seconds = {
        name: {"median": taken, "low": 1.0, "high": 9.0}
        for name, taken in ((OURS, 3.0), ("a", 6.0), ("b", 4.0))
    }
    rows = tokenizers.with_peaks(tokenizers._rows("train", seconds, {"a": 0.5}, TINY), TINY)
    assert [row["ratio"] for row in rows] == [0.75, 1.5, 1.0]
    assert [row["error"] for row in rows] == ["not asked", 0.5, "not asked"]
    assert {row["peak_mib"] for row in rows} == {1.5}


def test_vectors_are_seeded_and_centred() -> None:
    rows = tokenizers.vectors(500, TINY)
    np.testing.assert_array_equal(rows, tokenizers.vectors(500, TINY))
    assert not np.array_equal(rows, tokenizers.vectors(500, TINY, seed=1))
    assert np.abs(rows.mean(axis=0)).max() < 0.3


def test_insertion_needs_no_peer() -> None:
    rows = tokenizers.vectors(TINY.train, TINY)
    (row,) = tokenizers.with_peaks(tokenizers.insertion(TINY, ENGINES[OURS].fit(rows, TINY)), TINY)
    assert row["engine"] == OURS
    assert row["seconds"] > 0
    assert (row["ratio"], row["error"], row.get("peak_mib")) == ("no peer", "not asked", None)


def test_the_table_is_rendered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    monkeypatch.setattr(tokenizers, "child_peak", lambda *_: 1.5)
    seconds = {OURS: {"median": 1.0, "low": 1.0, "high": 1.0}}
    rows = tokenizers.with_peaks(tokenizers._rows("train", seconds, {}, TINY), TINY)
    harness.write("tokenizers", "How fast.", tokenizers.COLUMNS, rows, notes=tokenizers.notes())
    page = render(tmp_path).splitlines()
    assert "| task | engine | seconds | low | high | repeats | ratio | error | peak_mib |" in page
    assert "| train | segue | 1 | 1 | 1 | 1 | no peer | not asked | 1.5 |" in page


@pytest.mark.skipif(not tokenizers.CLEAR.exists(), reason="peaks are Linux's own count")
def test_peak_memory_is_what_the_task_adds() -> None:
    class Wasteful:
        def fit(self, rows: np.ndarray, size: Size) -> None:
            if len(rows) == TINY.train:
                np.ones(64 * 2**20, dtype=np.uint8).sum()

        def encode(self, model: None, rows: np.ndarray) -> None:
            pass

        decode = encode

    assert 55 < tokenizers.peak_of("train", Wasteful(), TINY) < 90  # type: ignore[arg-type]
    measured = tokenizers.child_peak("assign", OURS, TINY)
    assert measured is not None
    assert 0 <= measured < 1024
