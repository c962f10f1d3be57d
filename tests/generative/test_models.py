"""What every generative model promises, asked of each in the same words."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from segue.decoding.beam import beam_search
from segue.decoding.settings import DecodingSettings
from segue.errors import BindingError, ConfigurationError
from segue.generative import load_path
from segue.generative.path import GenerativePath
from segue.generative.registry import model_factory
from segue.generative.settings import TuningSettings
from segue.generative.store import new_model, save_model
from segue.generative.training import choose_fusion, train, tune, validation_ndcg
from segue.paths import ListRules, Request
from segue.protocols import BoundItems, DenseHead, GenerativeRecommender, HistoryBatch
from segue.training.loop import FitSettings, fit

from . import tiny

MODELS = ("house", "tiger", "hstu", "cobra")
EVERY = pytest.mark.parametrize("name", MODELS)
ALL = torch.arange(24)


def changed(bound: BoundItems, **values: object) -> BoundItems:
    fields = ("codebook_id", "level_sizes", "codes", "vectors", "present", "active")
    return BoundItems(**({field: getattr(bound, field) for field in fields} | values))  # type: ignore[arg-type]


@EVERY
@torch.no_grad()
def test_likelihoods_are_the_product_of_the_steps_and_sum_to_one(name: str) -> None:
    bound = tiny.items(retired=(3, 7), absent=(5,))
    model = tiny.named(name, bound)
    assert isinstance(model, GenerativeRecommender)
    context = model.encode(tiny.histories([0, 3, 8]))
    assert len(context) == 3
    likelihood = model.log_likelihood(context, ALL.expand(3, -1))
    steps = torch.zeros(3, 24)
    for level in range(3):
        step = model.next_code_log_probs(context, bound.codes[:, :level].expand(3, -1, -1))
        assert step.shape == (3, 24, tiny.SIZES[level])
        totals = step.exp().sum(dim=-1)[:, bound.active]
        torch.testing.assert_close(totals, torch.ones_like(totals))
        steps += step.gather(-1, bound.codes[:, level].expand(3, -1).unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(likelihood[:, bound.active], steps[:, bound.active], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(likelihood.exp().sum(dim=1), torch.ones(3))
    assert bool(likelihood[:, ~bound.active].isneginf().all())
    assert bool(model.next_code_log_probs(context, torch.tensor([[[99, 0]]] * 3)).isneginf().all())


@EVERY
@given(st.integers(0, 1000), st.lists(st.booleans(), min_size=24, max_size=24).filter(any))
@settings(max_examples=8, deadline=None)
def test_a_beam_as_wide_as_the_catalogue_is_full_enumeration(
    name: str, seed: int, allowed: list[bool]
) -> None:
    bound = tiny.items(retired=(4,))
    model = tiny.named(name, bound)
    with torch.no_grad():
        context = model.encode(tiny.histories([0, 5], seed=seed))
        found, log_probs = beam_search(model, context, model.trie, torch.tensor([allowed]), 24)
        likelihood = model.log_likelihood(context, ALL.expand(2, -1))
    shown = [item for item in range(24) if allowed[item] and item != 4]
    for row in range(2):
        items = found[row][found[row] >= 0]
        assert sorted(items.tolist()) == shown
        torch.testing.assert_close(log_probs[row, : len(items)], likelihood[row, items], atol=1e-5, rtol=1e-4)
        assert bool((log_probs[row, : len(items)].diff() <= 0).all())


@EVERY
@given(st.integers(0, 8), st.integers(0, 8), st.integers(0, 100))
@settings(max_examples=8, deadline=None)
def test_appending_equals_encoding_the_longer_history(name: str, before: int, after: int, seed: int) -> None:
    model = tiny.named(name)
    first, second = tiny.histories([before, 2], seed=seed), tiny.histories([after, 1], seed=seed + 1)
    with torch.no_grad():
        joined = model.append(model.encode(first), second)
        found = model.log_likelihood(joined, ALL.expand(2, -1))
    for row in range(2):
        ids = [*first.items[row, : first.lengths[row]], *second.items[row, : second.lengths[row]]]
        times = [*first.timestamps[row, : first.lengths[row]], *second.timestamps[row, : second.lengths[row]]]
        whole = HistoryBatch(
            items=torch.tensor([ids[-8:] or [0]]),
            timestamps=torch.tensor([times[-8:] or [0]]),
            lengths=torch.tensor([min(len(ids), 8)]),
        )
        with torch.no_grad():
            alone = model.log_likelihood(model.encode(whole), ALL.unsqueeze(0))[0]
        torch.testing.assert_close(found[row], alone, atol=1e-5, rtol=1e-4)


@EVERY
@torch.no_grad()
def test_neither_padding_nor_the_rest_of_the_batch_changes_anything(name: str) -> None:
    model = tiny.named(name)
    batch = tiny.histories([1, 5, 8, 0])
    together = model.encode(tiny.wider(batch, 7))
    likelihood = model.log_likelihood(together, ALL.expand(4, -1))
    for row, length in enumerate(batch.lengths.tolist()):
        alone = model.encode(tiny.row(batch, row, length))
        torch.testing.assert_close(
            model.log_likelihood(alone, ALL.unsqueeze(0))[0], likelihood[row], atol=1e-5, rtol=1e-4
        )
        if isinstance(model, DenseHead):
            torch.testing.assert_close(
                model.user_vectors(alone)[0], model.user_vectors(together)[row], atol=1e-4, rtol=1e-4
            )


@EVERY
@torch.no_grad()
def test_padding_changes_no_loss(name: str) -> None:
    every = tiny.SETTINGS.model_copy(update={"tiger": tiny.SETTINGS.tiger.model_copy(update={"targets": 99})})
    model, batch = tiny.named(name, settings=every), tiny.histories([6, 1, 8, 0])
    plain, padded = model.loss(batch), model.loss(tiny.wider(batch, 5))
    for part, value in plain.items():
        torch.testing.assert_close(value, padded[part], atol=1e-5, rtol=1e-5)


@EVERY
def test_every_parameter_learns(name: str) -> None:
    ranked = tiny.SETTINGS.hstu.model_copy(update={"ranking_weight": 1.0, "ranking_negatives": 4})
    model = tiny.named(name, tiny.items(absent=(1,)), tiny.SETTINGS.model_copy(update={"hstu": ranked}))
    assert isinstance(model, nn.Module)
    model.train()
    torch.manual_seed(0)
    batch = tiny.histories([8, 8, 8, 7, 5, 1])
    batch.items[0, 0] = 1
    model.loss(batch)["total"].backward()
    for parameter, value in model.named_parameters():
        assert value.grad is not None, parameter
        assert bool(value.grad.isfinite().all()), parameter
        assert float(value.grad.abs().max()) > 0, parameter


@EVERY
@torch.no_grad()
def test_histories_of_nothing_are_no_division_by_zero(name: str) -> None:
    model = tiny.named(name)
    loss = model.loss(tiny.histories([0, 0]))
    assert float(loss["total"]) == 0


@EVERY
def test_another_codebook_is_refused(name: str) -> None:
    model, bound = tiny.named(name), tiny.items()
    with pytest.raises(BindingError, match="bind an item map of the model's codebook"):
        model.bind(changed(bound, codebook_id="d" * 64))
    with pytest.raises(BindingError, match="bind an item map of the model's codebook"):
        model.bind(changed(bound, level_sizes=(4, 3, 5)))
    with pytest.raises(BindingError, match="content of 6 dimensions"):
        model.bind(changed(bound, vectors=bound.vectors[:, :2]))
    unbound = model_factory(name)(
        tiny.SETTINGS, codebook_id="c" * 64, level_sizes=tiny.SIZES, content_dimensions=6
    )
    with pytest.raises(BindingError, match="call bind first"):
        unbound.encode(tiny.histories([1]))


@EVERY
@torch.no_grad()
def test_later_revisions_bind_to_the_same_weights(name: str) -> None:
    model = tiny.named(name, tiny.items(24))
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    model.item_vectors() if isinstance(model, DenseHead) else None
    model.bind(tiny.items(30, retired=(1,)))
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    context = model.encode(tiny.histories([3], 30))
    likelihood = model.log_likelihood(context, torch.arange(30).unsqueeze(0))
    torch.testing.assert_close(likelihood.exp().sum(), torch.tensor(1.0))
    assert bool(likelihood[0, 24:].isfinite().all())
    if isinstance(model, DenseHead):
        assert len(model.item_vectors()) == 30


@pytest.mark.parametrize(
    ("name", "tables"),
    [("hstu", ("tower.codes", "node_codes")), ("tiger", ("codes", "out")), ("cobra", ("codes", "say_code"))],
)
def test_codes_that_nothing_trained_add_nothing(name: str, tables: tuple[str, ...]) -> None:
    bound = tiny.items(20)
    few = (bound.codes[:, 0] != 0).nonzero().flatten()  # the first level's code 0 is in no item
    chosen = changed(
        bound, **{field: getattr(bound, field)[few] for field in ("codes", "vectors", "present", "active")}
    )
    model = new_model(tiny.SETTINGS.model_copy(update={"model": name}), chosen)
    assert isinstance(model, nn.Module)
    fit(
        model,
        batches=lambda epoch: [tiny.histories([5, 6, 7], len(few), seed=epoch)] * 2,
        loss=model.loss,
        validate=None,
        settings=FitSettings(epochs=2, learning_rate=1e-2, weight_decay=0.01, precision="fp32", threads=1),
        checkpoints=None,
        progress=lambda line: None,
    )
    for table in tables:
        weight = model.get_parameter(f"{table}.0.weight").detach()
        assert float(weight[0].abs().max()) == 0
        assert float(weight[1:].abs().amin(dim=0).max()) > 0


@EVERY
def test_it_learns_what_popularity_cannot_say(name: str, tmp_path) -> None:
    """Users walk along the catalogue, so the last item tells the next one; every item is about as popular."""
    data, bound = tiny.sequences(48), tiny.items()
    epochs, rate = {"tiger": (30, 1e-2), "cobra": (20, 1e-2)}.get(name, (15, 2e-2))
    chosen = tiny.SETTINGS.model_copy(
        update={
            "model": name,
            "epochs": epochs,
            "learning_rate": rate,
            "dropout": 0.0,
            "batch_events": 96,
            "averaging": 0.9,
        }
    )
    part = data.training_part()
    counts = np.bincount(part.items, minlength=24)
    gains = []
    for user, position in data.targets("validation"):
        history, target = data.user(user)[0][:position], data.user(user)[0][position]
        shown = np.where(np.isin(np.arange(24), history), -1, counts)
        rank = int((shown >= shown[target]).sum()) if shown[target] >= 0 else 99
        gains.append(1 / np.log2(rank + 1) if rank <= 10 else 0.0)
    trained = train(part, bound, chosen, validation=None, checkpoints=None, progress=lambda line: None)
    history = trained.result.history
    assert history[-1]["total"] < 0.7 * history[0]["total"]
    decoding = DecodingSettings(beam_width=24, dense_candidates=24)
    weight, values = choose_fusion(trained.model, bound, data, decoding)
    assert values[weight] > max(0.5, 2 * float(np.mean(gains)))

    save_model(tmp_path, trained.model, chosen, weight)
    again = load_path(tmp_path, bound, decoding)
    first = GenerativePath(
        trained.model, bound, dense_weight=weight, beam_width=24, dense_candidates=24, max_length=8
    )
    asked = [
        Request(history=np.array(ids, dtype=np.int64), timestamps=np.arange(len(ids))) for ids in ([3, 4], [])
    ]
    for one, other in zip(
        first.recommend(asked, 9, ListRules()), again.recommend(asked, 9, ListRules()), strict=True
    ):
        assert one.items.tolist() == other.items.tolist()
        np.testing.assert_array_equal(one.scores, other.scores)


@EVERY
def test_equal_seeds_give_equal_weights(name: str) -> None:
    data, bound = tiny.sequences(12), tiny.items()
    chosen = tiny.SETTINGS.model_copy(update={"model": name, "epochs": 1})

    def weights() -> dict[str, torch.Tensor]:
        torch.rand(3)  # what ran before changes nothing
        return train(
            data.training_part(), bound, chosen, validation=None, checkpoints=None, progress=lambda line: None
        ).model.state_dict()

    first, again = weights(), weights()
    assert all(torch.equal(value, again[key]) for key, value in first.items())


@EVERY
def test_bf16_trains_and_serves(name: str) -> None:
    data, bound = tiny.sequences(12), tiny.items()
    chosen = tiny.SETTINGS.model_copy(update={"model": name, "epochs": 1, "precision": "bf16"})
    trained = train(
        data.training_part(), bound, chosen, validation=data, checkpoints=None, progress=lambda line: None
    )
    assert np.isfinite(trained.result.history[0]["total"])


# A model without a dense head.


def test_without_a_dense_head_there_is_one_weight_and_one_head() -> None:
    data, bound = tiny.sequences(20), tiny.items(retired=(3,))
    model = tiny.named("tiger", bound)
    assert not isinstance(model, DenseHead)
    decoding = DecodingSettings(beam_width=24, dense_candidates=24)
    assert set(choose_fusion(model, bound, data, decoding)[1]) == {0.0}
    with pytest.raises(ConfigurationError, match="TigerModel has no dense head: its weight must be 0"):
        validation_ndcg(model, bound, data, decoding, weights=(0.0, 0.5))

    def path(**changes: object) -> GenerativePath:
        values = {"dense_weight": 0.0, "beam_width": 24, "dense_candidates": 24, "max_length": 8} | changes
        return GenerativePath(model, bound, **values)  # type: ignore[arg-type]

    with pytest.raises(ConfigurationError, match=r"dense_weight is 0\.5, but TigerModel has no dense head"):
        path(dense_weight=0.5)
    with pytest.raises(ConfigurationError, match="heads is 'dense', but TigerModel has no dense head"):
        path().variant("dense")
    assert not path().has_dense_head
    request = Request(history=np.array([1, 2]), timestamps=np.array([0, 60]))
    lists = [each.recommend([request], 6, ListRules())[0] for each in (path(), path().variant("code"))]
    with torch.no_grad():
        scores = model.log_likelihood(
            model.encode(HistoryBatch.from_requests([request], 8)), ALL.unsqueeze(0)
        )
    scores[0, [1, 2]] = -torch.inf
    for found in lists:
        assert found.items.tolist() == scores[0].topk(6).indices.tolist()
        assert set(found.sources) == {"beam"}


def test_a_study_tries_no_setting_that_the_model_does_not_read(tmp_path) -> None:
    chosen = tiny.SETTINGS.model_copy(update={"model": "tiger", "epochs": 1})
    tuned = tune(
        tiny.sequences(10),
        tiny.items(),
        chosen,
        TuningSettings(trials=2, warmup_epochs=0),
        name="study",
        storage=tmp_path / "study.journal",
        checkpoints=tmp_path / "checkpoints",
        tracking=None,
        progress=lambda line: None,
    )
    assert set(tuned.study.best_params) == {"learning_rate", "dropout", "max_length"}
    assert tuned.settings.code_temperature == chosen.code_temperature
