"""HSTU over item ids against the layer's equations, one pair of positions at a time."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from segue.generative.hstu_items import HstuItems
from segue.protocols import HistoryBatch

from . import tiny

N = 24


def made(**changes) -> HstuItems:
    torch.manual_seed(5)
    model = HstuItems(N, tiny.SETTINGS.model_copy(update={"dropout": 0.0, **changes})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def plain(model: HstuItems, items: list[int], times: list[int]) -> torch.Tensor:
    """[T, d] of one history."""
    heads, width = model.settings.heads, model.settings.dimensions // model.settings.heads
    rows = []
    for place, item in enumerate(items):
        gap = times[place] - times[place - 1] if place else 0
        rows.append(
            model.item_embedding.weight[item] * math.sqrt(model.settings.dimensions)
            + model.gaps.weight[int(math.log2(gap + 1))]
        )
    hidden = torch.stack(rows)
    for layer in model.layers:
        gate, value, query, key = F.silu(layer.project(layer.before(hidden))).chunk(4, dim=-1)
        mixed = torch.zeros_like(value)
        for place in range(len(items)):
            for head in range(heads):
                part = slice(head * width, (head + 1) * width)
                for other in range(place + 1):
                    seconds = times[place] - times[other]
                    bias = (
                        layer.position.weight[place - other] + layer.time.weight[int(math.log2(seconds + 1))]
                    )
                    weight = F.silu(query[place, part] @ key[other, part] + bias)
                    mixed[place, part] += weight * value[other, part] / (place + 1)
        hidden = hidden + layer.out(layer.after(mixed) * gate)
    return model.norm(hidden)


def test_states_are_the_equations_and_padding_is_not_read() -> None:
    model = made()
    histories = tiny.histories([5, 1, 8], N)
    found = model.hidden(tiny.wider(histories, 3))
    for row, length in enumerate([5, 1, 8]):
        own = plain(
            model, histories.items[row, :length].tolist(), histories.timestamps[row, :length].tolist()
        )
        torch.testing.assert_close(found[row, :length], own, rtol=1e-4, atol=1e-5)


def test_the_loss_is_the_mean_cross_entropy_of_every_event_but_the_first() -> None:
    model = made()
    histories = tiny.histories([5, 1, 3], N)
    vectors = F.normalize(model.item_embedding.weight, dim=-1)
    losses = []
    for row, length in enumerate([5, 1, 3]):
        items = histories.items[row, :length].tolist()
        states = plain(model, items, histories.timestamps[row, :length].tolist())
        logits = F.normalize(states, dim=-1) @ vectors.T / model.settings.dense_temperature
        losses += [
            F.cross_entropy(logits[place], torch.tensor(items[place + 1])) for place in range(length - 1)
        ]
    torch.testing.assert_close(
        model.loss(histories)["total"], torch.stack(losses).mean(), rtol=1e-4, atol=1e-5
    )


def test_a_user_is_the_state_after_the_newest_event() -> None:
    model = made()
    histories = tiny.histories([5, 2], N)
    expected = torch.stack([model.scaled(model.hidden(histories)[row, at]) for row, at in ((0, 4), (1, 1))])
    torch.testing.assert_close(model.user_vectors(histories), expected)


def test_a_batch_without_a_target_costs_nothing() -> None:
    batch = HistoryBatch(
        items=torch.zeros(1, 1, dtype=torch.int64),
        timestamps=torch.zeros(1, 1, dtype=torch.int64),
        lengths=torch.ones(1, dtype=torch.int64),
    )
    assert made().loss(batch)["total"].item() == 0
