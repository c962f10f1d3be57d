from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segue.errors import ConfigurationError, DataError
from segue.generative.cobra import CobraModel, beam_fusion
from segue.generative.contrastive import catalogue_cross_entropy
from segue.protocols import BoundItems

from . import tiny
from .test_house import turned

K = len(tiny.SIZES) - 1


def made(bound: BoundItems | None = None) -> CobraModel:
    model = tiny.named("cobra", bound)
    assert isinstance(model, CobraModel)
    return model


def plain_vector(model: CobraModel, bound: BoundItems, item: int) -> Tensor:
    vector = bound.vectors[item] / bound.vectors[item].norm() * math.sqrt(len(bound.vectors[item]))
    return F.normalize(model.dense_encoder(vector if bound.present[item] else model.missing), dim=0)


def plain_states(model: CobraModel, bound: BoundItems, history: list[int], prefix: list[int]) -> Tensor:
    """[1 + T (K + 1) + l, d]: one sequence of tokens, one head at a time, attention by definition."""
    rows = [model.start]

    def say(codes: list[int]) -> None:
        for level, code in enumerate(codes):
            rows.append(model.codes[level].weight[code] + model.kinds[level])

    for item in history:
        say(bound.codes[item, :K].tolist())
        rows.append(model.read_dense(plain_vector(model, bound, item)) + model.kinds[K])
    say(prefix)
    hidden = torch.stack(rows)
    width = hidden.shape[1] // model.settings.heads
    for block in model.blocks:
        query, key, value = block.qkv(block.before_attention(hidden)).chunk(3, dim=-1)
        heads = []
        for head in range(model.settings.heads):
            part = slice(head * width, (head + 1) * width)
            q, k = turned(query[:, part]), turned(key[:, part])
            heads.append(
                torch.stack(
                    [
                        torch.softmax(k[: place + 1] @ q[place] / math.sqrt(width), dim=0)
                        @ value[: place + 1, part]
                        for place in range(len(hidden))
                    ]
                )
            )
        hidden = hidden + block.out(torch.cat(heads, dim=-1))
        hidden = hidden + block.mlp(block.before_mlp(hidden))
    states: Tensor = model.norm(hidden)
    return states


def plain_factors(model: CobraModel, bound: BoundItems, history: list[int], item: int) -> tuple[float, float]:
    """log P(ID | history) and log P(item | ID, history)."""
    codes, active = bound.codes[item].tolist(), bound.codes[bound.active]
    sparse = 0.0
    for level in range(K):
        state = plain_states(model, bound, history, codes[:level])[-1]
        same = (active[:, :level] == bound.codes[item, :level]).all(dim=1)
        exist = sorted(set(active[same, level].tolist()))
        logits = model.say_code[level](state)[exist]
        sparse += float(logits.log_softmax(dim=0)[exist.index(codes[level])])
    siblings = [
        other
        for other in range(len(bound.codes))
        if bound.active[other] and bound.codes[other, :K].tolist() == codes[:K]
    ]
    user = F.normalize(model.dense_after_codes(plain_states(model, bound, history, codes[:K])[-1]), dim=0)
    cosines = torch.stack([user @ plain_vector(model, bound, other) for other in siblings])
    dense = (cosines / model.settings.dense_temperature).log_softmax(dim=0)
    return sparse, float(dense[siblings.index(item)])


@torch.no_grad()
def test_likelihoods_equal_a_plain_reference() -> None:
    bound = tiny.items(retired=(2,), absent=(6,))
    model = made(bound)
    batch = tiny.histories([4, 0])
    items = [item for item in range(0, 24, 3) if bound.active[item]]
    found = model.log_likelihood(model.encode(batch), torch.tensor([items, items]))
    for row, length in enumerate(batch.lengths.tolist()):
        for place, item in enumerate(items):
            expected = sum(plain_factors(model, bound, batch.items[row, :length].tolist(), item))
            assert float(found[row, place]) == pytest.approx(expected, abs=1e-4)


@torch.no_grad()
def test_the_loss_equals_a_plain_reference() -> None:
    bound = tiny.items(retired=(2,))
    model = made(bound)
    batch = tiny.histories([5, 1, 3])
    active = torch.nonzero(bound.active).flatten().tolist()
    sums, count = {"code": 0.0, "dense": 0.0, "retrieval": 0.0}, 0
    vectors = torch.stack([plain_vector(model, bound, item) for item in active])
    for row, length in enumerate(batch.lengths.tolist()):
        for place in range(length):
            target, history = int(batch.items[row, place]), batch.items[row, :place].tolist()
            if target not in active:
                continue
            count += 1
            sums["code"] -= plain_factors(model, bound, history, target)[0]
            for name, projection, prefix in (
                ("dense", model.dense_after_codes, bound.codes[target, :K].tolist()),
                ("retrieval", model.dense_after_history, []),
            ):
                user = F.normalize(projection(plain_states(model, bound, history, prefix)[-1]), dim=0)
                scores = vectors @ user / model.settings.dense_temperature
                sums[name] -= float(scores.log_softmax(dim=0)[active.index(target)])
    loss = model.loss(batch)
    for name, value in sums.items():
        assert float(loss[name]) == pytest.approx(value / count, abs=1e-4), name
    assert float(loss["total"]) == pytest.approx(sum(sums.values()) / count, abs=1e-3)


@torch.no_grad()
def test_the_dense_vector_follows_the_codes() -> None:
    bound = tiny.items()
    model = made(bound)
    batch = tiny.histories([4, 2])
    context = model.encode(batch)
    prefix = bound.codes[:3, :K].expand(2, -1, -1)
    found = model.user_vectors(context, prefix)
    assert found.shape == (2, 3, 16)
    for row, length in enumerate(batch.lengths.tolist()):
        for beam in range(3):
            state = plain_states(model, bound, batch.items[row, :length].tolist(), prefix[row, beam].tolist())
            plain = F.normalize(model.dense_after_codes(state[-1]), dim=0) / model.settings.dense_temperature
            torch.testing.assert_close(found[row, beam], plain, atol=1e-4, rtol=1e-4)
    assert float((found[:, 0] - found[:, 1]).abs().max()) > 1e-3
    with pytest.raises(DataError, match="a prefix of 1 codes was given: a dense vector follows 2"):
        model.user_vectors(context, prefix[..., :1])


def test_without_a_dense_loss_there_is_no_last_level() -> None:
    with pytest.raises(ConfigurationError, match=r"generative\.dense_weight is 0: COBRA tells"):
        tiny.named("cobra", settings=tiny.SETTINGS.model_copy(update={"dense_weight": 0.0}))


def test_beam_fusion_is_the_product_of_two_softmaxes() -> None:
    generator = torch.Generator().manual_seed(0)
    beam, cosine = torch.randn(2, 3, generator=generator), torch.rand(2, 3, 4, generator=generator)
    exists = torch.rand(2, 3, 4, generator=generator) > 0.3
    exists[..., 0] = True
    found = beam_fusion(beam, cosine, exists, tau=0.7, psi=9.0).exp()
    for row in range(2):
        over_beam = sum(math.exp(0.7 * float(beam[row, k])) for k in range(3))
        for k in range(3):
            over_items = sum(math.exp(9 * float(cosine[row, k, i])) for i in range(4) if exists[row, k, i])
            for i in range(4):
                plain = 0.0
                if exists[row, k, i]:
                    plain = math.exp(0.7 * float(beam[row, k])) / over_beam
                    plain *= math.exp(9 * float(cosine[row, k, i])) / over_items
                assert float(found[row, k, i]) == pytest.approx(plain, abs=1e-6)


@torch.no_grad()
def test_fused_scores_are_beam_fusion_over_the_candidates_ids() -> None:
    bound = tiny.items(retired=(5,))
    model = made(bound)
    batch = tiny.histories([4])
    context = model.encode(batch)
    items = torch.tensor([[0, 9, 5, 17, 3, 20, 11, 2, 14, 8, 21, 6, 1]])
    history = batch.items[0, :4].tolist()
    kept = [item for item in items[0].tolist() if item != 5]
    factors = {item: plain_factors(model, bound, history, item) for item in kept}
    ids = {tuple(bound.codes[item, :K].tolist()): factors[item][0] for item in kept}
    assert len(ids) < len(kept)  # an ID counts once, however many of its items are candidates
    for tau in (1.0, 0.3):
        mass = sum(math.exp(tau * value) for value in ids.values())
        found = model.fused_scores(context, items, tau=tau)[0]
        for place, item in enumerate(items[0].tolist()):
            if item == 5:
                assert float(found[place]) == -math.inf
                continue
            expected = tau * factors[item][0] - math.log(mass) + factors[item][1]
            assert float(found[place]) == pytest.approx(expected, abs=1e-4)
    # Over the whole catalogue, tau = 1 is the likelihood itself.
    everything = torch.arange(24).unsqueeze(0)
    torch.testing.assert_close(
        model.fused_scores(context, everything),
        model.log_likelihood(context, everything),
        atol=1e-5,
        rtol=1e-5,
    )


@torch.no_grad()
def test_gathering_leaves_equals_scoring_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    model, everything = made(), torch.arange(24).unsqueeze(0)
    usual = model.log_likelihood(model.encode(tiny.histories([5])), everything)
    monkeypatch.setattr("segue.generative.cobra._LEAVES_A_CHILD", 0)
    gathered = model.log_likelihood(model.encode(tiny.histories([5])), everything)
    torch.testing.assert_close(usual, gathered, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_items_below_an_id_are_told_apart_by_content_alone() -> None:
    """So an inserted item needs no parameter of its own: with its neighbour's vector it is its neighbour's equal."""
    bound = tiny.items()
    first = bound.codes[:, :K]
    one, other = next((a, b) for a in range(24) for b in range(a) if torch.equal(first[a], first[b]))
    bound.vectors[one] = bound.vectors[other]
    model = made(bound)
    found = model.log_likelihood(model.encode(tiny.histories([6])), torch.tensor([[one, other]]))[0]
    torch.testing.assert_close(found[0], found[1])


def test_sampled_negatives_estimate_the_full_softmax(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(50, 4, generator=generator)
    users, targets = torch.randn(6, 4, generator=generator), torch.tensor([1, 3, 8, 20, 30, 44])
    active = torch.tensor([item for item in range(50) if item != 2])
    full = catalogue_cross_entropy(users, vectors, active, targets)
    for row, target in enumerate(targets.tolist()):
        plain = torch.logsumexp(vectors[active] @ users[row], dim=0) - vectors[target] @ users[row]
        torch.testing.assert_close(full[row], plain)
    monkeypatch.setattr("segue.generative.contrastive._FULL_ITEMS", 0)
    torch.manual_seed(0)
    sampled = torch.stack([catalogue_cross_entropy(users, vectors, active, targets) for _ in range(500)])
    torch.testing.assert_close(sampled.mean(dim=0), full, rtol=0.1, atol=0.1)
