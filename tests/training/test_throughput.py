from __future__ import annotations

import pytest
import torch

from segue.training.flops import house_flops_per_token, house_table_flops
from segue.training.throughput import counted_flops_per_token, throughput, unpadded
from tests.generative import tiny
from tests.training.examples import batches, next_item, settings, train


def test_a_batch_without_padding_has_the_mean_length_and_the_mean_number_of_events() -> None:
    sample = [tiny.histories([8, 2, 5]), tiny.histories([3, 3, 3, 6])]
    batch = unpadded(sample)
    length = round(30 / 7)
    assert batch.items.shape == (round(30 / 2 / length), length)
    assert batch.lengths.tolist() == [length] * len(batch.items)
    assert (batch.timestamps.diff(dim=1) >= 0).all()
    everything = torch.cat([one.items[row, :n] for one in sample for row, n in enumerate(one.lengths)])
    assert torch.equal(batch.items.flatten(), everything[: batch.items.numel()])


def test_the_count_is_the_estimate_of_the_house_model() -> None:
    chosen = tiny.SETTINGS.model_copy(update={"dropout": 0.3})
    model = tiny.model(tiny.items(), chosen)
    nodes = [model.trie.nodes(depth + 1) for depth in range(model.trie.levels)]
    tables = house_table_flops(chosen, content_dimensions=6, nodes=nodes, items=24)
    estimate = house_flops_per_token(
        chosen, length=8, nodes=nodes, items=24, coded_content=tables / 24
    )  # fmt: skip
    state = torch.get_rng_state()
    counted = counted_flops_per_token(model, model.loss, [tiny.histories([8, 8, 8])])
    assert counted == pytest.approx(estimate, rel=0.15)
    assert torch.equal(state, torch.get_rng_state())
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_training_says_how_fast_it_was_and_of_how_much() -> None:
    model = next_item()
    result = train(model, settings())
    found = throughput(model, result, loss=model.loss, batches=batches, precision="fp32")
    assert found["tokens_per_second"] == result.tokens / result.training_seconds
    # A product of 8 x 12 for each event but the first of a history, forward and twice backward.
    assert 0.5 * 6 * 8 * 12 < found["flops_per_token"] < 6 * 8 * 12
    assert found["peak_flops"] > 1e8
    assert found["mfu"] == pytest.approx(
        found["flops_per_token"] * found["tokens_per_second"] / found["peak_flops"]
    )
    assert 0 < found["mfu"] < 1


def test_what_made_no_step_says_nothing(tmp_path) -> None:
    for _ in range(2):
        model = next_item()
        result = train(model, settings(), checkpoints=tmp_path)
    assert result.tokens == 0
    assert throughput(model, result, loss=model.loss, batches=batches, precision="fp32") == {}
