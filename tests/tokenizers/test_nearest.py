"""Fast assignment is exact, and threads change nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.tokenizers import kmeans, parallel, residual
from segue.tokenizers.nearest import Cascade, Nearest
from segue.tokenizers.residual_kmeans import different_rows
from segue.tokenizers.screens import Float32Screen, IntegerScreen

ONES = np.ones((1, 1))
WITH_BYTES = pytest.mark.skipif(
    not IntegerScreen.pays([ONES], ONES), reason="the integer screen needs a processor with AMX"
)


def _float64(rows: np.ndarray, table: np.ndarray, prices: np.ndarray) -> np.ndarray:
    differences = rows[:, None, :].astype(np.float64) - table.astype(np.float64)
    return np.asarray(np.argmin((differences**2).sum(axis=2) + prices, axis=1))


@given(
    seed=st.integers(0, 10_000),
    width=st.integers(1, 80),
    size=st.integers(1, 60),
    offset=st.sampled_from([0.0, 1.0, 1e3]),
    priced=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_the_screened_search_gives_the_codes_of_float64(
    seed: int, width: int, size: int, offset: float, priced: bool
) -> None:
    """A large offset drowns the differences in what float32 cannot hold: the screen must not trust itself there."""
    rng = np.random.default_rng(seed)
    table = (offset + rng.normal(size=(size, width))).astype(np.float32)
    rows = offset + rng.normal(size=(50, width))
    prices = rng.random(size) if priced else np.zeros(size)
    np.testing.assert_array_equal(Nearest(table, prices)(rows), _float64(rows, table, prices))


def test_rows_halfway_between_centroids_are_decided_in_float64() -> None:
    table = np.array([[0.0, 0.0], [1.0, 0.0]], dtype=np.float32)
    nudges = np.array([-1e-9, 0.0, 1e-9])
    rows = np.stack([0.5 + nudges, np.full(3, 100.0)], axis=1)
    assert Nearest(table)(rows).tolist() == [0, 0, 1]
    assert Nearest(np.full((1, 2), 1e30, dtype=np.float32))(rows).tolist() == [0, 0, 0]  # beyond float32
    assert Nearest(table)(np.zeros((0, 2))).shape == (0,)


def _cascade_by_hand(rows: np.ndarray, tables: list[np.ndarray], prices: list[np.ndarray]) -> np.ndarray:
    left, codes = rows.astype(np.float64), []
    for table, price in zip(tables, prices, strict=True):
        codes.append(_float64(left, table, price))
        left = left - table[codes[-1]]
    return np.stack(codes, axis=1)


def _levels(rng: np.random.Generator, size: int, width: int, offset: float) -> list[np.ndarray]:
    tables = [offset + rng.normal(size=(size, width)), *0.3 * rng.normal(size=(2, size, width))]
    return [table.astype(np.float32) for table in tables]


@pytest.mark.parametrize("sampled", [False, pytest.param(True, marks=WITH_BYTES)])
@given(
    seed=st.integers(0, 10_000),
    width=st.integers(1, 80),
    size=st.integers(1, 40),
    offset=st.sampled_from([0.0, 1.0, 1e3]),
    priced=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_a_cascade_gives_the_codes_of_residuals_in_float64(
    sampled: bool, seed: int, width: int, size: int, offset: float, priced: bool
) -> None:
    """Also for rows far beyond the sample, between two centroids, and with dimensions that the sample lacks."""
    rng = np.random.default_rng(seed)
    tables = _levels(rng, size, width, offset)
    prices = [rng.random(size) if priced else np.zeros(size) for _ in tables]
    rows = (offset + rng.normal(size=(60, width))).astype(np.float32)
    sample = rows[:20].copy()
    sample[:, -1] = 0.0
    rows[-1] *= 40.0
    rows[-2] = (tables[0][0] + tables[0][-1]) / 2
    search = Cascade(tables, prices, sample if sampled else None)
    assert isinstance(search._screen, IntegerScreen) == (sampled and width > 1)
    np.testing.assert_array_equal(search(rows), _cascade_by_hand(rows, tables, prices))


@pytest.mark.parametrize("kind", [Float32Screen, pytest.param(IntegerScreen, marks=WITH_BYTES)])
@pytest.mark.parametrize("width", [3, 384])
def test_no_score_is_further_off_than_the_doubt_allows(kind: type, width: int) -> None:
    rng = np.random.default_rng(width)
    spread = 1.0 / np.sqrt(1.0 + np.arange(width))
    tables = [(table * spread).astype(np.float32).astype(np.float64) for table in _levels(rng, 50, width, 0)]
    rows = (rng.normal(size=(400, width)) * spread).astype(np.float32)
    offsets = [(table**2).sum(axis=1) for table in tables]
    screen = kind(tables, offsets, *([rows] if kind is IntegerScreen else []))
    begun = screen.begin(rows)
    for level, table in enumerate(tables):
        scores = np.repeat(offsets[level].astype(np.float32)[None], len(rows), axis=0)
        begun.add_products(level, scores)
        wrong = np.abs(scores - (offsets[level] - 2.0 * rows.astype(np.float64) @ table.T)).max(axis=1)
        assert (2.0 * wrong <= begun.doubt(level)).all()
        assert np.median(begun.doubt(level)) < 0.01  # and the doubt is small enough to be of use


@WITH_BYTES
def test_both_screens_lead_to_the_same_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    tables = _levels(rng, 32, 24, 0.0)
    rows = rng.normal(size=(20_000, 24)).astype(np.float32)
    rows[17] = np.nan
    codes = residual.encode(rows, tables)
    monkeypatch.setattr(IntegerScreen, "pays", lambda *_: False)
    np.testing.assert_array_equal(residual.encode(rows, tables), codes)


@pytest.mark.parametrize("threads", ["2", "5"])
def test_the_number_of_threads_changes_no_byte(monkeypatch: pytest.MonkeyPatch, threads: str) -> None:
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(30, 24))[rng.integers(0, 30, 20_000)] + rng.normal(size=(20_000, 24))).astype(
        np.float32
    )
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    table = kmeans.k_means(rows, 40, 3)
    codes = residual.encode(rows, [table, table / 2])
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    assert parallel.workers() == int(threads)
    assert kmeans.k_means(rows, 40, 3).tobytes() == table.tobytes()
    np.testing.assert_array_equal(residual.encode(rows, [table, table / 2]), codes)


def test_blocks_come_back_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert parallel.map_blocks(lambda part: (part.start, part.stop), 10, 4) == [(0, 4), (4, 8), (8, 10)]
    assert parallel.map_blocks(lambda part: part, 0, 4) == []


def test_one_pass_moves_centroids_to_the_means_of_their_rows() -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(5000, 6)).astype(np.float32)
    table = np.concatenate([rng.normal(size=(7, 6)), np.full((1, 6), 100.0)]).astype(np.float32)
    codes = _float64(rows, table, np.zeros(8))
    moved = kmeans.lloyd(rows, table)
    for code in range(7):
        np.testing.assert_allclose(moved[code], rows[codes == code].mean(axis=0), atol=1e-5)
    distances = ((rows - table[codes]) ** 2).sum(axis=1)
    np.testing.assert_array_equal(moved[7], rows[np.argmax(distances)])  # nobody's centroid


def test_many_rows_are_clustered_as_well_as_by_faiss() -> None:
    import faiss

    rng = np.random.default_rng(2)
    rows = (
        rng.normal(size=(60, 16))[rng.integers(0, 60, 12_000)] + 0.4 * rng.normal(size=(12_000, 16))
    ).astype(np.float32)
    peer = faiss.Kmeans(16, 32, niter=20, seed=1)
    peer.train(rows)

    def error(table: np.ndarray) -> float:
        return float(((rows - table[Nearest(table)(rows.astype(np.float64))]) ** 2).sum())

    assert error(kmeans.k_means(rows, 32, 1)) < 1.03 * error(peer.centroids)


def test_different_rows_are_counted_however_late_they_come() -> None:
    rows = np.zeros((1000, 2), dtype=np.float32)
    rows[-3:, 0] = [1, 2, 3]
    assert different_rows(rows, 3) is None
    found = different_rows(rows, 4)
    assert found is not None
    assert found[:, 0].tolist() == [0, 1, 2, 3]


@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 400),
    most=st.integers(1, 30),
    values=st.sampled_from([3, 1000]),
)
@settings(max_examples=60, deadline=None)
def test_the_smallest_are_those_of_a_full_stable_sort(seed: int, count: int, most: int, values: int) -> None:
    """Few different values make many ties."""
    drawn = np.random.default_rng(seed).integers(0, values, count).astype(np.float64)
    expected = np.argsort(drawn, kind="stable")
    np.testing.assert_array_equal(residual.smallest(drawn, most), expected[:most])
    np.testing.assert_array_equal(residual.smallest(drawn, None), expected)
