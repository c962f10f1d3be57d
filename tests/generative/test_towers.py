from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from segue.generative.house import HouseModel
from segue.generative.settings import GenerativeSettings
from segue.generative.towers import PooledTower

from . import tiny

POOLED = tiny.SETTINGS.model_copy(update={"pooled_tower": True})


def pooled_tower(model: HouseModel) -> PooledTower:
    assert model.pooled is not None
    return model.pooled


@torch.no_grad()
def test_the_pooled_state_is_a_mean_that_forgets() -> None:
    """By definition, one history and one event at a time; what stands behind a history changes nothing."""
    model = tiny.model(settings=POOLED)
    tower = pooled_tower(model)
    batch = tiny.histories([5, 2, 0])
    states = tower.encode(batch, model._tables().pooled)
    for row, length in enumerate(batch.lengths.tolist()):
        for known in range(length + 1):
            if known == 0:
                pooled = tower.start
            else:
                items = model._tables().pooled[batch.items[row, :known]]
                scores = [
                    tower.attention(item) - F.softplus(tower.slope) * (known - 1 - place)
                    for place, item in enumerate(items)
                ]
                weights = torch.softmax(torch.cat(scores), dim=0)
                pooled = torch.stack(
                    [weight * item for weight, item in zip(weights, items, strict=True)]
                ).sum(0)
            torch.testing.assert_close(states[row, known], pooled + tower.mlp(pooled))


@torch.no_grad()
def test_an_item_is_its_content_and_its_identity() -> None:
    bound = tiny.items(absent=(3,))
    model = tiny.model(bound, POOLED)
    tower, found = pooled_tower(model), model._tables().pooled
    assert found is not None
    assert tower.identity is not None
    for item in (0, 3, 17):
        vector = F.normalize(bound.vectors[item] if bound.present[item] else model.missing, dim=0)
        row = tower.content_norm(tower.content(vector)) + tower.identity[model._identity[item]]
        torch.testing.assert_close(found[item], F.normalize(row, dim=0))


@torch.no_grad()
def test_the_dense_score_is_the_sum_of_both_experts() -> None:
    model = tiny.model(settings=POOLED)
    batch = tiny.histories([4, 7])
    context = model.encode(batch)
    assert context.pooled_state is not None
    tables = model._tables()
    expected = F.normalize(context.state, dim=-1) @ tables.items.T
    expected = expected + F.normalize(context.pooled_state, dim=-1) @ tables.pooled.T
    found = model.user_vectors(context) @ model.item_vectors().T
    torch.testing.assert_close(found, expected / POOLED.dense_temperature)
    # An appended event is read by both.
    one = tiny.histories([1])
    grown = model.append(model.encode(tiny.histories([4])), one)
    assert grown.pooled_state is not None
    assert not torch.equal(grown.pooled_state, model.encode(tiny.histories([4])).pooled_state)


def test_each_expert_learns_from_its_own_loss() -> None:
    model = tiny.model(settings=POOLED)
    parts = model.loss(tiny.histories([3, 6]))
    total = parts["code"] + parts["dense"] + parts["pooled"]
    torch.testing.assert_close(parts["total"], total)
    parts["pooled"].backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None for parameter in pooled_tower(model).parameters())
    assert all(parameter.grad is None for parameter in model.tower.parameters())


def test_saved_weights_come_back_and_those_from_before_the_expert_still_load() -> None:
    for settings in (POOLED, tiny.SETTINGS):
        model = tiny.model(settings=settings)
        other = HouseModel(
            GenerativeSettings.stored(
                {name: value for name, value in settings.model_dump().items() if value is not False}
            ),
            codebook_id=model.codebook_id,
            level_sizes=tiny.SIZES,
            content_dimensions=6,
        ).eval()
        other.bind(tiny.items())
        other.load_state_dict(model.state_dict())
        with torch.no_grad():
            torch.testing.assert_close(other.item_vectors(), model.item_vectors())


def test_an_inserted_item_is_placed_by_its_content() -> None:
    """It has no identity, and what is like it in content is near it."""
    model = tiny.model(settings=POOLED)
    grown = tiny.items(30)
    twin = replace(grown, vectors=grown.vectors.clone())
    twin.vectors[29] = twin.vectors[4]
    model.bind(twin)
    tower = pooled_tower(model)
    assert tower.identity is not None
    with torch.no_grad():
        tower.identity.zero_()
        vectors = model.item_vectors().chunk(2, dim=1)[1]
    torch.testing.assert_close(vectors[29], vectors[4])


def test_a_second_expert_of_no_dense_head_is_refused() -> None:
    with pytest.raises(ValidationError, match="pooled_tower is part of the dense head"):
        GenerativeSettings.model_validate({"pooled_tower": True, "dense_weight": 0})
