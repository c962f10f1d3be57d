"""eSASRec against its equations written for one event at a time, and its loss against a sum over the catalogue."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from segue.cascade.esasrec import Esasrec
from segue.cascade.sasrec import log_q_softmax
from segue.cascade.settings import EsasrecSettings
from tests.cascade.histories import batch

N = 9
COUNTS = torch.tensor([5, 1, 0, 9, 2, 2, 30, 4, 1])


def make_model(**changes) -> Esasrec:
    torch.manual_seed(3)
    settings = EsasrecSettings(
        dimensions=8, layers=2, heads=2, dropout=0.0, max_length=6, feed_forward=3
    ).model_copy(update=changes)
    model = Esasrec(N, settings, COUNTS).eval()
    with torch.no_grad():  # away from the small start, so that differences show
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def reference(model: Esasrec, history: list[int]) -> torch.Tensor:
    """[T, d]: a loop over layers, events and heads."""
    settings = model.settings
    start = settings.max_length - len(history)
    x = [
        model.item_embedding.weight[item] * math.sqrt(settings.dimensions)
        + model.position_embedding.weight[start + place]
        for place, item in enumerate(history)
    ]
    size = settings.dimensions // settings.heads
    for block in model.blocks:
        split = [block.query_key_value(block.attention_norm(event)).chunk(3) for event in x]
        after = []
        for place, event in enumerate(x):
            heads = []
            for head in range(settings.heads):
                part = slice(head * size, (head + 1) * size)
                scores = torch.stack(
                    [
                        split[place][0][part] @ split[other][1][part] / math.sqrt(size)
                        for other in range(place + 1)
                    ]
                )
                weights = scores.softmax(dim=0)
                heads.append(sum(weights[other] * split[other][2][part] for other in range(place + 1)))
            gate = torch.sigmoid(block.attention_gate(event))
            event = event + block.attention_out(torch.cat(heads)) * gate
            swish, inner = block.feed_forward_in(block.feed_forward_norm(event)).chunk(2)
            gate = torch.sigmoid(block.feed_forward_gate(event))
            after.append(event + block.feed_forward_out(F.silu(swish) * inner) * gate)
        x = after
    return torch.stack([model.final_norm(event) for event in x])


def test_the_layers_are_their_equations() -> None:
    model = make_model()
    histories = [[1, 4, 2, 7], [3], [8, 8, 0, 5, 6, 1]]
    found = model.hidden(batch(*histories).items, torch.tensor([4, 1, 6]))
    for row, history in enumerate(histories):
        torch.testing.assert_close(
            found[row, : len(history)], reference(model, history), rtol=1e-4, atol=1e-4
        )


def test_the_proposal_mixes_uniform_and_popular() -> None:
    model = make_model()
    share = model.settings.popularity_share
    torch.testing.assert_close(model.proposal, (1 - share) / N + share * COUNTS / COUNTS.sum())
    assert Esasrec(N, EsasrecSettings(popularity_share=0.0, heads=2), COUNTS).proposal.unique().numel() == 1


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_corrected_negatives_sum_to_the_catalogue_whatever_the_proposal(share: float) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(3, N, generator=generator)
    targets = torch.tensor([6, 1, 2])
    proposal = (1 - share) / N + share * COUNTS / COUNTS.sum()
    negatives = torch.multinomial(proposal, 200_000, replacement=True, generator=generator)
    positive = scores[torch.arange(3), targets]
    found = log_q_softmax(positive, scores[:, negatives], targets, negatives, proposal[negatives].log())
    assert found.item() == pytest.approx(F.cross_entropy(scores, targets).item(), abs=0.02)


def test_the_loss_is_a_plain_sum_over_what_was_drawn() -> None:
    model = make_model(negatives=5, temperature=0.5)
    histories = [[1, 4, 2], [3, 6]]
    torch.manual_seed(8)
    found = model.loss(batch(*histories))["total"]
    torch.manual_seed(8)
    negatives = torch.multinomial(model.proposal, 5, replacement=True).tolist()
    losses = []
    for history in histories:
        states = F.normalize(reference(model, history[:-1]), dim=-1) / 0.5
        vectors = F.normalize(model.item_embedding.weight, dim=-1)
        for state, target in zip(states, history[1:], strict=True):
            own = (state @ vectors[target]).exp()
            others = sum(
                (state @ vectors[other]).exp() / (5 * model.proposal[other])
                for other in negatives
                if other != target
            )
            losses.append(-(own / (own + others)).log())
    assert found.item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-4)


def test_a_batch_without_a_target_costs_nothing() -> None:
    assert make_model().loss(batch([3]))["total"].item() == 0
