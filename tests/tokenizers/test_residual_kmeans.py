from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.errors import ConfigurationError, DataError
from segue.tokenizers.registry import load_tokenizer
from segue.tokenizers.residual_kmeans import ResidualKMeans
from segue.tokenizers.settings import TokenizerSettings


def _settings(*sizes: int) -> TokenizerSettings:
    return TokenizerSettings(level_sizes=sizes, iterations=5)


def _vectors(count: int, width: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


@given(seed=st.integers(0, 1000), levels=st.integers(1, 3))
@settings(max_examples=15, deadline=None)
def test_assignment_equals_brute_force(seed: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    model = ResidualKMeans(tuple(rng.normal(size=(7, 5)).astype(np.float32) for _ in range(levels)))
    vectors = _vectors(30, seed=seed)
    for vector, codes in zip(vectors, model.encode(vectors), strict=True):
        left = vector.astype(np.float64)
        for level, table in enumerate(model.centroids):
            distances = [float(((left - centroid) ** 2).sum()) for centroid in table.astype(np.float64)]
            assert codes[level] == int(np.argmin(distances))
            left = left - table[codes[level]]


@given(seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_nearest_prefixes_unpruned_is_the_order_of_all_reconstructions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    model = ResidualKMeans(tuple(rng.normal(size=(size, 4)).astype(np.float32) for size in (5, 3, 2)))
    vector = rng.normal(size=4).astype(np.float32)
    everything = np.array(list(product(range(5), range(3), range(2))))
    distances = ((vector.astype(np.float64) - model.reconstruct(everything)) ** 2).sum(axis=1)
    np.testing.assert_array_equal(model.nearest_prefixes(vector, 1000), everything[np.argsort(distances)])
    pruned = model.nearest_prefixes(vector, 2)
    assert len(pruned) == 2 * 2


@given(
    seed=st.integers(0, 1000),
    width=st.integers(1, 20),
    most=st.integers(1, 30),
    offset=st.sampled_from([0.0, 1e4]),
)
@settings(max_examples=30, deadline=None)
def test_a_pruned_search_keeps_the_nearest_of_each_level(
    seed: int, width: int, most: int, offset: float
) -> None:
    """The same beam search with residuals formed one by one. A large offset leaves float32 nothing to tell apart."""
    rng = np.random.default_rng(seed)
    sizes = (20, 16, 10)
    tables = [rng.normal(size=(size, 3)) for size in sizes]
    tables[0] += offset
    model = ResidualKMeans(tuple(table.astype(np.float32) for table in tables))
    vector = (offset + rng.normal(size=3)).astype(np.float32)
    beam: list[tuple[int, ...]] = [()]
    for level, table in enumerate(model.centroids):
        grown = [(*prefix, code) for prefix in beam for code in range(len(table))]

        def left(prefix: tuple[int, ...]) -> float:
            taken = sum(model.centroids[each][code].astype(np.float64) for each, code in enumerate(prefix))
            return float(((vector - taken) ** 2).sum())

        beam = sorted(grown, key=left)[: most if level == len(sizes) - 1 else width]
    assert [tuple(prefix) for prefix in model.nearest_prefixes(vector, width, most).tolist()] == beam


def test_each_level_lowers_the_reconstruction_error() -> None:
    vectors = _vectors(300)
    errors = [float((vectors**2).sum())]
    for levels in (1, 2, 3):
        model = ResidualKMeans.fit(vectors, _settings(*[8] * levels, 4))
        assert model.used_sizes == (8,) * levels
        errors.append(float(((vectors - model.reconstruct(model.encode(vectors))) ** 2).sum()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.6 * errors[0]


def test_fitting_is_deterministic_and_seeded() -> None:
    vectors = _vectors(200)
    first, second = (ResidualKMeans.fit(vectors, _settings(8, 8, 4)) for _ in range(2))
    for one, two in zip(first.centroids, second.centroids, strict=True):
        assert one.tobytes() == two.tobytes()
    other = ResidualKMeans.fit(vectors, _settings(8, 8, 4).model_copy(update={"seed": 3}))
    assert other.centroids[0].tobytes() != first.centroids[0].tobytes()


@pytest.mark.parametrize("count", [2, 3, 7, 40])
def test_fewer_items_than_codes_uses_fewer_codes_and_reconstructs_exactly(count: int) -> None:
    vectors = _vectors(count)
    model = ResidualKMeans.fit(vectors, _settings(64, 32, 8))
    assert model.used_sizes == (count, 1)
    np.testing.assert_allclose(model.reconstruct(model.encode(vectors)), vectors, atol=1e-6)


def test_duplicates_count_once() -> None:
    vectors = np.repeat(_vectors(5), 20, axis=0)
    assert ResidualKMeans.fit(vectors, _settings(16, 4, 32)).used_sizes == (5, 1)


def test_constant_and_infinite_vectors_are_refused() -> None:
    with pytest.raises(DataError, match="at least two different"):
        ResidualKMeans.fit(np.ones((10, 3), dtype=np.float32), _settings(4, 4))
    broken = _vectors(10)
    broken[4, 1] = np.nan
    with pytest.raises(DataError, match="row 4"):
        ResidualKMeans.fit(broken, _settings(4, 4))


def test_tokenizers_are_found_by_name() -> None:
    assert load_tokenizer("residual_kmeans") is ResidualKMeans
    with pytest.raises(ConfigurationError, match=r"no tokenizer 'vq'; there are: .*residual_kmeans"):
        load_tokenizer("vq")


@pytest.mark.parametrize("sizes", [(8,), (8, 0), (2**31, 2**31, 4)])
def test_impossible_level_sizes_are_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="level_sizes"):
        TokenizerSettings(level_sizes=sizes)


@pytest.mark.parametrize("weights", [{"text": -1.0}, {"text": float("nan")}, {"text": 0.0}, {}])
def test_impossible_weights_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"modality|modalities"):
        TokenizerSettings(modality_weights=weights)
