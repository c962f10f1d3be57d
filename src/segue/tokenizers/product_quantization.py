"""Optimised product quantization: levels that stand side by side, not one after the other.

The vector is rotated and cut into P pieces, and each piece is quantized by itself (Jégou, Douze and Schmid 2011,
"Product quantization for nearest neighbor search"); the rotation is learnt with the centroids, by turns, and starts
from principal axes dealt out so that all pieces carry like variance (Ge, He, Ke and Sun 2013, "Optimized product
quantization", sections 4.2 and 5). The codes of a prefix do not depend on each other, as in VQ-Rec (Hou et al. 2023) and
RPG (Hou et al. 2025). Levels may have different sizes, which FAISS's OPQ does not offer, so the rotation is fitted
here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from segue.tokenizers import residual
from segue.tokenizers.kmeans import centroid_means
from segue.tokenizers.nearest import Nearest, block_rows, squared_distances
from segue.tokenizers.parallel import map_blocks, one_thread
from segue.tokenizers.registry import Codes
from segue.tokenizers.residual_kmeans import MAX_ROWS, SAMPLE_PER_CODE, k_means, sample
from segue.tokenizers.screens import Floats, Table
from segue.tokenizers.settings import TokenizerSettings


@dataclass(frozen=True)
class ProductQuantization:
    """A rotation, and a table of centroids for each of P pieces of w = ⌈d / P⌉ dimensions; zeros fill the rest."""

    name: ClassVar[str] = "product_quantization"

    rotation: Floats  # [d, P * w] orthonormal rows
    centroids: tuple[Table, ...]  # per level [codes in use, w]

    @property
    def used_sizes(self) -> tuple[int, ...]:
        return tuple(len(table) for table in self.centroids)

    @classmethod
    def fit(cls, vectors: npt.NDArray[np.float32], settings: TokenizerSettings) -> Self:
        """Raises DataError for vectors that are not finite or all the same.

        A piece with fewer different values than codes uses as many codes as it has values.
        """
        residual.require_different_vectors(vectors)
        sizes = settings.level_sizes[:-1]
        limit = max(MAX_ROWS, SAMPLE_PER_CODE * max(sizes))
        rows = sample(vectors, limit, settings.seed).astype(np.float64)
        with one_thread():
            rotation = _first_rotation(rows, len(sizes))
            used = np.flatnonzero(
                rotation.any(axis=0)
            )  # [d]; the others stay zero, so that nothing is lost there
            tables = [
                k_means(piece.astype(np.float32), size, settings.iterations, settings.seed + level)
                for level, (piece, size) in enumerate(
                    zip(_pieces(rows @ rotation, len(sizes)), sizes, strict=True)
                )
            ]
            weights = np.ones(len(rows), dtype=np.int64)
            kept = cls(rotation.copy(), tuple(tables))
            best = _error(rows, kept)
            for _ in range(settings.iterations):
                pieces = _pieces(rows @ rotation, len(sizes))
                codes = [_codes(piece, table) for piece, table in zip(pieces, tables, strict=True)]
                tables = [
                    centroid_means(piece.astype(np.float32), code, table, weights)
                    for piece, code, table in zip(pieces, codes, tables, strict=True)
                ]
                quantized = np.concatenate(
                    [table[code] for table, code in zip(tables, codes, strict=True)], axis=1
                )
                # Orthogonal Procrustes (Schönemann 1966): the rotation that brings rows nearest to their codes.
                left, _, right = np.linalg.svd(rows.T @ quantized[:, used])
                rotation[:, used] = left @ right
                turned = cls(rotation.copy(), tuple(tables))
                if (error := _error(rows, turned)) < best:
                    best, kept = error, turned
        return kept

    def encode(self, vectors: npt.NDArray[np.float32]) -> Codes:
        """Prefixes [N, P]: in each piece the nearest centroid, ties to the smaller code."""
        searches = [Nearest(table) for table in self.centroids]

        def block(part: slice) -> Codes:
            pieces = _pieces(vectors[part].astype(np.float64) @ self.rotation, len(searches))
            return np.stack([search(piece) for search, piece in zip(searches, pieces, strict=True)], axis=1)

        pieces = map_blocks(block, len(vectors), block_rows(max(self.used_sizes)))
        return np.concatenate([np.zeros((0, len(searches)), dtype=np.int64), *pieces])

    def reconstruct(self, prefixes: Codes) -> Floats:
        """Centroids side by side, rotated back [N, d]."""
        joined = [table[prefixes[:, level]].astype(np.float64) for level, table in enumerate(self.centroids)]
        return np.asarray(np.concatenate(joined, axis=1) @ self.rotation.T)

    def nearest_prefixes(self, vector: npt.NDArray[np.float32], width: int, most: int | None = None) -> Codes:
        """The nearest prefixes of all, in order: at least ``width`` of them where there are as many.

        Exact, for the distance is a sum over the pieces: a partial prefix that is not among the ``width`` best of
        its level has that many better ones beside it whatever follows. Only what is surely complete is given back:
        nothing that a dropped partial prefix could come before.
        """
        pieces = _pieces(vector.astype(np.float64)[None, :] @ self.rotation, len(self.centroids))
        costs = [
            squared_distances(piece, table)[0] for piece, table in zip(pieces, self.centroids, strict=True)
        ]
        least_after = np.cumsum([0.0, *(float(cost.min()) for cost in costs[:0:-1])])[::-1]  # [P]
        prefixes, sums = np.zeros((1, 0), dtype=np.int64), np.zeros(1)
        complete_below = np.inf
        for level, cost in enumerate(costs):
            if len(prefixes) > width:
                complete_below = min(complete_below, float(sums[width] + least_after[level - 1]))
                prefixes, sums = prefixes[:width], sums[:width]
            by_code = np.lexsort(prefixes.T[::-1]) if level else np.zeros(1, dtype=np.int64)
            prefixes, sums = prefixes[by_code], sums[by_code]
            grown = (sums[:, None] + cost).ravel()
            last = level == len(costs) - 1
            order = residual.smallest(grown, most if last else width + 1)
            parents, codes = np.divmod(order, len(cost))
            prefixes = np.concatenate([prefixes[parents], codes[:, None]], axis=1)
            sums = grown[order]
        sure = int(np.searchsorted(sums, complete_below, side="left"))
        return prefixes[: max(sure, min(width, len(prefixes)))]

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {
            "rotation": self.rotation,
            **{f"quantizer.{level}": table for level, table in enumerate(self.centroids)},
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], level_sizes: tuple[int, ...]) -> Self:
        rotation = arrays["rotation"]
        tables = residual.tables_of(arrays, "quantizer", level_sizes)
        if rotation.ndim != 2 or rotation.shape[1] != len(tables) * tables[0].shape[1]:
            raise ValueError(
                f"rotation has the shape {rotation.shape}, the pieces are {len(tables)} of {tables[0].shape[1]}"
            )
        if not np.isfinite(rotation).all():
            raise ValueError("rotation has values that are not finite")
        return cls(rotation, tuple(tables))


def _pieces(rotated: Floats, count: int) -> list[Floats]:
    """[n, P * w] as P of [n, w]."""
    return np.split(rotated, count, axis=1)


def _codes(piece: Floats, table: Table) -> npt.NDArray[np.int64]:
    search = Nearest(table)
    return np.concatenate(map_blocks(lambda part: search(piece[part]), len(piece), block_rows(len(table))))


def _error(rows: Floats, model: ProductQuantization) -> float:
    pieces = _pieces(rows @ model.rotation, len(model.centroids))
    return sum(
        float(((piece - table[_codes(piece, table)]) ** 2).sum())
        for piece, table in zip(pieces, model.centroids, strict=True)
    )


def _first_rotation(rows: Floats, count: int) -> Floats:
    """[d, P * w]: principal axes, the next one always to the piece with room and the least variance so far.

    Ge et al. balance the product of the variances; sums of logarithms do the same. Axes beyond d are zeros.
    """
    width = rows.shape[1]
    each = -(-width // count)
    centred = rows - rows.mean(axis=0)
    values, axes = np.linalg.eigh(centred.T @ centred / len(rows))
    values, axes = np.maximum(values[::-1], 1e-12 * max(float(values[-1]), 1e-300)), axes[:, ::-1]
    axes = axes * np.sign(axes[np.argmax(np.abs(axes), axis=0), np.arange(width)])  # LAPACK's signs are free
    logs = np.log(values) - np.log(values[-1])
    rotation = np.zeros((width, count * each))
    filled, load = np.zeros(count, dtype=np.int64), np.zeros(count)
    for axis in range(width):
        piece = int(np.argmin(np.where(filled < each, load, np.inf)))
        rotation[:, piece * each + filled[piece]] = axes[:, axis]
        filled[piece] += 1
        load[piece] += logs[axis]
    return rotation
