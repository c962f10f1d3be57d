"""Residual k-means: each level quantizes what the levels before it left over.

Residual (multi-stage) vector quantization as in Juang and Gray 1982, the plain form of the residual quantizer
with which TIGER (Rajput et al. 2023, section 3.1) makes semantic IDs. Training is FAISS's k-means; assignment
is exact nearest-centroid search in float64, here in NumPy, so that serving needs no FAISS and gives the same
codes everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from segue.errors import DataError
from segue.tokenizers.registry import Codes
from segue.tokenizers.settings import TokenizerSettings

Floats = npt.NDArray[np.float64]
MAX_POINTS_PER_CENTROID = 1024  # more are sampled (seeded): they move a centroid no further
_CHUNK_VALUES = 1 << 22  # distances computed at once


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
        if not np.isfinite(vectors).all():
            row = int(np.argmin(np.isfinite(vectors).all(axis=1)))
            raise DataError(f"the fused vector in row {row} is not finite: run the encoders again")
        if not len(vectors) or bool((vectors == vectors[0]).all()):
            raise DataError(
                f"a codebook needs at least two different item vectors; all {len(vectors)} are the same"
            )
        tables: list[npt.NDArray[np.float32]] = []
        residuals = vectors.astype(np.float64)
        for level, size in enumerate(settings.level_sizes[:-1]):
            table = _k_means(residuals.astype(np.float32), size, settings.iterations, settings.seed + level)
            tables.append(table)
            residuals = residuals - table[_nearest(residuals, table)]
        return cls(tuple(tables))

    def encode(self, vectors: npt.NDArray[np.float32]) -> Codes:
        """Greedy residual codes [N, P]: the nearest centroid on each level, ties to the smaller code."""
        residuals = vectors.astype(np.float64)
        codes = np.zeros((len(vectors), len(self.centroids)), dtype=np.int64)
        for level, table in enumerate(self.centroids):
            codes[:, level] = _nearest(residuals, table)
            residuals = residuals - table[codes[:, level]]
        return codes

    def reconstruct(self, prefixes: Codes) -> Floats:
        """Sums of centroids [N, d]."""
        total = np.zeros((len(prefixes), self.centroids[0].shape[1]))
        for level, table in enumerate(self.centroids):
            total += table[prefixes[:, level]]
        return total

    def nearest_prefixes(self, vector: npt.NDArray[np.float32], width: int) -> Codes:
        """Beam search over the levels by what is left of the vector; exact where nothing is pruned."""
        prefixes = np.zeros((1, 0), dtype=np.int64)
        residuals = vector.astype(np.float64)[None, :]
        for level, table in enumerate(self.centroids):
            if len(prefixes) > width:
                prefixes, residuals = prefixes[:width], residuals[:width]
            squared = _squared_distances(residuals, table).ravel()  # [W * codes], in the order of the codes
            last = level == len(self.centroids) - 1
            parents, codes = np.divmod(np.arange(len(squared)), len(table))
            grown = np.concatenate([prefixes[parents], codes[:, None]], axis=1)
            order = np.lexsort((*grown.T[::-1], squared))
            prefixes = grown[order]
            if not last:
                residuals = residuals[parents[order]] - table[codes[order]]
        return prefixes

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {f"quantizer.{level}": table for level, table in enumerate(self.centroids)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], level_sizes: tuple[int, ...]) -> Self:
        return cls(tuple(arrays[f"quantizer.{level}"] for level in range(len(level_sizes) - 1)))


def _k_means(rows: npt.NDArray[np.float32], size: int, iterations: int, seed: int) -> npt.NDArray[np.float32]:
    """Centroids [k, d] of ``rows`` [n, d], k = min(size, number of different rows), in a deterministic
    order."""
    import faiss

    different = np.unique(rows, axis=0)
    if len(different) <= size:
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


def _squared_distances(rows: Floats, table: npt.NDArray[np.float32]) -> Floats:
    """[n, k] squared Euclidean distances, by ‖x‖² − 2x·c + ‖c‖²."""
    wide = table.astype(np.float64)
    return np.asarray((rows**2).sum(axis=1)[:, None] - 2.0 * rows @ wide.T + (wide**2).sum(axis=1)[None, :])


def _nearest(rows: Floats, table: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """[n] nearest centroid of each row, in pieces that fit in memory; ties to the smaller code."""
    step = max(1, _CHUNK_VALUES // len(table))
    pieces = [
        np.argmin(_squared_distances(rows[low : low + step], table), axis=1)
        for low in range(0, len(rows), step)
    ]
    return np.concatenate([np.zeros(0, dtype=np.int64), *pieces]).astype(np.int64)
