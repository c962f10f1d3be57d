from __future__ import annotations

import pytest
import torch

from benchmarks import hstu_attention
from benchmarks.hstu_attention import KERNEL, PLAIN, QUICK, SDPA, measure


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU measures")
def test_without_a_gpu_nothing_is_said_to_be_measured() -> None:
    rows = measure(QUICK)
    assert {row["attention"] for row in rows} == {KERNEL, SDPA, PLAIN}
    assert {row["pass"] for row in rows} == {"forward", "forward and backward"}
    assert all(row["ms"] is None and row["times SDPA"] is None for row in rows)


def test_every_contender_runs_both_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the interpreter where there is no GPU, so that a machine with one is not the first to try."""
    pytest.importorskip("triton", reason="Triton comes with torch where torch supports CUDA")
    monkeypatch.setattr(hstu_attention, "runs_jagged", lambda device, width: True)
    rows = measure(QUICK)
    assert all(row["ms"] > 0 for row in rows)
    assert all(row["times SDPA"] == 1 for row in rows if row["attention"] == SDPA)
