from __future__ import annotations

import numpy as np
import pytest

from benchmarks import tokenizers
from benchmarks.tokenizers import ENGINES, OURS, Size

TINY = Size(train=400, assign=300, insert=30, dimensions=8, bits=3, levels=2, repeats=1)


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_reconstructs_what_it_was_given(name: str) -> None:
    rows, engine = tokenizers.vectors(400, TINY), ENGINES[name]
    found = tokenizers.error(engine, engine.fit(rows, TINY), rows)
    assert 0 < found < 0.9


def test_the_ratio_is_ours_over_the_fastest_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizers, "child_peak", lambda *_: 1.5)
    seconds = {
        name: {"median": taken, "low": 1.0, "high": 9.0}
        for name, taken in ((OURS, 3.0), ("a", 6.0), ("b", 4.0))
    }
    rows = tokenizers._rows("train", "train", seconds, {"a": 0.5}, TINY)
    assert [row["ratio"] for row in rows] == [0.75, None, None]
    assert [row["error"] for row in rows] == [None, 0.5, None]
    assert {row["peak_mib"] for row in rows} == {1.5}


def test_vectors_are_seeded_and_centred() -> None:
    rows = tokenizers.vectors(500, TINY)
    np.testing.assert_array_equal(rows, tokenizers.vectors(500, TINY))
    assert not np.array_equal(rows, tokenizers.vectors(500, TINY, seed=1))
    assert np.abs(rows.mean(axis=0)).max() < 0.3


def test_insertion_needs_no_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    (row,) = tokenizers.insertion(TINY)
    assert row["engine"] == OURS
    assert row["seconds"] > 0
    assert row["ratio"] is row["error"] is row["peak_mib"] is None
