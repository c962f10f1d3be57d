"""Residual k-means: each level quantizes what the levels before it left over.

Residual (multi-stage) vector quantization as in Juang and Gray 1982, the plain form of the residual quantizer
with which TIGER (Rajput et al. 2023, section 3.1) makes semantic IDs. Training is FAISS's k-means, or
:mod:`segue.tokenizers.kmeans` on a sample where there are many items; assignment is exact nearest-centroid search,
decided in float64, here in NumPy, so that serving needs no FAISS and gives the same codes everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from segue.tokenizers import residual
from segue.tokenizers.kmeans import k_means as sampled_k_means
from segue.tokenizers.kmeans import left_over
from segue.tokenizers.registry import Codes
from segue.tokenizers.screens import Floats
from segue.tokenizers.settings import TokenizerSettings

MAX_POINTS_PER_CENTROID = 1024  # more are sampled (seeded): they move a centroid no further
MAX_ROWS = 1 << 16  # more items than this, and than SAMPLE_PER_CODE a code, are too many for FAISS's k-means
SAMPLE_PER_CODE = 256
SAMPLED = 2  # times as many rows as that are the sample


@dataclass(frozen=True)
class ResidualKMeans:
    """One table of centroids a quantized level; a prefix stands for the sum of its centroids."""

    name: ClassVar[str] = "residual_kmeans"

    centroids: tuple[npt.NDArray[np.float32], ...]  # per level [codes in use, d]

    @property
    def used_sizes(self) -> tuple[int, ...]:
        return tuple(len(table) for table in self.centroids)

    @classmethod
    def fit(cls, vectors: npt.NDArray[np.float32], settings: TokenizerSettings) -> Self:
        """Fit all levels but the last, one after the other.

        A level gets at most as many codes as there are different residuals, so a small catalogue leaves codes
        unused and its items still get IDs. Raises DataError for vectors that are not finite or all the same.
        """
        residual.require_different_vectors(vectors)
        sizes = settings.level_sizes[:-1]
        limit = max(MAX_ROWS, SAMPLE_PER_CODE * max(sizes))
        if len(vectors) > limit:
            rows = sample(vectors, SAMPLED * limit, settings.seed)
            return cls(_fit_sample(rows, sizes, settings.seed))
        tables: list[npt.NDArray[np.float32]] = []
        residuals = vectors.astype(np.float64)
        for level, size in enumerate(sizes):
            table = k_means(residuals.astype(np.float32), size, settings.iterations, settings.seed + level)
            tables.append(table)
            if level < len(sizes) - 1:
                residuals = residuals - table[residual.encode(residuals, [table])[:, 0]]
        return cls(tuple(tables))

    def encode(self, vectors: npt.NDArray[np.float32]) -> Codes:
        """Greedy residual codes [N, P]: the nearest centroid on each level, ties to the smaller code."""
        return residual.encode(vectors, self.centroids)

    def reconstruct(self, prefixes: Codes) -> Floats:
        """Sums of centroids [N, d]."""
        return residual.reconstruct(prefixes, self.centroids)

    def nearest_prefixes(self, vector: npt.NDArray[np.float32], width: int, most: int | None = None) -> Codes:
        """Beam search over the levels by what is left of the vector; exact where nothing is pruned."""
        return self._prefixes(vector, width, most)

    @cached_property
    def _prefixes(self) -> residual.PrefixSearch:
        return residual.PrefixSearch(self.centroids)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {f"quantizer.{level}": table for level, table in enumerate(self.centroids)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], level_sizes: tuple[int, ...]) -> Self:
        return cls(tuple(residual.tables_of(arrays, "quantizer", level_sizes)))


def sample(vectors: npt.NDArray[np.float32], limit: int, seed: int) -> npt.NDArray[np.float32]:
    """At most ``limit`` of ``vectors`` [N, d], seeded, in their own order."""
    if len(vectors) <= limit:
        return vectors
    return vectors[np.sort(np.random.default_rng(seed).choice(len(vectors), limit, replace=False))]


def different_rows(rows: npt.NDArray[np.float32], more_than: int) -> npt.NDArray[np.float32] | None:
    """The different ``rows``, sorted, or None where there are more than ``more_than``.

    Most of the time the first few rows already settle it, and sorting all of them would take longer than k-means.
    """
    if len(np.unique(rows[: 4 * more_than], axis=0)) > more_than:
        return None
    different = np.unique(rows, axis=0)
    return None if len(different) > more_than else different


def _fit_sample(
    rows: npt.NDArray[np.float32], sizes: Sequence[int], seed: int
) -> tuple[npt.NDArray[np.float32], ...]:
    """The tables of a large catalogue's sample; ``tokenizer.iterations`` is for FAISS and not read here."""
    tables = []
    for level, size in enumerate(sizes):
        different = different_rows(rows, size)
        tables.append(sampled_k_means(rows, size, seed + level) if different is None else different)
        if level < len(sizes) - 1:
            rows = left_over(rows, tables[-1])
    return tuple(tables)


def k_means(rows: npt.NDArray[np.float32], size: int, iterations: int, seed: int) -> npt.NDArray[np.float32]:
    """Centroids [k, d] of ``rows`` [n, d], k = min(size, number of different rows), in a deterministic
    order."""
    import faiss

    different = different_rows(rows, size)
    if different is not None:
        return different
    # Sums differ in their last bits with the number of threads; one thread gives the same result everywhere.
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        means = faiss.Kmeans(
            rows.shape[1],
            size,
            niter=iterations,
            seed=seed,
            min_points_per_centroid=1,
            max_points_per_centroid=MAX_POINTS_PER_CENTROID,
        )
        means.train(np.ascontiguousarray(rows))
    finally:
        faiss.omp_set_num_threads(threads)
    return np.asarray(means.centroids, dtype=np.float32).reshape(size, rows.shape[1])
