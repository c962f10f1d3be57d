"""The house model with declared context features: off it is what it was, on it heeds them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from segue.data.context import Vocabulary
from segue.data.sequences import Sequences
from segue.data.settings import ContextFeature
from segue.errors import ArtifactError
from segue.generative import layers
from segue.generative.explain import explain
from segue.generative.house import HouseModel
from segue.generative.path import GenerativePath
from segue.generative.settings import GenerativeSettings
from segue.generative.store import load_model, new_model, save_model
from segue.generative.training import train
from segue.paths import ListRules, Request
from segue.protocols import HistoryBatch, ReadsContext
from segue.registry.bundle import declared_features, stated_recipe

from . import tiny

FEATURES = {
    "area": ContextFeature(kind="category"),
    "plan": ContextFeature(kind="category", trait=True),
    "since": ContextFeature(kind="gap"),
}
VOCABULARY = Vocabulary(FEATURES, {"area": ("left", "right"), "plan": ("free",)})


def declared(settings: GenerativeSettings = tiny.SETTINGS) -> HouseModel:
    made = new_model(settings, tiny.items(), VOCABULARY)
    assert isinstance(made, HouseModel)
    return made


def awake() -> HouseModel:
    """With every weight away from zero, as after training."""
    made = declared()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return made.eval()


def coded(batch: HistoryBatch, seed: int = 5) -> HistoryBatch:
    generator = torch.Generator().manual_seed(seed)
    codes = [torch.randint(size, (*batch.items.shape, 1), generator=generator) for size in VOCABULARY.sizes]
    request = [torch.randint(size, (len(batch.lengths), 1), generator=generator) for size in VOCABULARY.sizes]
    return replace(batch, contexts=torch.cat(codes, dim=-1), request=torch.cat(request, dim=-1))


def two_sided(users: int = 40, *, vocabulary: Vocabulary | None = VOCABULARY, seed: int = 4) -> Sequences:
    """Users who take an item below or above twelve, at random; only the context says which."""
    generator = np.random.default_rng(seed)
    length = 10
    sides = generator.integers(2, size=users * length)
    items = sides * 12 + generator.integers(12, size=users * length)
    contexts = np.stack([sides + 1, np.ones_like(sides), np.zeros_like(sides)], axis=1).astype(np.int32)
    return Sequences(
        items=items.astype(np.int32),
        timestamps=np.arange(users * length, dtype=np.int64) * 60 + 60,
        offsets=np.arange(users + 1, dtype=np.int64) * length,
        validation_at=np.full(users, length - 2, dtype=np.int32),
        test_at=np.full(users, length - 1, dtype=np.int32),
        user_ids=[f"u{user}" for user in range(users)],
        contexts=None if vocabulary is None else contexts,
        vocabulary=vocabulary,
    )


def test_undeclared_nothing_of_it_is_there_and_untrained_it_changes_no_bit() -> None:
    plain, with_context = new_model(tiny.SETTINGS, tiny.items()), declared()
    assert not [name for name in plain.state_dict() if "context" in name]
    extra = {name for name in with_context.state_dict() if "context" in name}
    assert extra == set(with_context.state_dict()) - set(plain.state_dict())
    assert all(not with_context.state_dict()[name].any() for name in extra)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, with_context.state_dict()[name]), name
    batch = tiny.histories([5, 0, 8])
    plain.eval()
    with_context.eval()
    assert torch.equal(plain.loss(batch)["total"], plain.loss(coded(batch))["total"])  # it reads none
    assert torch.equal(plain.loss(batch)["total"], with_context.loss(coded(batch))["total"])


def test_appending_equals_encoding_the_longer_history() -> None:
    model = awake()
    whole = coded(tiny.histories([6, 8]))
    assert whole.contexts is not None
    first = HistoryBatch(
        items=whole.items[:, :3], timestamps=whole.timestamps[:, :3], lengths=torch.tensor([3, 3]),
        contexts=whole.contexts[:, :3],
    )  # fmt: skip
    rest = HistoryBatch(
        items=whole.items[:, 3:], timestamps=whole.timestamps[:, 3:], lengths=torch.tensor([3, 5]),
        contexts=whole.contexts[:, 3:], request=whole.request,
    )  # fmt: skip
    with torch.no_grad():
        appended, encoded = model.append(model.encode(first), rest), model.encode(whole)
    torch.testing.assert_close(appended.state, encoded.state, rtol=1e-4, atol=1e-5)


def test_padding_and_neighbours_change_nothing_and_every_context_counts() -> None:
    model = awake()
    batch = coded(tiny.histories([2, 8, 0]))
    assert batch.contexts is not None
    assert batch.request is not None
    with torch.no_grad():
        together = model.encode(batch).state
        alone = model.encode(batch.map(lambda value: value[2:3]))
        torch.testing.assert_close(together[2:3], alone.state, rtol=1e-4, atol=1e-5)
        junk = batch.contexts.clone()
        junk[0, 2:] = 1
        torch.testing.assert_close(together, model.encode(replace(batch, contexts=junk)).state)
        of_request = model.encode(replace(batch, request=(batch.request + 1) % 2)).state
        of_events = model.encode(replace(batch, contexts=(batch.contexts + 1) % 2)).state
    assert bool((of_request != together).any(dim=1).all())
    assert (of_events != together).any(dim=1).tolist() == [True, True, False]  # the last has no event


def test_a_request_in_words_is_its_codes() -> None:
    model = awake()
    batch = tiny.histories([3, 4])
    words = [{"area": "right"}, {"area": "up", "colour": "red"}]
    codes = torch.from_numpy(np.stack([VOCABULARY.request(said, None, 0) for said in words])).long()
    with torch.no_grad():
        said = model.encode(batch, words).state
        zeros = torch.zeros((*batch.items.shape, 3), dtype=torch.int64)
        assert torch.equal(said, model.encode(replace(batch, contexts=zeros, request=codes)).state)
        assert torch.equal(
            said[1], model.encode(batch).state[1]
        )  # what nobody knows is as if nothing was said


def asked(side: str | None, history: tuple[int, ...] = ()) -> Request:
    return Request(
        history=np.array(history, dtype=np.int64),
        timestamps=np.arange(len(history), dtype=np.int64),
        context={} if side is None else {"area": side},
    )


@pytest.fixture(scope="module")
def trained() -> HouseModel:
    settings = tiny.SETTINGS.model_copy(
        update={"epochs": 10, "learning_rate": 0.03, "dropout": 0.0, "batch_events": 24}
    )
    data = two_sided()
    made = train(
        data.training_part(),
        tiny.items(),
        settings,
        validation=None,
        checkpoints=None,
        progress=lambda line: None,
    )
    assert isinstance(made.model, HouseModel)
    return made.model


def path(model: HouseModel) -> GenerativePath:
    return GenerativePath(
        model, tiny.items(), dense_weight=0.5, beam_width=24, dense_candidates=24, max_length=8
    )


@pytest.mark.parametrize("history", [(), (3, 17)])
def test_it_learns_what_only_the_context_says(trained: HouseModel, history: tuple[int, ...]) -> None:
    """Also of somebody of whom nothing but the context is known."""
    left, right = path(trained).recommend([asked("left", history), asked("right", history)], 6, ListRules())
    assert (left.items < 12).all()
    assert (right.items >= 12).all()


def test_an_explanation_says_that_the_context_spoke(trained: HouseModel) -> None:
    """Of two sides a model without the context can expect one only: the other is due to what was said."""
    found = [
        explain(path(trained).score, asked(side), item, None) for side, item in (("left", 5), ("right", 15))
    ]
    spoke = max(found, key=lambda explanation: explanation.context_importance or 0.0)
    assert spoke.basis == "context"
    assert spoke.context_importance is not None
    assert (
        spoke.context_importance > 0.2
    )  # nats; where nothing is said both sides share what one has otherwise


def test_it_is_saved_with_its_vocabulary_and_in_the_recipe(trained: HouseModel, tmp_path: Path) -> None:
    save_model(tmp_path, trained, trained.settings, 0.5)
    back = load_model(tmp_path, tiny.items())
    assert isinstance(back, ReadsContext)
    assert back.vocabulary == VOCABULARY
    request, items = [asked("right", (1, 2))], [np.arange(24)]
    assert isinstance(back, HouseModel)
    np.testing.assert_array_equal(path(trained).score(request, items)[0], path(back).score(request, items)[0])

    incumbent = tmp_path / "incumbent"
    incumbent.mkdir()
    (incumbent / "incumbent.json").write_text('{"settings": {}}')
    with_features = stated_recipe(incumbent=incumbent, model=tmp_path, rules={})
    assert declared_features(tmp_path) == VOCABULARY.describe()
    Vocabulary(FEATURES, {"area": ("left", "right", "up"), "plan": ()}).save(tmp_path)
    assert (
        stated_recipe(incumbent=incumbent, model=tmp_path, rules={}) == with_features
    )  # values are no recipe
    Vocabulary({"since": FEATURES["since"]}, {}).save(tmp_path)
    assert stated_recipe(incumbent=incumbent, model=tmp_path, rules={}) != with_features
    with pytest.raises(ArtifactError, match="weights"):
        load_model(tmp_path, tiny.items())  # of other features


def test_a_model_that_reads_no_context_is_trained_without_and_says_so() -> None:
    told: list[str] = []
    settings = tiny.SETTINGS.model_copy(update={"model": "tiger", "epochs": 1})
    data = two_sided(8)
    train(
        data.training_part(), tiny.items(), settings, validation=None, checkpoints=None, progress=told.append
    )
    assert any("tiger reads no context" in line for line in told)


def test_micro_batches_carry_the_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accumulated gradients are those of the whole batch, context tables included."""
    monkeypatch.setattr(layers, "_UNSAID", 0.0)  # which features are left out depends on how a batch is cut
    losses = []
    for accumulate in (1, 3):
        settings = tiny.SETTINGS.model_copy(
            update={"epochs": 1, "accumulate": accumulate, "dropout": 0.0, "identity_dropout": 0.0}
        )
        data = two_sided(12)
        made = train(
            data.training_part(),
            tiny.items(),
            settings,
            validation=None,
            checkpoints=None,
            progress=lambda line: None,
        )
        assert isinstance(made.model, HouseModel)
        assert made.model.tower.context is not None
        losses.append([table.weight.detach() for table in made.model.tower.context.requests])
        assert losses[-1][0].any()
    for one, other in zip(*losses, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_in_training_a_request_may_leave_a_feature_out() -> None:
    """Or the state without it would be one that no training has seen."""
    model = awake()
    assert model.tower.context is not None
    batch = coded(tiny.histories([8] * 60))
    assert batch.contexts is not None
    whole = model.tower.context.of_requests(batch)
    assert torch.equal(whole, model.tower.context.of_requests(batch))
    torch.manual_seed(0)
    model.train()
    changed = (model.tower.context.of_requests(batch) != whole).any(dim=-1).float().mean()
    assert 0.1 < changed < 0.3  # three features, of which one may be unknown anyway


def test_hstu_heeds_the_context_too() -> None:
    model = new_model(tiny.SETTINGS.model_copy(update={"model": "hstu"}), tiny.items(), VOCABULARY)
    assert isinstance(model, HouseModel)
    plain = new_model(tiny.SETTINGS.model_copy(update={"model": "hstu"}), tiny.items())
    batch = coded(tiny.histories([4, 0]))
    model.eval()
    plain.eval()
    with torch.no_grad():
        assert torch.equal(model.encode(batch).state, plain.encode(batch).state)
        for tables in (model.tower.context.events, model.tower.context.requests):  # type: ignore[union-attr]
            before = model.encode(batch).state
            for table in tables:
                table.weight.add_(torch.randn(table.weight.shape))
            assert not torch.equal(model.encode(batch).state, before)


def test_a_table_of_events_without_a_context_column_has_times_alone() -> None:
    events = pl.DataFrame({"timestamp": [0, 60]})
    assert VOCABULARY.events(events, np.array([0, 2])).tolist() == [[0, 0, 0], [0, 0, 0]]
