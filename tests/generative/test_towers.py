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

POOLED = tiny.SETTINGS.model_copy(
    update={"pooled_tower": True, "pooled_temperature": 0.2, "pooled_identity_dropout": 0.5}
)
APART = {"code_tower": "own", "dense_tower": "identities"}


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
    expected = F.normalize(context.state, dim=-1) @ tables.items.T / POOLED.dense_temperature
    expected = expected + F.normalize(context.pooled_state, dim=-1) @ tables.pooled.T / 0.2
    found = model.user_vectors(context) @ model.item_vectors().T
    torch.testing.assert_close(found, expected)
    # An appended event is read by both.
    one = tiny.histories([1])
    grown = model.append(model.encode(tiny.histories([4])), one)
    assert grown.pooled_state is not None
    assert not torch.equal(grown.pooled_state, model.encode(tiny.histories([4])).pooled_state)


@torch.no_grad()
def test_the_code_heads_tower_may_score_too() -> None:
    chosen = POOLED.model_copy(update={**APART, "code_tower_scores": True})
    model = tiny.model(settings=chosen)
    context, tables = model.encode(tiny.histories([4, 7])), model._tables()
    assert model.code_tower is not None
    own = F.normalize(model.code_tower.items(model._content, model.bound.codes, model._identity), dim=-1)
    expected = sum(
        F.normalize(state, dim=-1) @ vectors.T / temperature
        for state, vectors, temperature in (
            (context.state, tables.items, chosen.dense_temperature),
            (context.code_state, own, chosen.dense_temperature),
            (context.pooled_state, tables.pooled, chosen.pooled_temperature),
        )
    )
    torch.testing.assert_close(model.user_vectors(context) @ model.item_vectors().T, expected)


def test_the_code_heads_tower_then_learns_from_both_losses() -> None:
    model = tiny.model(settings=POOLED.model_copy(update={**APART, "code_tower_scores": True}))
    parts = model.loss(tiny.histories([3, 6]))
    named = ("code", "dense", "dense_code", "pooled", "stand_in")
    torch.testing.assert_close(parts["total"], sum(parts[name] for name in named))
    parts["dense_code"].backward()  # type: ignore[no-untyped-call]
    assert model.code_tower is not None
    assert model.code_tower.content.weight.grad is not None
    assert all(parameter.grad is None for parameter in model.tower.parameters())


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
                {
                    name: value
                    for name, value in settings.model_dump().items()
                    if value is not False and name != "dense_tower"
                }
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
    twin.vectors[28:] = twin.vectors[4]
    model.bind(twin)
    tower = pooled_tower(model)
    assert tower.identity is not None
    with torch.no_grad():
        tower.identity.zero_()
        vectors = model.item_vectors().chunk(2, dim=1)[1]
    assert int((vectors[:24] @ vectors[29]).argmax()) == 4
    torch.testing.assert_close(vectors[28], vectors[29])


@torch.no_grad()
def test_a_tower_of_identities_takes_content_where_there_is_none_of_them() -> None:
    """In training, that is; when serving, an inserted item with content has neighbours (test_neighbours.py)."""
    for name in ("house", "hstu"):
        model = tiny.named(name, settings=tiny.SETTINGS.model_copy(update=APART))
        assert isinstance(model, HouseModel)
        assert not model.tower.codes
        assert model.code_tower is not None
        assert len(model.code_tower.codes) == len(tiny.SIZES) - 1
        assert model.tower.identity is not None
        raw = model._tables().raw
        torch.testing.assert_close(raw, model.tower.identity[model._identity])
        model.bind(tiny.items(30))
        model.train()
        grown, new = model._tables().raw, torch.arange(24, 30)
        torch.testing.assert_close(grown[:24], raw)
        content = tiny.items(30).vectors[new]
        scaled = F.normalize(content, dim=-1) * content.shape[1] ** 0.5 * model.settings.content_scale
        torch.testing.assert_close(grown[new], model.tower.content(scaled))


def test_each_tower_leaves_identities_out_as_often_as_it_is_told() -> None:
    model = tiny.model(settings=POOLED.model_copy(update={"identity_dropout": 0.1}))
    model.train()
    torch.manual_seed(0)
    known, described = torch.zeros(4000, dtype=torch.int64), torch.zeros(4000, tiny.SETTINGS.dimensions)
    for tower, expected in ((model.tower, 0.1), (pooled_tower(model), 0.5)):
        found = tower.identified(described, known)
        assert float((found == 0).all(dim=1).float().mean()) == pytest.approx(expected, abs=0.03)


def test_what_stands_in_for_an_identity_learns_it_and_moves_nothing_else() -> None:
    """Content that says an identity outright comes to say that of an item which has none."""
    model = tiny.model(settings=tiny.SETTINGS.model_copy(update=APART))
    tower = model.tower
    assert tower.identity is not None
    content = model._content.detach()
    truth = torch.randn(
        content.shape[1], tiny.SETTINGS.dimensions, generator=torch.Generator().manual_seed(3)
    )
    with torch.no_grad():
        tower.identity[model._identity] = content @ truth
    before = tower.identity.detach().clone()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.3)
    for _ in range(300):
        optimizer.zero_grad()
        tower.stand_in_loss(content, model._identity).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert all(
        parameter.grad is None for name, parameter in tower.named_parameters() if "content" not in name
    )
    torch.testing.assert_close(tower.identity.detach(), before)
    model.bind(tiny.items(30))
    model.train()
    with torch.no_grad():
        new = model._tables().raw[24:]
        torch.testing.assert_close(new, model._content[24:] @ truth, atol=0.2, rtol=0.1)


def test_other_losses_leave_what_stands_in_alone() -> None:
    """The softmax would push an item that nothing was trained on away from everybody."""
    model = tiny.model(settings=tiny.SETTINGS.model_copy(update=APART))
    model.bind(tiny.items(30))
    parts = model.loss(tiny.histories([3, 6]))
    (parts["code"] + parts["dense"]).backward()  # type: ignore[no-untyped-call]
    assert model.tower.content.weight.grad is None
    torch.testing.assert_close(parts["total"], parts["code"] + parts["dense"] + parts["stand_in"])


def test_towers_that_have_nothing_to_say_are_refused() -> None:
    with pytest.raises(ValidationError, match="pooled_tower is part of the dense head"):
        GenerativeSettings.model_validate({"pooled_tower": True, "dense_weight": 0})
    for wrong in ({"code_tower": "shared"}, {"code_tower": "own", "pooled_tower": False, "dense_weight": 0}):
        with pytest.raises(ValidationError, match="code_tower_scores makes"):
            GenerativeSettings.model_validate({**wrong, "code_tower_scores": True})
    with pytest.raises(ValidationError, match="give code_tower own or content"):
        GenerativeSettings.model_validate({"dense_tower": "identities", "code_tower": "shared"})


def test_the_pooled_expert_may_learn_faster() -> None:
    assert tiny.model().rates() == {}
    assert tiny.model(settings=POOLED.model_copy(update={"pooled_rate": 3.0})).rates() == {"pooled.": 3.0}
    named = dict(tiny.model(settings=POOLED).named_parameters())
    assert {name for name in named if name.startswith("pooled.")} >= {"pooled.identity", "pooled.slope"}
