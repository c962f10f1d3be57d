"""The engine: lists that may be shown, whatever a path does."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.data.context import Vocabulary
from segue.data.settings import ContextFeature
from segue.decoding.settings import DecodingSettings
from segue.errors import ArtifactError, DataError
from segue.generative.house import HouseModel
from segue.generative.settings import GenerativeSettings
from segue.generative.store import new_model, save_model
from segue.items import Items
from segue.params import Params
from segue.registry.bundle import read_bundle, write_bundle
from segue.schema import PathName
from segue.serving.breaker import Breaker
from segue.serving.engine import Engine, History
from segue.serving.popularity import PopularityPath
from segue.serving.requests import Filters
from segue.steps.offline_evaluation import contenders
from segue.tokenizers.item_map import bound_items
from tests.serving.worlds import DECODING, ITEMS, RULES, SERVING, FakePath, as_an_earlier_version_wrote

G, C, P = PathName.GENERATIVE, PathName.CASCADE, PathName.POPULARITY


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def paths() -> dict[PathName, FakePath]:
    return {name: FakePath(name, ITEMS) for name in (G, C)}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engine(full: Path, paths: dict[PathName, FakePath], clock: Clock) -> Iterator[Engine]:
    made = Engine(
        read_bundle(full),
        Items.load(full),
        dict(paths),
        budget_ms=200,
        breakers={G: Breaker(threshold=3, cooldown=5, clock=clock)},
    )
    yield made
    made.close()


@pytest.fixture(scope="module")
def real(full: Path) -> Iterator[Engine]:
    made = Engine.load(full)
    yield made
    made.close()


def one(
    engine: Engine, path: PathName = G, k: int = 5, filters: Filters | None = None, history: str = "i001"
):
    return engine.recommend([History(item_ids=[history])], path=path, k=k, filters=filters)[0]


@settings(max_examples=40, deadline=None)
@given(
    path=st.sampled_from(list(PathName)),
    history=st.lists(st.integers(0, ITEMS - 1).map("i{:03d}".format), max_size=30),
    k=st.integers(1, 100),
    category=st.sampled_from([None, "even", "odd"]),
    deny=st.lists(st.integers(0, ITEMS - 1).map("i{:03d}".format), max_size=5),
)
def test_every_list_of_every_real_path_obeys_the_request(
    real: Engine, path: PathName, history: list[str], k: int, category: str | None, deny: list[str]
) -> None:
    filters = Filters(categories=None if category is None else [category], deny=deny)
    served = real.recommend([History(item_ids=history)], path=path, k=k, filters=filters)[0]
    ids = [item.item_id for item in served.items]
    assert len(set(ids)) == len(ids) <= k
    assert not set(ids) & {*history, *deny}
    assert set(ids) <= set(real.items.ids)
    if category is not None:
        assert all((int(item[1:]) % 2 == 0) == (category == "even") for item in ids)
    assert (served.path, served.fallback) == (path, None) or not ids


def test_a_batch_gives_the_lists_of_its_members(real: Engine) -> None:
    histories = [History(item_ids=[f"i{n:03d}", f"i{n + 1:03d}"]) for n in range(6)]
    for path in PathName:
        together = real.recommend(histories, path=path, k=5)
        alone = [real.recommend([history], path=path, k=5)[0] for history in histories]
        assert [[i.item_id for i in s.items] for s in together] == [
            [i.item_id for i in s.items] for s in alone
        ]


def test_unknown_items_are_named_and_ignored(engine: Engine) -> None:
    served = engine.recommend([History(item_ids=["gone", "i000", "a\nb"])], path=G, k=2)[0]
    assert served.unknown_items == ("gone", "a\nb")
    assert [item.item_id for item in served.items] == ["i001", "i002"]
    assert served.items[0].title == "Item 1"


def test_timestamps_put_a_history_in_order(full: Path, engine: Engine) -> None:
    request, _ = engine._request(History(item_ids=["i003", "i001", "i002"], timestamps=[30, 10, 20]))
    assert request.history.tolist() == [1, 2, 3]
    assert request.timestamps.tolist() == [10, 20, 30]


def test_a_list_longer_than_the_catalogue_is_shorter(engine: Engine) -> None:
    assert len(one(engine, k=10**6).items) == ITEMS - 1


@pytest.mark.parametrize("k", [0, -3])
def test_no_items_cannot_be_asked_for(engine: Engine, k: int) -> None:
    with pytest.raises(DataError, match="at least one item"):
        one(engine, k=k)


def test_an_unknown_category_is_refused(engine: Engine) -> None:
    with pytest.raises(DataError, match="no item has the category 'prime'"):
        one(engine, filters=Filters(categories=["prime"]))


def test_an_allow_list_of_nothing_gives_an_empty_list(engine: Engine) -> None:
    served = one(engine, filters=Filters(allow=["unknown"]))
    assert (served.items, served.path) == ((), G)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"error": ValueError("boom")}, "raised ValueError"),
        ({"error": MemoryError()}, "raised MemoryError"),
        ({"answer": [ITEMS]}, "invalid list"),
        ({"answer": [-1]}, "invalid list"),
        ({"answer": [2, 2]}, "invalid list"),
        ({"answer": [1]}, "invalid list"),  # seen
        ({"answer": list(range(2, 30))}, "invalid list"),  # longer than asked
        ({"answer": []}, "empty list"),
        ({"nan": True}, "no numbers"),
    ],
)
def test_a_failing_path_is_replaced_counted_and_logged(
    engine: Engine,
    paths: dict[PathName, FakePath],
    caplog: pytest.LogCaptureFixture,
    fault: dict,
    reason: str,
) -> None:
    for name, value in fault.items():
        setattr(paths[G], name, value)
    served = one(engine)
    assert served.path is C
    assert served.fallback is not None
    assert reason in served.fallback
    assert sum(engine.failures.values()) == 1
    assert "generative" in caplog.text


def test_when_everything_fails_popularity_answers(engine: Engine, paths: dict[PathName, FakePath]) -> None:
    paths[G].error = paths[C].error = RuntimeError("down")
    served = one(engine)
    assert served.path is P
    assert served.fallback == "generative: raised RuntimeError; cascade: raised RuntimeError"
    assert len(served.items) == 5


def test_a_slow_path_is_not_waited_for(engine: Engine, paths: dict[PathName, FakePath]) -> None:
    paths[G].hang = threading.Event()
    try:
        served = one(engine)
    finally:
        paths[G].hang.set()
    assert served.path is C
    assert "over its time budget" in str(served.fallback)


def test_the_breaker_opens_and_closes_again(
    engine: Engine, paths: dict[PathName, FakePath], clock: Clock
) -> None:
    paths[G].error = RuntimeError("down")
    for _ in range(3):
        one(engine)
    assert engine.open_breakers == [G]
    assert "circuit breaker open" in str(one(engine).fallback)
    assert paths[G].calls == 3  # left alone
    paths[G].error = None
    clock.now += 5.1
    assert one(engine).path is G
    assert engine.open_breakers == []
    assert one(engine).fallback is None


def test_a_half_open_breaker_lets_one_through() -> None:
    clock = Clock()
    breaker = Breaker(threshold=1, cooldown=5, clock=clock)
    breaker.failed()
    clock.now = 6
    assert [breaker.allows(), breaker.allows()] == [True, False]


def test_a_bundle_without_the_path_falls_back(incumbent_only: Path) -> None:
    engine = Engine.load(incumbent_only)
    served = one(engine)
    assert (served.path, served.fallback) == (C, "generative: not in this bundle")
    assert len(engine.similar("i001", k=3).items) == 3
    engine.close()


def test_similar_items_are_the_nearest_vectors(real: Engine) -> None:
    vectors = real._vectors.vectors  # type: ignore[union-attr]
    unit = vectors / (vectors**2).sum(axis=1, keepdims=True) ** 0.5
    order = (-(unit @ unit[7])).argsort()
    expected = [real.items.ids[index] for index in order if index != 7][:5]
    assert [item.item_id for item in real.similar("i007", k=5).items] == expected
    with pytest.raises(DataError, match="no item 'nowhere'"):
        real.similar("nowhere")


def test_a_damaged_bundle_does_not_load(full: Path, tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(full, tmp_path / "b"))
    (folder / "model" / "fusion.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"fusion\.json was changed"):
        Engine.load(folder)


@pytest.mark.parametrize("name", ["tiger", "hstu", "cobra"])
def test_every_model_is_bundled_served_and_measured(world: Path, tmp_path: Path, name: str) -> None:
    """TIGER has no dense head: it serves like the others, and the offline tables show it once."""
    bound = bound_items(world / "item_map")
    settings = GenerativeSettings(model=name, dimensions=16, layers=1, heads=2, max_length=16)
    (tmp_path / "model").mkdir()
    save_model(tmp_path / "model", new_model(settings, bound), settings, 0.0 if name == "tiger" else 0.5)
    write_bundle(
        tmp_path / "bundle",
        dataset="tiny",
        splits=world / "splits",
        incumbent=world / "incumbent",
        model=tmp_path / "model",
        item_map=world / "item_map",
        rules=RULES,
        serving=SERVING,
        decoding=DECODING,
    )
    made = Engine.load(tmp_path / "bundle")
    served = [one(made, G, k=12), made.recommend([History(item_ids=[])], path=G, k=12)[0]]
    made.close()
    for answer in served:
        assert (answer.path, answer.fallback) == (G, None)
        assert len({item.item_id for item in answer.items}) == 12
    assert "i001" not in {item.item_id for item in served[0].items}

    inputs = {"incumbent": world / "incumbent", "generative_model": tmp_path / "model"}
    decoding = SimpleNamespace(decoding=DecodingSettings.model_validate(DECODING))
    found = set(contenders(inputs, Items.load(world / "splits"), bound, cast(Params, decoding)))
    heads = {"generative_code", "generative_dense"}
    assert "generative" in found
    assert found & heads == (set() if name == "tiger" else heads)


def test_a_model_that_this_code_cannot_read_leaves_the_cascade_serving(
    full: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """After an upgrade a bundle may hold a model of an earlier version: a server that restarts must not stay down."""
    folder = tmp_path / "bundle"
    shutil.copytree(full, folder)
    as_an_earlier_version_wrote(folder / "model")
    engine = Engine.load(folder, verify=False)
    [reason] = engine.unreadable.values()
    assert "model.safetensors" in reason
    served = engine.recommend([History(item_ids=["i001", "i002"])], k=3, path=G)[0]
    assert served.path is PathName.CASCADE
    assert served.fallback
    assert len(served.items) == 3
    found = engine.explain(History(item_ids=["i001", "i002"]), "i003", path=G)
    assert found.path is PathName.CASCADE
    assert "model.safetensors" in str(found.fallback)
    # One line says it; no traceback of a failure that is no surprise.
    assert not [record for record in caplog.records if record.exc_info and "warming up" in record.message]
    assert [record.message for record in caplog.records if reason in record.message]


@pytest.mark.parametrize("path", [G, C, P])
def test_every_path_explains_its_items(real: Engine, path: PathName) -> None:
    history = History(item_ids=["i001", "nobody", "i002", "i017"])
    item = real.recommend([history], path=path, k=1)[0].items[0]
    found = real.explain(history, item.item_id, path=path)
    assert (found.path, found.fallback, found.unknown_items) == (path, None, ("nobody",))
    assert found.history.tolist() == [1, 2, 17]
    if path is P:
        assert (found.explanation.basis, found.explanation.influences) == ("popularity", ())
        return
    assert found.explanation.basis == "history"
    assert sorted(influence.place for influence in found.explanation.influences) == [0, 1, 2]
    assert found.explanation.score == pytest.approx(item.score, abs=1e-4)


def test_the_theme_comes_with_the_bundle_and_an_old_bundle_does_without(full: Path, tmp_path: Path) -> None:
    history = History(item_ids=["i001", "i030"])
    old = Path(shutil.copytree(full, tmp_path / "old"))
    (old / "themes.parquet").unlink()
    for folder, words in ((full, ("long", "even", "odd")), (old, ())):
        engine = Engine.load(folder, verify=folder == full)
        found = engine.explain(history, "i003", path=G)
        engine.close()
        theme = found.explanation.theme
        assert theme is not None
        assert (theme.prefix, theme.places) == ((0,), (0,))
        assert set(words) <= set(theme.words) if words else theme.words == ()
        assert ("theme" in found.sentence) == bool(words)


def test_a_path_that_fails_leaves_the_explanation_to_the_next(engine: Engine) -> None:
    engine.paths[G] = PopularityPath(engine.items)  # it scores nothing that it is given
    found = engine.explain(History(item_ids=["i001"]), "i002", path=G)
    assert (found.path, found.fallback) == (C, "generative: cannot score an item")
    with pytest.raises(DataError, match="no item 'nobody'"):
        engine.explain(History(item_ids=["i001"]), "nobody", path=G)


@pytest.mark.parametrize(
    ("path", "by"),
    [(PathName.RERANK, G), (PathName.BLENDED, G), (PathName.INTERLEAVED, G), (PathName.RECALL_ROUTE, C)],
)
def test_a_path_that_is_made_of_two_is_explained_by_the_one_that_scores(
    real: Engine, path: PathName, by: PathName
) -> None:
    found = real.explain(History(item_ids=["i001", "i002"]), "i003", path=path)
    assert (found.path, found.fallback) == (by, None)


def test_an_explanation_that_raises_trips_the_breaker(engine: Engine) -> None:
    class Broken(FakePath):
        def score(self, requests: object, items: object) -> None:
            raise RuntimeError("no weights")

    engine.paths[G] = Broken(G, ITEMS)
    for _ in range(3):
        found = engine.explain(History(item_ids=["i001"]), "i002", path=G)
        assert "generative: raised RuntimeError" in str(found.fallback)
    assert G in engine.open_breakers


def test_a_context_that_nobody_declared_is_answered_with_a_warning(real: Engine) -> None:
    history = History(item_ids=[], context={"device": "tv", "scenario": "home"})
    served = real.recommend([history, History(item_ids=["i001"])], path=G, k=3)
    assert [len(answer.items) for answer in served] == [3, 3]
    [warning] = served[0].warnings
    assert "'device' is no declared feature" in warning
    assert served[1].warnings == ()
    assert real.explain(history, "i003", path=G).warnings == (warning,)


def test_declared_features_are_bundled_and_read(world: Path, tmp_path: Path) -> None:
    """The definitions stand in the manifest and in the recipe; the request's words reach the model."""
    bound = bound_items(world / "item_map")
    settings = GenerativeSettings(dimensions=16, layers=1, heads=2, max_length=16)
    vocabulary = Vocabulary({"device": ContextFeature(kind="category")}, {"device": ("phone", "tv")})
    model = new_model(settings, bound, vocabulary)
    assert isinstance(model, HouseModel)
    assert model.tower.context is not None
    with torch.no_grad():
        model.tower.context.requests[0].weight[1:] = torch.randn(2, 16) * 3
    (tmp_path / "model").mkdir()
    save_model(tmp_path / "model", model, settings, 0.5)
    inputs = {name: world / name for name in ("splits", "incumbent", "item_map")}
    rest = {"dataset": "tiny", "rules": RULES, "serving": SERVING, "decoding": DECODING}
    with_features = write_bundle(tmp_path / "with", model=tmp_path / "model", **inputs, **rest)  # type: ignore[arg-type]
    without = write_bundle(tmp_path / "without", model=world / "model", **inputs, **rest)  # type: ignore[arg-type]
    assert with_features.features == vocabulary.describe()
    assert without.features == {}
    assert with_features.recipe != without.recipe

    engine = Engine.load(tmp_path / "with")
    lists = engine.recommend(
        [History(context={"device": device}) for device in ("tv", "phone", "radio")] + [History()],
        path=G,
        k=5,
    )
    engine.close()
    shown = [[item.item_id for item in answer.items] for answer in lists]
    assert shown[0] != shown[1]
    assert shown[2] == shown[3]  # a value that nobody knows is as if nothing had been said
    assert [len(answer.warnings) for answer in lists] == [0, 0, 1, 0]
    assert all(answer.path is G for answer in lists)
