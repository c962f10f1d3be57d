"""One space for all modalities: what it promises, on items whose modalities say the same thing in different words."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.data.sequences import Sequences
from segue.encoders.collaborative import consumed_together, cooccurrences
from segue.errors import BindingError, DataError
from segue.items import ItemVectors
from segue.tokenizers.alignment import Alignment
from segue.tokenizers.codebook import Codebook, EncoderIdentity
from segue.tokenizers.retrieval import cross_modal_recall, nearest
from segue.tokenizers.settings import AlignmentSettings, TokenizerSettings

ITEMS, TASTES = 200, 8
SMALL = AlignmentSettings(steps=150, batch_size=128)
WEIGHTS = {"text": 1.0, "image": 1.0, "collaborative": 1.0}
IDS = [f"i{item:03d}" for item in range(ITEMS)]


@pytest.fixture(scope="module")
def modalities() -> dict[str, ItemVectors]:
    """Each modality is another linear view of the same hidden item, with noise; every third has no picture."""
    generator = np.random.default_rng(0)
    hidden = generator.normal(size=(ITEMS, TASTES))
    found = {}
    for name, width in (("text", 24), ("image", 40), ("collaborative", 12)):
        rows = hidden @ generator.normal(size=(TASTES, width)) + 0.3 * generator.normal(size=(ITEMS, width))
        present = np.ones(ITEMS, dtype=bool)
        if name == "image":
            present[::3] = False
        found[name] = ItemVectors(
            vectors=(rows * present[:, None]).astype(np.float32), present=present, item_ids=IDS
        )
    return found


@pytest.fixture(scope="module")
def pairs() -> np.ndarray:
    """Items beside their nearest in taste."""
    hidden = np.random.default_rng(0).normal(size=(ITEMS, TASTES))
    hidden /= np.linalg.norm(hidden, axis=1, keepdims=True)
    cosines = hidden @ hidden.T - 2 * np.eye(ITEMS)
    near = np.argsort(-cosines, axis=1)[:, :3]
    return np.stack([np.repeat(np.arange(ITEMS), 3), near.ravel()], axis=1)


@pytest.fixture(scope="module")
def alignment(modalities: dict[str, ItemVectors], pairs: np.ndarray) -> Alignment:
    return Alignment.fit(modalities, WEIGHTS, 16, pairs=pairs, settings=SMALL, seed=1)


def test_equal_arguments_give_equal_bytes_and_another_seed_others(
    alignment: Alignment, modalities: dict[str, ItemVectors], pairs: np.ndarray
) -> None:
    again = Alignment.fit(modalities, WEIGHTS, 16, pairs=pairs, settings=SMALL, seed=1)
    other = Alignment.fit(modalities, WEIGHTS, 16, pairs=pairs, settings=SMALL, seed=2)
    for name, array in alignment.arrays().items():
        assert array.tobytes() == again.arrays()[name].tobytes()
    assert not np.array_equal(alignment.maps["text"], other.maps["text"])


def test_a_single_modality_lands_near_the_whole_item(
    alignment: Alignment, modalities: dict[str, ItemVectors]
) -> None:
    whole, present = alignment.fuse(modalities)
    assert present.all()
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, rtol=1e-5)
    for name in modalities:
        has = modalities[name].present
        alone = alignment.project(name, modalities[name])
        own = (alone * whole).sum(axis=1)[has]
        others = (alone @ whole.T)[has]
        assert (others > own[:, None]).sum(axis=1).mean() < ITEMS / 20  # mean rank; by chance: half of them
        assert not alone[~has].any()


def test_what_nobody_has_is_left_out_and_an_item_of_nothing_is_absent(
    alignment: Alignment, modalities: dict[str, ItemVectors]
) -> None:
    nothing = {
        name: ItemVectors(np.zeros_like(each.vectors), np.zeros(ITEMS, dtype=bool), IDS)
        for name, each in modalities.items()
    }
    vectors, present = alignment.fuse(nothing)
    assert not vectors.any()
    assert not present.any()
    only_text = Alignment.fit(
        {"text": modalities["text"], "image": nothing["image"]}, WEIGHTS, 8,
        pairs=np.zeros((0, 2), dtype=np.int64), settings=AlignmentSettings(steps=2), seed=1,
    )  # fmt: skip
    assert list(only_text.modalities) == ["text"]
    with pytest.raises(DataError, match="no item has a vector"):
        Alignment.fit(nothing, WEIGHTS, 8, pairs=np.zeros((0, 2), np.int64), settings=SMALL, seed=1)
    with pytest.raises(BindingError, match="text is missing"):
        alignment.fuse({name: each for name, each in modalities.items() if name != "text"})
    broken = modalities["text"].vectors.copy()
    broken[7, 0] = np.nan
    with pytest.raises(DataError, match="i007"):
        alignment.fuse({**modalities, "text": ItemVectors(broken, np.ones(ITEMS, dtype=bool), IDS)})


def test_a_codebook_over_it_is_stored_whole(
    modalities: dict[str, ItemVectors], pairs: np.ndarray, tmp_path: Path
) -> None:
    encoders = {name: EncoderIdentity(name=name, weights_sha256="w") for name in modalities}
    chosen = TokenizerSettings(
        fusion="contrastive", alignment=SMALL, level_sizes=(8, 8, 64), dimensions=16, modality_weights=WEIGHTS
    )
    codebook = Codebook.fit(modalities, encoders, chosen, pairs)
    codebook.save(tmp_path)
    loaded = Codebook.load(tmp_path)
    assert loaded.codebook_id == codebook.codebook_id
    vectors, _ = codebook.fuse(modalities)
    same, _ = loaded.fuse(modalities)
    assert vectors.tobytes() == same.tobytes()
    assert isinstance(loaded.fusion, Alignment)


def test_texts_and_pictures_find_items_that_the_alignment_never_saw(
    modalities: dict[str, ItemVectors], pairs: np.ndarray
) -> None:
    chosen = TokenizerSettings(fusion="contrastive", alignment=SMALL, dimensions=16, modality_weights=WEIGHTS)
    found = cross_modal_recall(modalities, pairs, chosen, k=10)
    assert set(found) == {"text", "image"}
    for figures in found.values():
        assert figures["by_chance"] == pytest.approx(0.05, abs=0.01)
        assert figures["recall"] > 0.5
    shuffled = modalities["text"].vectors[np.random.default_rng(3).permutation(ITEMS)]
    nonsense = {**modalities, "text": ItemVectors(shuffled, np.ones(ITEMS, dtype=bool), IDS)}
    assert cross_modal_recall(nonsense, pairs, chosen, k=10)["text"]["recall"] < 0.25


def test_a_space_in_which_all_are_alike_finds_nothing(
    modalities: dict[str, ItemVectors], pairs: np.ndarray
) -> None:
    alike = ItemVectors(np.ones((ITEMS, 3), dtype=np.float32), np.ones(ITEMS, dtype=bool), IDS)
    chosen = TokenizerSettings(
        fusion="contrastive", alignment=SMALL, dimensions=16, modality_weights={"text": 1.0, "attribute": 1.0}
    )
    found = cross_modal_recall({"text": modalities["text"], "attribute": alike}, pairs, chosen, k=10)
    assert found["text"]["recall"] <= 0.2


def test_a_modality_of_nothing_but_zeros_counts_as_absent(modalities: dict[str, ItemVectors]) -> None:
    zeros = ItemVectors(np.zeros((ITEMS, 3), dtype=np.float32), np.ones(ITEMS, dtype=bool), IDS)
    fitted = Alignment.fit(
        {"text": modalities["text"], "image": zeros}, WEIGHTS, 8,
        pairs=np.zeros((0, 2), np.int64), settings=AlignmentSettings(steps=2), seed=1,
    )  # fmt: skip
    assert list(fitted.modalities) == ["text"]


def test_a_codebook_from_before_there_was_a_choice_is_read_and_keeps_its_id(
    modalities: dict[str, ItemVectors], tmp_path: Path
) -> None:
    encoders = {name: EncoderIdentity(name=name, weights_sha256="w") for name in modalities}
    chosen = TokenizerSettings(level_sizes=(8, 8, 64), dimensions=16, modality_weights=WEIGHTS)
    codebook = Codebook.fit(modalities, encoders, chosen)
    codebook.save(tmp_path)
    description = json.loads((tmp_path / "codebook.json").read_text())
    assert set(description) == {
        "codebook_id", "tokenizer", "level_sizes", "used_sizes", "dimensions", "modalities", "encoders",
    }  # fmt: skip
    assert Codebook.load(tmp_path).codebook_id == codebook.codebook_id


@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_nearest_is_a_full_sort(items: int, k: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    vectors = generator.integers(-2, 3, size=(items, 3)).astype(np.float32)
    query = generator.normal(size=3).astype(np.float32)
    allowed = generator.random(items) < 0.8
    rows, cosines = nearest(query, vectors, allowed, k)
    expected = sorted(
        (
            (-float(v @ query.astype(float)) / (np.linalg.norm(v) * np.linalg.norm(query)), row)
            for row, v in enumerate(vectors.astype(float))
            if allowed[row] and v.any()
        ),
    )[:k]
    np.testing.assert_allclose(cosines, [-value for value, _ in expected], atol=1e-6)
    assert len(set(rows.tolist())) == len(rows) == len(expected)
    assert allowed[rows].all()


def test_pairs_are_drawn_as_often_as_items_stand_together() -> None:
    events = [0, 1, 2, 0, 1, 3, 4, 3, 4, 3, 4]
    training = Sequences(
        items=np.array(events, dtype=np.int32),
        timestamps=np.arange(len(events), dtype=np.int64),
        offsets=np.array([0, 5, 11], dtype=np.int64),
        validation_at=np.array([-1, -1], dtype=np.int32),
        test_at=np.array([-1, -1], dtype=np.int32),
        user_ids=["a", "b"],
    )
    counts = cooccurrences(training, 6, 1).toarray()
    drawn = consumed_together(training, 6, window=1, count=20_000, seed=1)
    seen = Counter(tuple(sorted(pair)) for pair in drawn.tolist())
    total = counts.sum() / 2
    assert set(seen) == {(i, j) for i in range(6) for j in range(i + 1, 6) if counts[i, j]}
    for (i, j), times in seen.items():
        assert times / 20_000 == pytest.approx(counts[i, j] / total, abs=0.02)
    assert {tuple(pair) for pair in drawn.tolist()} >= {(3, 4), (4, 3)}
    alone = training.__class__(**{**vars_of(training), "items": np.zeros(len(events), dtype=np.int32)})
    assert consumed_together(alone, 6, window=1, count=5, seed=1).shape == (0, 2)


def vars_of(sequences: Sequences) -> dict[str, object]:
    return {name: getattr(sequences, name) for name in Sequences.__dataclass_fields__}
