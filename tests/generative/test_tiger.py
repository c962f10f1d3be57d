from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from segue.generative.settings import GenerativeSettings
from segue.generative.tiger import TigerModel, _Attention, _RelativeBias, distance_bucket
from segue.generative.training import train
from segue.paths import Request, user_key
from segue.protocols import BoundItems, HistoryBatch

from . import tiny


def with_targets(count: int, **tiger: int) -> GenerativeSettings:
    section = tiny.SETTINGS.tiger.model_copy(update={"targets": count} | tiger)
    return tiny.SETTINGS.model_copy(update={"tiger": section})


def made(bound: BoundItems | None = None, settings: GenerativeSettings = tiny.SETTINGS) -> TigerModel:
    model = tiny.named("tiger", bound, settings)
    assert isinstance(model, TigerModel)
    return model


@torch.no_grad()
def test_the_loss_equals_a_plain_reference() -> None:
    """Event by event, code by code, from the definition; as many targets as events make it exact."""
    bound = tiny.items(retired=(2,))
    # Few buckets, so that these short sequences reach the logarithmic ones.
    model = made(bound, with_targets(8, relative_buckets=8, relative_distance=12))
    batch = tiny.histories([6, 1, 8])
    losses = []
    for row, length in enumerate(batch.lengths.tolist()):
        for place in range(length):
            target = int(batch.items[row, place])
            if bound.active[target]:
                losses.append(plain_loss(model, bound, batch.items[row, :place].tolist(), target))
    loss = model.loss(batch)
    assert float(loss["code"]) == pytest.approx(sum(losses) / len(losses), abs=1e-4)
    assert float(loss["total"]) == float(loss["code"])


def plain_loss(model: TigerModel, bound: BoundItems, history: list[int], target: int) -> float:
    """-log P(target | history): every token a row, every head and pair of tokens on its own."""
    said = [bound.codes[target, level] for level in range(len(tiny.SIZES))]

    def token(code: Tensor, level: int) -> Tensor:
        return model.codes[level].weight[code] + model.levels[level]

    read = [model.read_start]
    for item in history:
        read += [token(bound.codes[item, level], level) for level in range(len(tiny.SIZES))]
    hidden = torch.stack(read)
    for layer in model.encoder:
        hidden = hidden + mixed(layer.within, layer.norm(hidden), layer.norm(hidden), model.encoder_bias)
        hidden = layer.feed_forward(hidden)
    memory = model.encoder_norm(hidden)

    hidden = torch.stack([model.speak_start, *(token(said[level], level) for level in range(len(said) - 1))])
    for layer in model.decoder:
        hidden = hidden + mixed(layer.within, layer.norm(hidden), layer.norm(hidden), model.decoder_bias)
        hidden = hidden + mixed(layer.across, layer.norm_across(hidden), memory, None)
        hidden = layer.feed_forward(hidden)
    states = model.decoder_norm(hidden)

    total = 0.0
    active = bound.codes[bound.active]
    for level, code in enumerate(said):
        same = (active[:, :level] == bound.codes[target, :level]).all(dim=1)
        exist = sorted(set(active[same, level].tolist()))
        logits = model.out[level].weight[exist] @ states[level]
        total -= float(logits.log_softmax(dim=0)[exist.index(int(code))])
    return total


def mixed(attention: _Attention, asks: Tensor, read: Tensor, bias: _RelativeBias | None) -> Tensor:
    """Attention of rows ``asks`` over rows ``read``, as a sum of numbers."""
    width = asks.shape[1] // attention.heads
    query = asks @ attention.query.weight.T
    key, value = (read @ attention.key_value.weight.T).chunk(2, dim=1)
    heads = []
    for head in range(attention.heads):
        part, rows = slice(head * width, (head + 1) * width), []
        for place in range(len(asks)):
            seen = place + 1 if bias is not None and bias.causal else len(read)
            scores = key[:seen, part] @ query[place, part] / math.sqrt(width)
            if bias is not None:
                scores = scores + torch.stack([plain_bias(bias, place, other)[head] for other in range(seen)])
            rows.append(scores.softmax(dim=0) @ value[:seen, part])
        heads.append(torch.stack(rows))
    return torch.cat(heads, dim=1) @ attention.out.weight.T


def plain_bias(bias: _RelativeBias, place: int, other: int) -> Tensor:
    """Raffel et al. 2020: half of a way's buckets for one distance each, the rest logarithmic."""
    count = bias.buckets if bias.causal else bias.buckets // 2
    distance, exact = abs(place - other), count // 2
    bucket = distance
    if distance >= exact:
        share = math.log(distance / exact) / math.log(bias.farthest / exact)
        bucket = min(count - 1, exact + int(share * (count - exact)))
    return bias.table.weight[bucket + (0 if bias.causal or other <= place else count)]


@torch.no_grad()
def test_a_batch_that_is_read_in_parts_has_the_loss_of_its_histories(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = [1 + row % 8 for row in range(60)]  # 270 events, of histories of 0 to 7
    batch, model = tiny.histories(lengths), made(settings=with_targets(8))
    alone = [
        HistoryBatch(items=items, timestamps=timestamps, lengths=length)
        for items, timestamps, length in zip(
            batch.items.split(1), batch.timestamps.split(1), batch.lengths.split(1), strict=True
        )
    ]
    each = [float(model.loss(one)["code"]) for one in alone]
    shapes, encode = [], model.encode

    def seen(histories: HistoryBatch) -> object:
        shapes.append(tuple(histories.items.shape))
        return encode(histories)

    monkeypatch.setattr(model, "encode", seen)
    assert float(model.loss(batch)["code"]) == pytest.approx(np.average(each, weights=lengths), abs=1e-4)
    # 270 events are filled up to 384; the shortest histories come first, and are read without the padding of the longest.
    assert [rows for rows, _ in shapes] == [96] * 4
    assert [width for _, width in shapes] == sorted(width for _, width in shapes)
    assert sum(width for _, width in shapes) < 4 * 7 * 0.7


@torch.no_grad()
def test_a_batch_that_teaches_nothing_has_no_loss() -> None:
    assert float(made().loss(tiny.histories([0, 0]))["code"]) == 0


@given(st.integers(2, 64), st.integers(2, 500), st.integers(0, 2000))
def test_buckets_never_shrink_and_never_run_out(buckets: int, farthest: int, distance: int) -> None:
    near, far = distance_bucket(torch.tensor([distance, distance + 1]), buckets, farthest).tolist()
    assert 0 <= near <= far <= near + 1 or near < far
    assert far <= buckets - 1
    if distance < buckets // 2:
        assert near == distance


@torch.no_grad()
def test_drawn_targets_estimate_the_loss_over_all_events() -> None:
    """Long histories count for all their events, though as few are drawn from them as from short ones."""
    batch = tiny.histories([8, 1, 5, 0])
    whole = float(made(settings=with_targets(8)).loss(batch)["code"])
    model = made(settings=with_targets(2))
    torch.manual_seed(5)
    drawn = [float(model.loss(batch)["code"]) for _ in range(400)]
    assert len(set(drawn)) > 10
    mean, deviation = sum(drawn) / 400, torch.tensor(drawn).std() / 20
    assert abs(mean - whole) < 4 * float(deviation)
    torch.manual_seed(5)
    assert float(model.loss(batch)["code"]) == drawn[0]


@torch.no_grad()
def test_every_level_is_read_and_spoken_the_last_one_too() -> None:
    """The property that the module names: two items that differ in their last code alone are different input."""
    bound = tiny.items()
    model = made(bound)
    first = bound.codes[:, :2]
    pairs = [(a, b) for a in range(24) for b in range(a) if torch.equal(first[a], first[b])]
    assert pairs
    for table in (model.codes, model.out):
        assert len(table) == len(tiny.SIZES)
    batch = tiny.histories([1, 1])
    batch.items[:, 0] = torch.tensor(pairs[0])
    one, other = model.log_likelihood(model.encode(batch), torch.arange(24).expand(2, -1))
    assert float((one - other).abs().max()) > 1e-4


@torch.no_grad()
def test_user_tokens_are_for_those_who_want_them() -> None:
    bare = made()
    assert bare.users is None
    model = made(settings=with_targets(8, user_tokens=5))
    batch, everything = tiny.histories([3, 3]), torch.arange(24).expand(2, -1)
    same = HistoryBatch(
        items=batch.items[:1].expand(2, -1),
        timestamps=batch.timestamps[:1].expand(2, -1),
        lengths=batch.lengths,
    )

    def asked(model: TigerModel, *users: int) -> Tensor:
        return model.log_likelihood(model.encode(replace(same, users=torch.tensor(users))), everything)

    one, other = asked(model, 7, 8)
    assert float((one - other).abs().max()) > 1e-3
    torch.testing.assert_close(asked(model, 7, 12)[1], one)  # hashed to the same token
    nobody = model.log_likelihood(model.encode(same), everything)
    torch.testing.assert_close(asked(model, -1, -1), nobody)
    torch.testing.assert_close(asked(bare, 7, 8)[0], asked(bare, 7, 8)[1])
    whose = replace(same, users=torch.tensor([7, 8]))
    joined = model.append(model.encode(whose), tiny.histories([2, 2]))
    assert joined.histories.users is not None
    assert joined.histories.users.tolist() == [7, 8]
    assert float(model.loss(whose)["code"]) != float(model.loss(same)["code"])
    model.users.weight.zero_()  # type: ignore[union-attr]  # as an untrained token is: it adds nothing
    torch.testing.assert_close(asked(model, 7, 8), nobody)


def test_user_tokens_are_trained_and_served_by_the_same_hash() -> None:
    data, bound = tiny.sequences(12), tiny.items()
    chosen = with_targets(4, user_tokens=1000).model_copy(update={"model": "tiger", "epochs": 3})
    trained = train(
        data.training_part(), bound, chosen, validation=None, checkpoints=None, progress=lambda line: None
    )
    assert isinstance(trained.model, TigerModel)
    assert trained.model.users is not None
    touched = trained.model.users.weight.detach().abs().amax(dim=1).nonzero().flatten().tolist()
    assert touched == sorted({user_key(user) % 1000 for user in data.user_ids})
    nothing = np.array([], dtype=np.int64)
    asked = [Request(history=nothing, timestamps=nothing, user_id=user) for user in ("u3", None)]
    batch = HistoryBatch.from_requests(asked, 8)
    assert batch.users is not None
    assert batch.users.tolist() == [user_key("u3"), -1]
