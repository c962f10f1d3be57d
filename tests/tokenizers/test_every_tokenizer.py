"""What every tokenizer promises, whichever it is."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.errors import ArtifactError, DataError
from segue.tokenizers.codebook import Codebook
from segue.tokenizers.item_map import ItemMap
from segue.tokenizers.product_quantization import ProductQuantization
from segue.tokenizers.registry import BUILT_IN, load_tokenizer
from segue.tokenizers.residual_kmeans import ResidualKMeans
from segue.tokenizers.rqvae import RqVae
from segue.tokenizers.settings import TokenizerSettings

from .examples import ENCODERS, modalities

NAMES = tuple(sorted(BUILT_IN))
every_tokenizer = pytest.mark.parametrize("name", NAMES)


def _settings(name: str, *sizes: int, **changed: object) -> TokenizerSettings:
    vae = {"latent": 6, "hidden": (12,), "epochs": 6, "batch_size": 32, "learning_rate": 0.01}
    return TokenizerSettings.model_validate(
        {"name": name, "level_sizes": sizes, "iterations": 5, "dimensions": 6, "rqvae": vae, **changed}
    )


def _vectors(count: int, width: int = 7, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(5, width))[rng.integers(0, 5, count)] + 0.3 * rng.normal(size=(count, width))
    ).astype(np.float32)


def _book(name: str, count: int = 60, **changed: object) -> Codebook:
    return Codebook.fit(modalities(count), ENCODERS, _settings(name, 6, 4, 16, **changed))


@every_tokenizer
def test_equal_vectors_and_settings_give_equal_bytes_and_other_seeds_others(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors, tokenizer = _vectors(150), load_tokenizer(name)
    found = []
    for threads, seed in (("1", 17), ("3", 17), ("1", 4)):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        torch.manual_seed(int(threads))  # the caller's random state is not the tokenizer's
        arrays = tokenizer.fit(vectors, _settings(name, 8, 6, 4, seed=seed)).arrays()
        found.append({key: value.tobytes() for key, value in arrays.items()})
    assert found[0] == found[1]
    assert found[0] != found[2]


@every_tokenizer
@given(seed=st.integers(0, 1000), sizes=st.sampled_from([(8, 8, 4), (16, 4, 2, 8), (5, 3, 2)]))
@settings(max_examples=6, deadline=None)
def test_codes_are_within_their_levels_and_reconstruct_better_than_the_mean(
    name: str, seed: int, sizes: tuple[int, ...]
) -> None:
    vectors = _vectors(120, seed=seed)
    vectors -= vectors.mean(axis=0)
    model = load_tokenizer(name).fit(vectors, _settings(name, *sizes))
    codes = model.encode(vectors)
    assert codes.shape == (120, len(sizes) - 1)
    assert codes.dtype == np.int64
    assert all(used <= size for used, size in zip(model.used_sizes, sizes[:-1], strict=True))
    assert (codes >= 0).all()
    assert (codes < np.array(model.used_sizes)).all()
    np.testing.assert_array_equal(model.encode(vectors[:1]), codes[:1])
    assert model.encode(vectors[:0]).shape == (0, len(sizes) - 1)
    assert ((vectors - model.reconstruct(codes)) ** 2).sum() < (vectors**2).sum()


@every_tokenizer
def test_arrays_and_back_is_the_same_tokenizer(name: str) -> None:
    vectors = _vectors(100)
    made = load_tokenizer(name).fit(vectors, _settings(name, 8, 6, 4))
    again = load_tokenizer(name).from_arrays(made.arrays(), (8, 6, 4))
    new = _vectors(40, seed=9)
    np.testing.assert_array_equal(made.encode(new), again.encode(new))
    np.testing.assert_array_equal(made.reconstruct(made.encode(new)), again.reconstruct(again.encode(new)))
    assert made.used_sizes == again.used_sizes


@every_tokenizer
def test_damaged_arrays_are_refused(name: str) -> None:
    tokenizer = load_tokenizer(name)
    arrays = tokenizer.fit(_vectors(100), _settings(name, 8, 6, 4)).arrays()
    for key in arrays:
        with pytest.raises(KeyError):
            tokenizer.from_arrays(
                {other: value for other, value in arrays.items() if other != key}, (8, 6, 4)
            )
        broken = {**arrays, key: np.full_like(arrays[key], np.nan)}
        with pytest.raises(ValueError, match="finite"):
            tokenizer.from_arrays(broken, (8, 6, 4))
        with pytest.raises(ValueError, match=r"shape|fit|wide|numbers|number|meet"):
            tokenizer.from_arrays(
                {**arrays, key: np.concatenate([arrays[key], arrays[key]])[..., None]}, (8, 6, 4)
            )


@every_tokenizer
def test_constant_and_infinite_vectors_are_refused(name: str) -> None:
    tokenizer = load_tokenizer(name)
    with pytest.raises(DataError, match="at least two different"):
        tokenizer.fit(np.ones((10, 3), dtype=np.float32), _settings(name, 4, 4))
    for wrong in (np.nan, np.inf):
        broken = _vectors(10)
        broken[4, 1] = wrong
        with pytest.raises(DataError, match="row 4"):
            tokenizer.fit(broken, _settings(name, 4, 4))


@every_tokenizer
@pytest.mark.parametrize(("count", "width"), [(2, 7), (3, 1), (9, 2)])
def test_fewer_items_than_codes_still_gives_codes(name: str, count: int, width: int) -> None:
    vectors = _vectors(count, width)
    model = load_tokenizer(name).fit(vectors, _settings(name, 16, 16, 8))
    assert max(model.used_sizes) <= count
    assert np.isfinite(model.reconstruct(model.encode(vectors))).all()
    if name != "rqvae":  # a network need not be exact
        np.testing.assert_allclose(model.reconstruct(model.encode(vectors)), vectors, atol=1e-5)


@every_tokenizer
def test_duplicates_share_their_prefix(name: str) -> None:
    vectors = np.repeat(_vectors(20), 4, axis=0)
    codes = load_tokenizer(name).fit(vectors, _settings(name, 6, 4, 8)).encode(vectors).reshape(20, 4, 2)
    assert (codes == codes[:, :1]).all()


@every_tokenizer
def test_candidates_come_nearest_first_and_are_all_there_are(name: str) -> None:
    vectors = _vectors(80)
    model = load_tokenizer(name).fit(vectors, _settings(name, 5, 4, 3, 8))
    everything = np.array(list(product(*map(range, model.used_sizes))))
    for vector in _vectors(5, seed=3):
        found = model.nearest_prefixes(vector, 1000)
        assert sorted(map(tuple, found.tolist())) == list(map(tuple, everything.tolist()))
        if name != "rqvae":
            distances = ((vector.astype(np.float64) - model.reconstruct(found)) ** 2).sum(axis=1)
            assert (np.diff(distances) > -1e-9).all()
        assert len(model.nearest_prefixes(vector, 2)) < len(everything)


@given(seed=st.integers(0, 10_000), width=st.integers(1, 30))
@settings(max_examples=30, deadline=None)
def test_product_quantization_searches_exactly_however_narrow_the_search(seed: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    tables = tuple(rng.normal(size=(size, 2)).astype(np.float32) for size in (6, 5, 4))
    model = ProductQuantization(rotation, tables)
    vector = rng.normal(size=6).astype(np.float32)
    everything = np.array(list(product(range(6), range(5), range(4))))
    order = np.argsort(((vector.astype(np.float64) - model.reconstruct(everything)) ** 2).sum(axis=1))
    found = model.nearest_prefixes(vector, width)
    assert len(found) >= width
    np.testing.assert_array_equal(found, everything[order[: len(found)]])


@given(seed=st.integers(0, 1000), width=st.integers(3, 8))
@settings(max_examples=8, deadline=None)
def test_product_quantization_gives_each_piece_its_nearest_centroid_and_the_least_error(
    seed: int, width: int
) -> None:
    vectors = _vectors(150, width, seed)
    model = ProductQuantization.fit(vectors, _settings("product_quantization", 4, 3, 2, 8))
    np.testing.assert_allclose(model.rotation @ model.rotation.T, np.eye(width), atol=1e-9)
    everything = np.array(list(product(*map(range, model.used_sizes))))
    distances = ((vectors[:, None, :].astype(np.float64) - model.reconstruct(everything)) ** 2).sum(axis=2)
    chosen = model.encode(vectors)
    own = ((vectors - model.reconstruct(chosen)) ** 2).sum(axis=1)
    np.testing.assert_allclose(own, distances.min(axis=1), atol=1e-9)


def test_the_learnt_rotation_is_better_than_none() -> None:
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(600, 2)) @ rng.normal(size=(2, 8)) + 0.05 * rng.normal(size=(600, 8))).astype(
        np.float32
    )
    how = _settings("product_quantization", 16, 16, 8)
    learnt = ProductQuantization.fit(vectors, how)
    halves = [
        ResidualKMeans.fit(half, _settings("residual_kmeans", 16, 8)) for half in np.split(vectors, 2, axis=1)
    ]
    plain = ProductQuantization(np.eye(8), tuple(half.centroids[0] for half in halves))
    errors = [
        float(((vectors - model.reconstruct(model.encode(vectors))) ** 2).sum()) for model in (learnt, plain)
    ]
    assert errors[0] < 0.8 * errors[1]


def test_training_the_vae_helps_and_leaves_the_global_state_alone() -> None:
    vectors = _vectors(400)
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    errors = []
    for epochs in (1, 60):
        how = _settings("rqvae", 8, 8, 4)
        how = how.model_copy(update={"rqvae": how.rqvae.model_copy(update={"epochs": epochs})})
        model = RqVae.fit(vectors, how)
        errors.append(float(((vectors - model.reconstruct(model.encode(vectors))) ** 2).sum()))
    assert errors[1] < 0.7 * errors[0]
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.equal(torch.get_rng_state(), state)


def test_sinkhorn_uses_the_last_quantized_level_more_evenly() -> None:
    rng = np.random.default_rng(0)
    vectors = np.concatenate([_vectors(60), 0.05 * rng.normal(size=(300, 7)).astype(np.float32)])
    perplexity = []
    for sinkhorn in (False, True):
        how = _settings("rqvae", 4, 8, 4)
        vae = how.rqvae.model_copy(update={"sinkhorn": sinkhorn, "epochs": 30, "patience": 30})
        codes = RqVae.fit(vectors, how.model_copy(update={"rqvae": vae})).encode(vectors)[:, 1]
        shares = np.bincount(codes, minlength=8) / len(codes)
        perplexity.append(np.exp(-(shares[shares > 0] * np.log(shares[shares > 0])).sum()))
    assert perplexity[1] > perplexity[0]


@every_tokenizer
def test_codebooks_and_item_maps_of_every_tokenizer_go_round(name: str, tmp_path: Path) -> None:
    book = _book(name)
    book.save(tmp_path / "book")
    loaded = Codebook.load(tmp_path / "book")
    assert loaded.codebook_id == book.codebook_id
    given_items = modalities(60)
    ids = given_items["text"].item_ids
    vectors, present = book.fuse(given_items)
    item_map = ItemMap.build(loaded, ids, vectors, present)
    np.testing.assert_array_equal(item_map.items_of(item_map.codes), np.arange(60))
    assert item_map.insert(loaded, ids, vectors, present) is item_map  # who was there keeps its codes
    new = modalities(20, seed=3, first=500)
    grown = item_map.insert(loaded, new["text"].item_ids, *loaded.fuse(new))
    np.testing.assert_array_equal(grown.codes[:60], item_map.codes)
    assert len(np.unique(grown.codes, axis=0)) == 80
    (tmp_path / "book" / "codebook.safetensors").write_bytes(b"nothing")
    with pytest.raises(ArtifactError, match="damaged"):
        Codebook.load(tmp_path / "book")


def test_a_large_catalogue_is_fitted_on_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = _vectors(3000)
    whole = ResidualKMeans.fit(vectors, _settings("residual_kmeans", 8, 6, 4))
    monkeypatch.setattr("segue.tokenizers.residual_kmeans.MAX_ROWS", 1000)
    monkeypatch.setattr("segue.tokenizers.residual_kmeans.SAMPLE_PER_CODE", 100)
    sampled, again = (ResidualKMeans.fit(vectors, _settings("residual_kmeans", 8, 6, 4)) for _ in range(2))
    assert sampled.used_sizes == (8, 6)
    assert [table.tobytes() for table in sampled.centroids] == [table.tobytes() for table in again.centroids]
    assert sampled.centroids[0].tobytes() != whole.centroids[0].tobytes()
    errors = [((vectors - each.reconstruct(each.encode(vectors))) ** 2).sum() for each in (sampled, whole)]
    assert errors[0] < 1.1 * errors[1]
