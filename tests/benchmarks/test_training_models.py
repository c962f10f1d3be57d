from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.training_models import COLUMNS, MODELS, QUICK, measure


def test_every_model_has_a_speed_and_a_share_of_the_peak() -> None:
    rows = measure(QUICK)
    assert [row["model"] for row in rows] == list(MODELS)
    assert all(set(row) == set(COLUMNS) for row in rows)
    assert all(row["low"] <= row["tokens_per_second"] <= row["high"] and 0 < row["mfu"] < 1 for row in rows)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU measures")
def test_without_a_gpu_nothing_is_said_to_be_measured() -> None:
    rows = measure(replace(QUICK, device="cuda"))
    assert [row["model"] for row in rows] == list(MODELS)
    assert not any("mfu" in row for row in rows)
