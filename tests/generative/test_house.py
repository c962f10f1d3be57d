from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from segue.decoding.trie import mixed_radix
from segue.errors import BindingError
from segue.generative.house import HouseModel
from segue.protocols import BoundItems, GenerativeRecommender, HistoryBatch

from . import tiny


@torch.no_grad()
def test_likelihoods_are_the_product_of_the_steps_and_sum_to_one() -> None:
    bound = tiny.items(retired=(3, 7), absent=(5,))
    model = tiny.model(bound)
    assert isinstance(model, GenerativeRecommender)
    context = model.encode(tiny.histories([0, 3, 8]))
    likelihood = model.log_likelihood(context, torch.arange(24).expand(3, -1))
    steps = torch.zeros(3, 24)
    for level in range(3):
        prefix = bound.codes[:, :level].expand(3, -1, -1)
        step = model.next_code_log_probs(context, prefix)
        steps += step.gather(-1, bound.codes[:, level].expand(3, -1).unsqueeze(-1)).squeeze(-1)
    active = bound.active
    torch.testing.assert_close(likelihood[:, active], steps[:, active], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(likelihood.exp().sum(dim=1), torch.ones(3))
    assert bool(likelihood[:, ~active].isneginf().all())


@torch.no_grad()
def test_next_codes_are_normalised_over_the_children_that_exist() -> None:
    model = tiny.model(tiny.items(10))
    context = model.encode(tiny.histories([4], 10))
    first = model.next_code_log_probs(context, torch.zeros(1, 1, 0, dtype=torch.int64))
    torch.testing.assert_close(first.exp().sum(dim=-1), torch.ones(1, 1))
    nowhere = model.next_code_log_probs(context, torch.tensor([[[99, 0]]]))
    assert bool(nowhere.isneginf().all())


@given(st.integers(0, 8), st.integers(0, 8), st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_appending_equals_encoding_the_longer_history(before: int, after: int, seed: int) -> None:
    model = tiny.model()
    first, second = tiny.histories([before, 2], seed=seed), tiny.histories([after, 1], seed=seed + 1)
    joined = model.append(model.encode(first), second)
    for row in range(2):
        ids = [*first.items[row, : first.lengths[row]], *second.items[row, : second.lengths[row]]]
        times = [*first.timestamps[row, : first.lengths[row]], *second.timestamps[row, : second.lengths[row]]]
        window = model.max_length
        whole = HistoryBatch(
            items=torch.tensor([ids[-window:] or [0]]),
            timestamps=torch.tensor([times[-window:] or [0]]),
            lengths=torch.tensor([min(len(ids), window)]),
        )
        with torch.no_grad():
            torch.testing.assert_close(joined.state[row], model.encode(whole).state[0], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_batch_a_history_stands_in_changes_nothing() -> None:
    model = tiny.model()
    batch = tiny.histories([1, 5, 8, 0])
    together = model.encode(batch).state
    for row, length in enumerate(batch.lengths.tolist()):
        width = max(1, length)
        alone = HistoryBatch(
            items=batch.items[row : row + 1, :width],
            timestamps=batch.timestamps[row : row + 1, :width],
            lengths=batch.lengths[row : row + 1],
        )
        torch.testing.assert_close(model.encode(alone).state[0], together[row], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_loss_equals_a_plain_reference() -> None:
    """Event by event, from the definition: what precedes it is encoded alone, then both heads are asked."""
    bound = tiny.items(retired=(2,))
    as_defined = tiny.SETTINGS.model_copy(update={"dropout": 0.0, "identity_dropout": 0.0})
    model = tiny.model(
        bound, as_defined
    ).train()  # when serving, the retired item has neighbours (test_neighbours.py)
    batch = tiny.histories([6, 1, 8])
    code, dense, count = 0.0, 0.0, 0
    for row, length in enumerate(batch.lengths.tolist()):
        for position in range(length):
            target = int(batch.items[row, position])
            if not bound.active[target]:
                continue
            before = HistoryBatch(
                items=batch.items[row : row + 1, : max(1, position)],
                timestamps=batch.timestamps[row : row + 1, : max(1, position)],
                lengths=torch.tensor([position]),
            )
            state = plain_state(model, before, bound)
            torch.testing.assert_close(model.encode(before).state[0], state, atol=1e-5, rtol=1e-4)
            code -= float(model.log_likelihood(model.encode(before), torch.tensor([[target]])))
            user = F.normalize(state, dim=-1) / model.settings.dense_temperature
            scores = (model.item_vectors() @ user)[bound.active]
            place = int((torch.nonzero(bound.active).flatten() == target).nonzero())
            dense -= float(scores.log_softmax(dim=0)[place])
            count += 1
    loss = model.loss(batch)
    assert float(loss["code"]) == pytest.approx(code / count, abs=1e-4)
    assert float(loss["dense"]) == pytest.approx(dense / count, abs=1e-4)
    assert float(loss["total"]) == pytest.approx((code + dense) / count, abs=1e-3)


def plain_state(model: HouseModel, history: HistoryBatch, bound: BoundItems) -> Tensor:
    """The encoder in plain loops: one history, one head at a time, attention by definition."""
    settings, tower, length = model.settings, model.tower, int(history.lengths[0])
    width = settings.dimensions // settings.heads
    rows = [tower.start]
    for position in range(length):
        item = int(history.items[0, position])
        row = plain_sum(model, item, bound) * math.sqrt(settings.dimensions)
        gap = int(history.timestamps[0, position] - history.timestamps[0, position - 1]) if position else 0
        rows.append(row + tower.gaps.weight[min(31, int(math.log2(gap + 1)))])
    hidden = torch.stack(rows)
    for block in tower.blocks:
        qkv = block.qkv(block.before_attention(hidden))
        query, key, value = qkv.chunk(3, dim=-1)
        heads = []
        for head in range(settings.heads):
            part = slice(head * width, (head + 1) * width)
            q, k = turned(query[:, part]), turned(key[:, part])
            mixed = []
            for position in range(length + 1):
                weight = torch.softmax(k[: position + 1] @ q[position] / math.sqrt(width), dim=0)
                mixed.append(weight @ value[: position + 1, part])
            heads.append(torch.stack(mixed))
        hidden = hidden + block.out(torch.cat(heads, dim=-1))
        hidden = hidden + block.mlp(block.before_mlp(hidden))
    state: Tensor = tower.norm(hidden)[length]
    return state


def turned(rows: Tensor) -> Tensor:
    """Rotary positions as complex numbers: entry pair j of row t is multiplied by exp(i t / 10000^(2 j /
    width))."""
    half = rows.shape[1] // 2
    numbers = torch.complex(rows[:, :half], rows[:, half:])
    angle = torch.arange(len(rows)).unsqueeze(1) * 10_000 ** (-torch.arange(half) / half)
    numbers = numbers * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([numbers.real, numbers.imag], dim=-1)


def plain_sum(model: HouseModel, item: int, bound: BoundItems) -> Tensor:
    """[d] from the definition: content, the codes that mean something, and the item's identity."""
    vector = bound.vectors[item] / bound.vectors[item].norm() * math.sqrt(len(bound.vectors[item]))
    row: Tensor = model.tower.content(vector * model.settings.content_scale)
    for level, table in enumerate(model.tower.codes):
        row = row + table.weight[bound.codes[item, level]]
    key = mixed_radix(bound.codes[item], bound.level_sizes)
    if bool((model.identity_keys == key).any()):
        assert model.tower.identity is not None
        row = row + model.tower.identity[int((model.identity_keys == key).nonzero())]
    return row


def plain_item(model: HouseModel, item: int, bound: BoundItems) -> Tensor:
    return F.normalize(plain_sum(model, item, bound), dim=0)


@torch.no_grad()
def test_a_node_is_the_mean_of_the_items_below_it() -> None:
    bound = tiny.items(retired=(2,))
    model = tiny.model(bound)
    context = model.encode(tiny.histories([5]))
    for depth in range(len(tiny.SIZES)):
        for prefix in {tuple(row) for row in bound.codes[bound.active][:, :depth].tolist()}:
            below = bound.active & (bound.codes[:, :depth] == torch.tensor(prefix)).all(dim=1)
            parent = None
            if depth:
                node = torch.stack([plain_item(model, i, bound) for i in below.nonzero().flatten().tolist()])
                node = node.mean(dim=0) + model.node_codes[depth - 1].weight[prefix[-1]]
                parent = model.parent_projections[depth - 1](node)
            query = model.head(context.state[0], parent, depth) * model.code_scales[depth].exp()
            logits = torch.full((tiny.SIZES[depth],), -torch.inf)
            for code in set(bound.codes[below][:, depth].tolist()):
                own = below & (bound.codes[:, depth] == code)
                mean = torch.stack([plain_item(model, i, bound) for i in own.nonzero().flatten().tolist()])
                vector = mean.mean(dim=0)
                if depth < len(tiny.SIZES) - 1:
                    vector = vector + model.node_codes[depth].weight[code]
                logits[code] = query @ vector + model.count_weights[depth] * math.log(int(own.sum()))
            found = model.next_code_log_probs(context, torch.tensor([[prefix]], dtype=torch.int64))
            torch.testing.assert_close(found[0, 0], logits.log_softmax(dim=0), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_gathering_children_equals_scoring_all_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = tiny.histories([5, 8])
    usual = tiny.model().loss(batch)
    monkeypatch.setattr("segue.generative.house._ALL_NODES", 0)
    gathered = tiny.model().loss(batch)
    torch.testing.assert_close(usual["code"], gathered["code"])


@pytest.mark.parametrize("rows", [1, 3, 64])
def test_how_many_rows_are_scored_at_once_changes_nothing(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    batch, model = tiny.histories([5, 8, 1]), tiny.model(tiny.items(retired=(4,)))
    usual = model.loss(batch)["code"]
    monkeypatch.setattr("segue.generative.house._ROWS", rows)
    few = model.loss(batch)["code"]
    torch.testing.assert_close(few, usual)
    for left, right in zip(
        torch.autograd.grad(usual, model.tower.content.parameters()),
        torch.autograd.grad(few, model.tower.content.parameters()),
        strict=True,
    ):
        torch.testing.assert_close(left, right)


@torch.no_grad()
def test_sampled_negatives_estimate_the_full_softmax(monkeypatch: pytest.MonkeyPatch) -> None:
    """With as many draws as the estimate takes, and each counted by log((N - 1) / n), both losses agree."""
    model, batch = tiny.model(), tiny.histories([8] * 8)
    full = float(model.loss(batch)["dense"])
    monkeypatch.setattr("segue.generative.contrastive._FULL_ITEMS", 0)
    torch.manual_seed(0)
    sampled = [float(model.loss(batch)["dense"]) for _ in range(200)]
    assert sum(sampled) / len(sampled) == pytest.approx(full, rel=0.1)


def test_another_codebook_is_refused() -> None:
    model, bound = tiny.model(), tiny.items()
    other = BoundItems(
        codebook_id="d" * 64,
        level_sizes=bound.level_sizes,
        codes=bound.codes,
        vectors=bound.vectors,
        present=bound.present,
        active=bound.active,
    )
    with pytest.raises(BindingError, match="bind an item map of the model's codebook"):
        model.bind(other)
    narrow = BoundItems(
        codebook_id=bound.codebook_id,
        level_sizes=bound.level_sizes,
        codes=bound.codes,
        vectors=bound.vectors[:, :2],
        present=bound.present,
        active=bound.active,
    )
    with pytest.raises(BindingError, match="content of 6 dimensions"):
        model.bind(narrow)


@torch.no_grad()
def test_later_revisions_bind_to_the_same_weights() -> None:
    model = tiny.model(tiny.items(24))
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    before = model.item_vectors()
    model.bind(tiny.items(30, retired=(1,)))
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    torch.testing.assert_close(model.item_vectors()[:24], before)
    # What was inserted is spoken as what is near it in content.
    content = F.normalize(tiny.items(30).vectors, dim=-1)
    for item in range(24, 30):
        cosines, nearest = (content[:24] @ content[item]).topk(20)
        mean = (cosines / 0.1).softmax(dim=0) @ before[nearest]
        torch.testing.assert_close(model.item_vectors()[item], mean * mean.norm() ** (1 / 3 - 1))
    context = model.encode(tiny.histories([3], 30))
    likelihood = model.log_likelihood(context, torch.arange(30).unsqueeze(0))
    torch.testing.assert_close(likelihood.exp().sum(), torch.tensor(1.0))
    assert bool(likelihood[0, 24:].isfinite().all())


def test_codes_that_nothing_trained_add_nothing() -> None:
    """An inserted item may have a code no item had: what it is read and spoken by must be trained, or
    zero."""
    bound = tiny.items(12)
    from segue.generative.store import new_model
    from segue.training.loop import FitSettings, fit

    unused = sorted(set(range(tiny.SIZES[0])) - set(bound.codes[:, 0].tolist()))
    few = bound.codes[:, 0] != 0  # leave code 0 of the first level out as well
    chosen = BoundItems(
        codebook_id=bound.codebook_id,
        level_sizes=bound.level_sizes,
        codes=bound.codes[few],
        vectors=bound.vectors[few],
        present=bound.present[few],
        active=bound.active[few],
    )
    model = new_model(tiny.SETTINGS, chosen)
    assert isinstance(model, HouseModel)
    model.adopt(torch.arange(int(few.sum())) > 0)
    assert model.tower.identity is not None
    assert len(model.tower.identity) == int(few.sum()) - 1
    fit(
        model,
        batches=lambda epoch: [tiny.histories([5, 6, 7], int(few.sum()), seed=epoch)],
        loss=model.loss,
        validate=None,
        settings=FitSettings(epochs=3, learning_rate=1e-2, weight_decay=0.01, precision="fp32", threads=1),
        checkpoints=None,
        progress=lambda line: None,
    )
    for tables in (model.node_codes, model.tower.codes):
        assert len(tables) == len(tiny.SIZES) - 1  # none for the level that only tells neighbours apart
        for code in {0, *unused}:
            assert float(tables[0].weight[code].detach().abs().max()) == 0
        assert float(tables[0].weight.detach().abs().max()) > 0


@torch.no_grad()
def test_an_identity_is_left_out_as_often_as_the_settings_say() -> None:
    """Without it an item is its content and codes: what an inserted item has."""
    settings = tiny.SETTINGS.model_copy(update={"identity_dropout": 0.25, "dropout": 0.0})
    model = tiny.model(settings=settings)
    whole = model.item_vectors()
    bare = tiny.model(settings=settings)
    assert bare.tower.identity is not None
    bare.tower.identity.zero_()
    without = bare.item_vectors()
    torch.manual_seed(0)
    model.train()
    left_out = torch.zeros(len(whole))
    for _ in range(400):
        vectors = model.item_vectors()
        is_bare = torch.isclose(vectors, without, atol=1e-5).all(dim=1)
        assert bool((is_bare | torch.isclose(vectors, whole, atol=1e-5).all(dim=1)).all())
        left_out += is_bare.float()
    assert float(left_out.mean()) / 400 == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("code_tower", ["own", "content"])
def test_the_code_head_may_have_a_tower_of_its_own(code_tower: str) -> None:
    """What one head learns then leaves the other alone, and the steps still multiply to a distribution."""
    model = tiny.model(settings=tiny.SETTINGS.model_copy(update={"code_tower": code_tower}))
    batch = tiny.histories([3, 6])
    parts = model.loss(batch)
    parts["dense"].backward()  # type: ignore[no-untyped-call]
    assert model.code_tower is not None
    assert all(p.grad is None for p in model.code_tower.parameters())
    assert (model.code_tower.identity is None) == (code_tower == "content")
    model.loss(batch)["code"].backward()  # type: ignore[no-untyped-call]
    assert model.code_tower.content.weight.grad is not None
    with torch.no_grad():
        likelihood = model.log_likelihood(model.encode(batch), torch.arange(24).expand(2, -1))
    torch.testing.assert_close(likelihood.exp().sum(dim=1), torch.ones(2))


def test_weights_of_more_items_are_loaded_into_a_new_model() -> None:
    model = tiny.model()
    other = HouseModel(
        tiny.SETTINGS, codebook_id=model.codebook_id, level_sizes=tiny.SIZES, content_dimensions=6
    ).eval()
    other.bind(tiny.items())
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(other.item_vectors(), model.item_vectors())


def test_an_unbound_model_says_so() -> None:
    model = HouseModel(tiny.SETTINGS, codebook_id="c" * 64, level_sizes=tiny.SIZES, content_dimensions=6)
    with pytest.raises(BindingError, match="call bind first"):
        model.encode(tiny.histories([1]))


@pytest.mark.parametrize(
    ("code_tower", "dense_tower", "experts"),
    [
        ("shared", "described", ("dense",)),
        ("own", "described", ("dense",)),
        ("content", "described", ("dense",)),
        ("own", "described", ("dense", "pooled")),
        ("content", "described", ("dense", "dense_code")),
        ("own", "identities", ("dense", "dense_code", "pooled")),
    ],
)
@torch.no_grad()
def test_what_is_learnt_is_what_is_asked_when_serving(
    code_tower: str, dense_tower: str, experts: tuple[str, ...]
) -> None:
    """The losses, from serving's own calls on each prefix of the histories; each of the dense head's experts has its own."""
    bound = tiny.items(retired=(2,))
    chosen = {
        "code_tower": code_tower,
        "dense_tower": dense_tower,
        "code_tower_scores": "dense_code" in experts,
        "pooled_tower": "pooled" in experts,
    }
    model = tiny.model(bound, tiny.SETTINGS.model_copy(update=chosen))
    batch = tiny.histories([6, 1, 8])
    code: list[float] = []
    dense: dict[str, list[float]] = {name: [] for name in experts}
    for row, length in enumerate(batch.lengths.tolist()):
        for position in range(length):
            if not bound.active[target := int(batch.items[row, position])]:
                continue
            before = HistoryBatch(
                items=batch.items[row : row + 1, : max(1, position)],
                timestamps=batch.timestamps[row : row + 1, : max(1, position)],
                lengths=torch.tensor([position]),
            )
            context = model.encode(before)
            code.append(-float(model.log_likelihood(context, torch.tensor([[target]]))))
            users = model.user_vectors(context)[0].chunk(len(dense))
            vectors = model.item_vectors().chunk(len(dense), dim=1)
            for expert, user, items in zip(dense, users, vectors, strict=True):
                scores = (items @ user).masked_fill(~bound.active, -torch.inf)
                dense[expert].append(-float(scores.log_softmax(dim=0)[target]))
    loss = model.loss(batch)
    assert float(loss["code"]) == pytest.approx(sum(code) / len(code), abs=1e-4)
    for expert, values in dense.items():
        assert float(loss[expert]) == pytest.approx(sum(values) / len(values), abs=1e-4)


@torch.no_grad()
def test_an_identity_follows_its_codes_wherever_the_item_stands() -> None:
    """Also that of an item which was retired and comes back."""
    model, bound = tiny.model(), tiny.items()
    before = model.item_vectors()
    order = torch.randperm(24, generator=torch.Generator().manual_seed(4))

    def stands(active: Tensor) -> BoundItems:
        return BoundItems(
            codebook_id=bound.codebook_id,
            level_sizes=bound.level_sizes,
            codes=bound.codes[order],
            vectors=bound.vectors[order],
            present=bound.present[order],
            active=active,
        )

    for active in (torch.arange(24) != 7, torch.ones(24, dtype=torch.bool)):
        model.bind(stands(active))
        torch.testing.assert_close(model.item_vectors(), before[order])


def test_loading_as_many_identities_of_other_items_keeps_the_parameters_that_an_optimizer_holds() -> None:
    first, other = tiny.model(tiny.items(24)), tiny.model(tiny.items(30, retired=tuple(range(6))))
    assert len(first.identity_keys) == len(other.identity_keys)
    assert not torch.equal(first.identity_keys, other.identity_keys)
    held = [id(parameter) for parameter in first.parameters()]
    first.load_state_dict(other.state_dict())
    assert [id(parameter) for parameter in first.parameters()] == held
    first.bind(tiny.items(30))
    other.bind(tiny.items(30))
    with torch.no_grad():
        torch.testing.assert_close(first.item_vectors(), other.item_vectors())
