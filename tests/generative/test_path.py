from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from segue.decoding.settings import DecodingSettings
from segue.errors import ArtifactError, BindingError, ConfigurationError, DataError
from segue.generative import load_model, load_path
from segue.generative.path import GenerativePath, Heads
from segue.generative.store import save_model
from segue.paths import ListRules, Request
from segue.protocols import BoundItems, HistoryBatch

from . import tiny

BOUND = tiny.items(retired=(4, 9))
MODEL = tiny.model(BOUND)


def path(heads: Heads = "fused", *, weight: float = 0.5, beam: int = 24, dense: int = 24) -> GenerativePath:
    return GenerativePath(
        MODEL, BOUND, dense_weight=weight, beam_width=beam, dense_candidates=dense, max_length=8, heads=heads
    )


def request(*history: int) -> Request:
    return Request(history=np.array(history, dtype=np.int64), timestamps=np.arange(len(history)) * 60)


@torch.no_grad()
def scores(of: Request) -> tuple[np.ndarray, np.ndarray]:
    """Code and dense log-probability of every item, from the definitions."""
    context = MODEL.encode(HistoryBatch.from_requests([of], 8))
    code = MODEL.log_likelihood(context, torch.arange(24).unsqueeze(0))[0]
    dense = (MODEL.item_vectors() @ MODEL.user_vectors(context)[0]).masked_fill(~BOUND.active, -torch.inf)
    return code.numpy(), dense.log_softmax(dim=0).numpy()


@pytest.mark.parametrize(("heads", "weight"), [("fused", 0.25), ("code", 0.0), ("dense", 1.0)])
def test_wide_candidates_give_the_ranking_of_the_whole_catalogue(heads: Heads, weight: float) -> None:
    asked = [request(1, 2, 3), request(), request(*range(12))]
    lists = path(heads, weight=weight).recommend(asked, 6, ListRules())
    for of, found in zip(asked, lists, strict=True):
        code, dense = scores(of)
        total = (1 - weight) * np.where(np.isfinite(code), code, -1e9) + weight * np.where(
            np.isfinite(dense), dense, -1e9
        )
        total[list(of.history)] = -np.inf
        expected = np.argsort(-total, kind="stable")[:6]
        assert found.items.tolist() == expected.tolist()
        np.testing.assert_allclose(found.scores, total[expected], atol=1e-4)


@pytest.mark.parametrize(("heads", "weight"), [("fused", 0.25), ("code", 0.0), ("dense", 1.0)])
def test_given_items_get_the_scores_that_lists_have(heads: Heads, weight: float) -> None:
    asked = [
        request(1, 2, 3),
        request(),
        *(request(number % 24) for number in range(70)),
    ]  # more than one batch
    own = path(heads, weight=weight)
    items = [np.array([7, 4, 23]), np.array([], dtype=np.int64), *[np.array([0, 9, 5, 11])] * 70]
    found = own.score(asked, items)
    for of, given_items, given_scores in zip(asked[:4], items, found, strict=False):
        code, dense = scores(of)
        with np.errstate(
            invalid="ignore"
        ):  # the code head has no likelihood of a retired item, here or there
            total = (0 if heads == "dense" else (1 - weight) * code) + (
                0 if heads == "code" else weight * dense
            )
        expected = np.where(np.isin(given_items, (4, 9)), -np.inf, total[given_items])
        np.testing.assert_allclose(given_scores, expected, atol=1e-4)
    [shown] = own.recommend(asked[:1], 6, ListRules())
    np.testing.assert_allclose(own.score(asked[:1], [shown.items])[0], shown.scores, atol=1e-4)


def test_scores_of_items_that_do_not_exist_are_refused() -> None:
    with pytest.raises(DataError, match="item index 24"):
        path().score([request(1)], [np.array([3, 24])])
    with pytest.raises(DataError, match="1 arrays of items for 2 requests"):
        path().score([request(1), request(2)], [np.array([3])])
    assert path().score([], []) == []


def test_sources_tell_who_proposed() -> None:
    narrow = path(beam=3, dense=3).recommend([request(1, 2)], 3, ListRules())[0]
    assert set(narrow.sources) <= {"beam", "dense", "beam+dense"}
    assert set(path("code").recommend([request(1)], 3, ListRules())[0].sources) == {"beam"}
    assert set(path("dense").recommend([request(1)], 3, ListRules())[0].sources) == {"dense"}
    wide = path().recommend([request(1)], 3, ListRules())[0]
    assert set(wide.sources) == {"beam+dense"}


@given(
    st.lists(st.integers(0, 23), max_size=12),
    st.lists(st.booleans(), min_size=24, max_size=24),
    st.lists(st.integers(0, 23), max_size=5),
    st.integers(1, 30),
    st.integers(1, 6),
    st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_no_rule_is_ever_broken(
    history: list[int], allowed: list[bool], excluded: list[int], k: int, width: int, filter_seen: bool
) -> None:
    rules = ListRules(
        filter_seen=filter_seen, allowed=np.array(allowed), excluded=np.array(excluded, dtype=np.int64)
    )
    found = path(beam=width, dense=width).recommend([request(*history)], k, rules)[0]
    hidden = set(excluded) | {4, 9} | (set(history) if filter_seen else set())
    shown = {item for item in range(24) if allowed[item]} - hidden
    assert set(found.items.tolist()) <= shown
    assert len(found.items) == len(set(found.items.tolist())) == min(k, len(shown))
    assert bool((np.diff(found.scores) <= 0).all())


def test_a_list_does_not_depend_on_who_else_asks() -> None:
    asked = [request(1, 2, 3), request(5), request(), request(*range(10))]
    together = path().recommend(asked, 5, ListRules())
    for of, found in zip(asked, together, strict=True):
        alone = path().recommend([of], 5, ListRules())[0]
        assert alone.items.tolist() == found.items.tolist()


def test_variants_share_the_model_and_keep_the_original() -> None:
    fused = path(weight=0.25)
    assert fused.variant("code").dense_weight == 0.0
    assert fused.variant("dense").dense_weight == 1.0
    assert fused.variant("fused").dense_weight == 0.25
    assert fused.variant("dense").variant("fused").dense_weight == 0.25
    assert fused.variant("code").model is fused.model


def test_bad_requests_are_named() -> None:
    with pytest.raises(DataError, match="k is 0"):
        path().recommend([request(1)], 0, ListRules())
    with pytest.raises(DataError, match="item index 99"):
        path().recommend([request(99)], 5, ListRules())
    with pytest.raises(ConfigurationError, match="between 0 and 1"):
        path(weight=1.5)
    with pytest.raises(ConfigurationError, match="one of fused, code, dense"):
        path("both")  # type: ignore[arg-type]
    assert path().recommend([], 5, ListRules()) == []


def test_a_saved_model_recommends_the_same(tmp_path) -> None:
    save_model(tmp_path, MODEL, tiny.SETTINGS, 0.25)
    again = load_path(
        tmp_path, BOUND, DecodingSettings(beam_width=24, dense_candidates=24).model_dump(mode="json")
    )
    asked = [request(1, 2, 3)]
    first, second = path(weight=0.25).recommend(asked, 9, ListRules()), again.recommend(asked, 9, ListRules())
    assert first[0].items.tolist() == second[0].items.tolist()
    np.testing.assert_array_equal(first[0].scores, second[0].scores)
    assert load_path(tmp_path, BOUND, DecodingSettings(), heads="code").dense_weight == 0.0


def test_a_damaged_or_foreign_model_is_refused(tmp_path) -> None:
    with pytest.raises(ArtifactError, match=r"config\.json is missing"):
        load_model(tmp_path, BOUND)
    save_model(tmp_path, MODEL, tiny.SETTINGS, 0.5)
    other = BoundItems(
        codebook_id="e" * 64,
        level_sizes=BOUND.level_sizes,
        codes=BOUND.codes,
        vectors=BOUND.vectors,
        present=BOUND.present,
        active=BOUND.active,
    )
    with pytest.raises(BindingError, match="bind an item map of the model's codebook"):
        load_model(tmp_path, other)
    stored = load_file(tmp_path / "model.safetensors")
    earlier = {name.removeprefix("tower."): value for name, value in stored.items()}
    save_file(earlier, tmp_path / "model.safetensors")
    with pytest.raises(
        ArtifactError, match=r"it lacks .* and \d+ more; nobody knows .*train the model again"
    ):
        load_model(tmp_path, BOUND)
    save_file({**stored, "missing": torch.zeros(7)}, tmp_path / "model.safetensors")
    with pytest.raises(ArtifactError, match=r"this version's HouseModel \(.*size mismatch for missing"):
        load_model(tmp_path, BOUND)
    save_file(stored, tmp_path / "model.safetensors")
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ArtifactError, match="does not hold the model's weights"):
        load_model(tmp_path, BOUND)
    (tmp_path / "config.json").write_text('{"settings": {"dimensions": "many"}}')
    with pytest.raises(ArtifactError, match="describes no model"):
        load_model(tmp_path, BOUND)
