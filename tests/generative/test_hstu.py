from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segue.errors import ConfigurationError, DataError
from segue.generative.hstu import HstuModel, HstuTower
from segue.generative.settings import GenerativeSettings
from segue.generative.training import train
from segue.protocols import BoundItems, HistoryBatch

from . import tiny
from .test_context import VOCABULARY, coded
from .test_house import plain_sum

RANKED = tiny.SETTINGS.model_copy(
    update={"hstu": tiny.SETTINGS.hstu.model_copy(update={"ranking_weight": 0.5, "ranking_negatives": 6})}
)


def made(bound: BoundItems | None = None, settings: GenerativeSettings = RANKED) -> HstuModel:
    model = tiny.named("hstu", bound, settings)
    assert isinstance(model, HstuModel)
    return model


def plain_states(model: HstuModel, history: HistoryBatch, bound: BoundItems) -> Tensor:
    """[P, d], a row a position of one history: equations 1 to 3 for each head and each pair of positions, O(P^2) in plain
    sight."""
    length, heads = int(history.lengths[0]), model.settings.heads
    tower = model.tower
    rows = [tower.start]
    moments = history.timestamps[0].tolist()
    times = [moments[0]]
    for place in range(length):
        item = int(history.items[0, place])
        row = plain_sum(model, item, bound) * math.sqrt(model.settings.dimensions)
        gap = moments[place] - moments[place - 1] if place else 0
        rows.append(row + tower.gaps.weight[min(31, int(math.log2(gap + 1)))])
        times.append(moments[place])
        if model.settings.hstu.interleaved:
            assert history.contexts is not None
            assert tower.context is not None
            rows.append(tower.action + tower.context.of_events(history.contexts[:1, place : place + 1])[0, 0])
            times.append(moments[place])
    hidden = torch.stack(rows)
    for layer in tower.blocks:
        gate, value, query, key = F.silu(layer.project(layer.before(hidden))).chunk(4, dim=-1)
        width = value.shape[1] // heads
        mixed = torch.zeros_like(value)
        for place in range(len(rows)):
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
    states: Tensor = tower.norm(hidden)
    return states


@pytest.mark.parametrize("queries", [256, 3])
@torch.no_grad()
def test_the_encoder_equals_a_plain_reference(monkeypatch: pytest.MonkeyPatch, queries: int) -> None:
    """However many positions are computed together."""
    monkeypatch.setattr("segue.generative.hstu_layer._QUERIES", queries)
    bound = tiny.items()
    model = made(bound)
    batch = tiny.histories([8, 3, 0])
    found = model.tower.encode(batch, model._tables().raw)
    for row, length in enumerate(batch.lengths.tolist()):
        plain = plain_states(model, tiny.row(batch, row, length), bound)
        torch.testing.assert_close(found[row, : length + 1], plain, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(model.encode(batch).state[row], plain[-1], atol=1e-5, rtol=1e-4)


def interleaved(bound: BoundItems | None = None) -> HstuModel:
    """With a declared feature whose codes have a position of their own, every weight away from zero."""
    hstu = RANKED.hstu.model_copy(update={"interleaved": True})
    model = tiny.named("hstu", bound, RANKED.model_copy(update={"hstu": hstu}), VOCABULARY)
    assert isinstance(model, HstuModel)
    for tower in model._towers():
        assert isinstance(tower, HstuTower)
        assert tower.context is not None
        for table in tower.context.requests:  # what a request says is added behind the layers
            nn.init.zeros_(table.weight)
    return model


@torch.no_grad()
def test_actions_stand_between_items() -> None:
    """The state after an event is read behind its action; a candidate stands behind the last one."""
    bound = tiny.items()
    model = interleaved(bound)
    batch = coded(tiny.histories([5, 2, 0]))
    states = model.tower.encode(batch, model._tables().raw)
    context, items = model.encode(batch), torch.stack([torch.randperm(24)[:4] for _ in range(3)])
    scores = model.mfalcon(context, items, micro_batch=3)
    for row, length in enumerate(batch.lengths.tolist()):
        plain = plain_states(model, one_of(batch, row, length), bound)
        torch.testing.assert_close(states[row, : length + 1], plain[::2], atol=1e-5, rtol=1e-4)
        for place in range(4):
            longer = one_of(batch, row, length + 1)
            longer.items[0, length] = items[row, place]
            longer.timestamps[0, length] = batch.timestamps[row, max(0, length - 1)]
            if length:
                longer.timestamps[0, :length] = batch.timestamps[row, :length]
            candidate = plain_states(model, longer, bound)[-2]  # before its own action
            assert model.rank is not None
            torch.testing.assert_close(scores[row, place], model.rank(candidate)[0], atol=1e-5, rtol=1e-4)


def one_of(batch: HistoryBatch, row: int, length: int) -> HistoryBatch:
    """The first ``length`` places of one history, alone, with their codes; zeros behind the batch's end."""
    assert batch.contexts is not None
    return HistoryBatch(
        items=F.pad(batch.items[row : row + 1], (0, 1))[:, : max(1, length)],
        timestamps=F.pad(batch.timestamps[row : row + 1], (0, 1))[:, : max(1, length)],
        lengths=torch.tensor([length]),
        contexts=F.pad(batch.contexts[row : row + 1], (0, 0, 0, 1))[:, : max(1, length)],
    )


def test_an_action_is_heeded_by_what_comes_after_it_alone() -> None:
    model = interleaved()
    batch = coded(tiny.histories([5]))
    assert batch.contexts is not None
    other = replace(batch, contexts=batch.contexts.clone())
    assert other.contexts is not None
    place = VOCABULARY.of_history[0]
    other.contexts[0, 2, place] = (other.contexts[0, 2, place] + 1) % VOCABULARY.sizes[place]
    with torch.no_grad():
        raw = model._tables().raw
        before, after = (model._reader.read(one, raw, remember=False)[0][0] for one in (batch, other))
    changed = (before != after).any(dim=1).tolist()
    assert changed == [False] * 6 + [True] * 5  # the third event's action is position 6


def test_actions_need_a_declared_feature() -> None:
    hstu = RANKED.hstu.model_copy(update={"interleaved": True})
    model = made(settings=RANKED.model_copy(update={"hstu": hstu}))
    with pytest.raises(ConfigurationError, match="no feature of past events is declared"):
        model.encode(tiny.histories([2]))


@torch.no_grad()
def test_long_chunked_attention_equals_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    model = made(settings=RANKED.model_copy(update={"max_length": 600}))
    batch = tiny.histories([600, 5])
    chunked = model.encode(batch).state  # more positions than one piece holds
    monkeypatch.setattr("segue.generative.hstu_layer._QUERIES", 1000)
    torch.testing.assert_close(model.encode(batch).state, chunked, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("code_tower", ["own", "content"])
def test_either_head_may_have_a_tower_of_its_own(code_tower: str) -> None:
    model = made(settings=RANKED.model_copy(update={"code_tower": code_tower}))
    assert isinstance(model.tower, HstuTower)
    assert isinstance(model.code_tower, HstuTower)
    assert (model.code_tower.identity is None) == (code_tower == "content")
    context = model.encode(tiny.histories([3, 6]))
    assert not torch.equal(context.state, context.code_state)
    likelihood = model.log_likelihood(context, torch.arange(24).expand(2, -1))
    torch.testing.assert_close(likelihood.exp().sum(dim=1), torch.ones(2))


@torch.no_grad()
def test_mfalcon_equals_scoring_one_by_one() -> None:
    bound = tiny.items()
    model = made(bound)
    batch = tiny.histories([8, 3, 0])  # a full window, a short history, none
    context, items = model.encode(batch), torch.stack([torch.randperm(24)[:10] for _ in range(3)])
    together = model.mfalcon(context, items, micro_batch=4)
    torch.testing.assert_close(model.mfalcon(context, items), together, atol=1e-5, rtol=1e-4)
    for row, length in enumerate(batch.lengths.tolist()):
        alone = model.encode(tiny.row(batch, row, length))
        for place in range(10):
            one = model.mfalcon(alone, items[row : row + 1, place : place + 1])
            torch.testing.assert_close(one[0, 0], together[row, place], atol=1e-5, rtol=1e-4)
            # By definition: the candidate is the next event, at the time of the last one.
            last = int(batch.timestamps[row, max(0, length - 1)])
            longer = HistoryBatch(
                items=torch.tensor([[*batch.items[row, :length].tolist(), int(items[row, place])]]),
                timestamps=torch.tensor([[*batch.timestamps[row, :length].tolist(), last]]),
                lengths=torch.tensor([length + 1]),
            )
            assert model.rank is not None
            plain = model.rank(plain_states(model, longer, bound)[-1])[0]
            torch.testing.assert_close(together[row, place], plain, atol=1e-5, rtol=1e-4)


def test_the_ranking_head_learns_to_tell_the_target() -> None:
    data, bound = tiny.sequences(48), tiny.items()
    chosen = RANKED.model_copy(
        update={
            "model": "hstu",
            "epochs": 26,
            "learning_rate": 1e-2,
            "dropout": 0.0,
            "dense_weight": 0.0,
            "batch_events": 96,
            "hstu": RANKED.hstu.model_copy(update={"ranking_weight": 1.0, "ranking_negatives": 12}),
        }
    )
    model = train(
        data.training_part(), bound, chosen, validation=None, checkpoints=None, progress=lambda line: None
    ).model
    assert isinstance(model, HstuModel)
    ranks = []
    with torch.no_grad():
        for user, position in data.targets("validation"):
            ids, times = (torch.from_numpy(part[: position + 1].astype("int64")) for part in data.user(user))
            history = HistoryBatch(
                items=ids[None, :-1][:, -8:],
                timestamps=times[None, :-1][:, -8:],
                lengths=torch.tensor([min(8, position)]),
            )
            scores = model.mfalcon(model.encode(history), torch.arange(24).unsqueeze(0))[0]
            ranks.append(int((scores > scores[ids[-1]]).sum()))
    assert sum(ranks) / len(ranks) < 2  # from 0 of 24; chance is 11.5


@torch.no_grad()
def test_scoring_candidates_takes_a_trained_head_and_a_batch() -> None:
    plain = made(settings=tiny.SETTINGS)
    assert "rank" not in plain.loss(tiny.histories([3]))
    with pytest.raises(ConfigurationError, match=r"generative\.hstu\.ranking_weight above 0"):
        plain.mfalcon(plain.encode(tiny.histories([3])), torch.tensor([[1]]))
    model = made()
    with pytest.raises(DataError, match="micro_batch is 0"):
        model.mfalcon(model.encode(tiny.histories([3])), torch.tensor([[1]]), micro_batch=0)
    parts = model.loss(tiny.histories([3, 8]))
    expected = parts["code"] + parts["dense"] * tiny.SETTINGS.dense_weight + 0.5 * parts["rank"]
    torch.testing.assert_close(parts["total"], expected)


@torch.no_grad()
def test_few_drawn_targets_estimate_the_loss_of_all_events() -> None:
    """However unevenly the histories are long: a micro-batch is weighted by its events."""

    def rank(targets: int, draws: int) -> float:
        section = RANKED.hstu.model_copy(update={"ranking_targets": targets, "ranking_negatives": 12})
        model = made(settings=RANKED.model_copy(update={"hstu": section}))
        assert model.rank is not None
        model.rank.weight.mul_(20)  # events must differ for their weights to matter
        torch.manual_seed(0)
        return sum(float(model._ranking_loss(batch)) for _ in range(draws)) / draws

    batch = tiny.histories([8, 1, 1, 1])
    assert rank(1, 1500) == pytest.approx(rank(8, 300), rel=0.03)
