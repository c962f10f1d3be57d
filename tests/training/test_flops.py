from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from segue.training.flops import house_flops_per_token, house_table_flops, matmul_peak, mfu
from tests.generative import tiny


@pytest.mark.parametrize(
    "chosen",
    [
        {"dense_weight": 0.0},
        {},
        {"pooled_tower": True},
        {"pooled_tower": True, "code_tower": "own", "dense_tower": "identities", "code_tower_scores": True},
    ],
    ids=["codes alone", "one expert", "two", "three"],
)
def test_the_estimate_is_what_torch_counts(chosen: dict[str, Any]) -> None:
    settings = tiny.SETTINGS.model_copy(update={**chosen, "dropout": 0.0})
    model = tiny.model(tiny.items(), settings).train()
    batch = tiny.histories([8, 8, 8])
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model.loss(batch)["total"].backward()
    trie = model.trie
    nodes = [trie.nodes(depth + 1) for depth in range(trie.levels)]
    tables = house_table_flops(settings, content_dimensions=6, nodes=nodes, items=24)
    estimate = 24 * house_flops_per_token(
        settings, length=8, nodes=nodes, items=24, coded_content=tables / 24
    )
    # The start token is a ninth position of the encoder, and inputs need no gradient of their own.
    assert counter.get_total_flops() == pytest.approx(estimate, rel=0.1)


def test_the_peak_is_measured_and_mfu_is_a_share_of_it() -> None:
    peak = matmul_peak(torch.float32, size=128, repeats=2)
    assert peak > 1e8
    assert mfu(2e6, 1e4, 4e10) == pytest.approx(0.5)
