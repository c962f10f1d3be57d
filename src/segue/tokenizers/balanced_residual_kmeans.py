"""Balanced residual k-means: residual k-means whose codes are used evenly.

Plain k-means gives popular regions of the space a few crowded codes and rare ones many nearly empty codes. Here no
code of a level stands for more than ⌈(1 + slack)·N/k⌉ of the N items that the codebook is fitted on (balanced
k-means as in Bradley, Bennett and Demiriz 2000; balanced codes for semantic IDs as in OneRec, Deng et al. 2025,
section 3.1). An item goes to the centroid of the least squared distance *plus price*; the prices, found by
:mod:`segue.tokenizers.balance`, are part of the codebook. A later item is encoded by the same rule: nearest after
prices, so new items cannot break the even use unless they come from elsewhere, and the bound is promised for the
fitted items alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from segue.errors import DataError
from segue.tokenizers import residual
from segue.tokenizers.balance import even_bound, even_prices, relaxed_prices
from segue.tokenizers.kmeans import centroid_means
from segue.tokenizers.nearest import block_rows, squared_distances
from segue.tokenizers.parallel import map_blocks
from segue.tokenizers.registry import Codes
from segue.tokenizers.residual_kmeans import k_means
from segue.tokenizers.screens import Floats
from segue.tokenizers.settings import TokenizerSettings


@dataclass(frozen=True)
class BalancedResidualKMeans:
    """A table of centroids and their prices a quantized level; a prefix stands for the sum of its centroids."""

    name: ClassVar[str] = "balanced_residual_kmeans"

    centroids: tuple[npt.NDArray[np.float32], ...]  # per level [codes in use, d]
    prices: tuple[Floats, ...]  # per level [codes in use], at least 0

    @property
    def used_sizes(self) -> tuple[int, ...]:
        return tuple(len(table) for table in self.centroids)

    @classmethod
    def fit(cls, vectors: npt.NDArray[np.float32], settings: TokenizerSettings) -> Self:
        """Fit all levels but the last, one after the other; N·k float64 distances are held at once.

        Equal vectors cannot be told apart: where g items share one, the bound is g - 1 more. Raises DataError for
        vectors that are not finite or all the same, and where they cannot be shared out evenly.
        """
        residual.require_different_vectors(vectors)
        unique, weights = np.unique(vectors, axis=0, return_counts=True)
        residuals = unique.astype(np.float64)
        tables: list[npt.NDArray[np.float32]] = []
        prices: list[Floats] = []
        for level, size in enumerate(settings.level_sizes[:-1]):
            table, price = _fit_level(residuals, weights.astype(np.int64), size, settings, level)
            tables.append(table)
            prices.append(price)
            residuals = residuals - table[residual.encode(residuals, [table], [price])[:, 0]]
        return cls(tuple(tables), tuple(prices))

    def encode(self, vectors: npt.NDArray[np.float32]) -> Codes:
        """Greedy residual codes [N, P]: the nearest centroid after prices on each level."""
        return residual.encode(vectors, self.centroids, self.prices)

    def reconstruct(self, prefixes: Codes) -> Floats:
        """Sums of centroids [N, d]."""
        return residual.reconstruct(prefixes, self.centroids)

    def nearest_prefixes(self, vector: npt.NDArray[np.float32], width: int, most: int | None = None) -> Codes:
        """By distance alone: who looks for room has already found the even code full."""
        return self._prefixes(vector, width, most)

    @cached_property
    def _prefixes(self) -> residual.PrefixSearch:
        return residual.PrefixSearch(self.centroids)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {
            **{f"quantizer.{level}": table for level, table in enumerate(self.centroids)},
            **{f"prices.{level}": price for level, price in enumerate(self.prices)},
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], level_sizes: tuple[int, ...]) -> Self:
        tables = residual.tables_of(arrays, "quantizer", level_sizes)
        prices = [arrays[f"prices.{level}"] for level in range(len(tables))]
        for level, (table, price) in enumerate(zip(tables, prices, strict=True)):
            if price.shape != (len(table),) or not np.isfinite(price).all() or bool((price < 0).any()):
                raise ValueError(f"prices.{level} must be {len(table)} finite numbers of at least 0")
        return cls(tuple(tables), tuple(prices))


def _fit_level(
    residuals: Floats, weights: npt.NDArray[np.int64], size: int, settings: TokenizerSettings, level: int
) -> tuple[npt.NDArray[np.float32], Floats]:
    """Centroids [k, d] and prices [k] of one level."""
    rows = residuals.astype(np.float32)
    # Copies of an item pull a centroid as often as they occur.
    table = k_means(np.repeat(rows, weights, axis=0), size, settings.iterations, settings.seed + level)
    bound = even_bound(int(weights.sum()), len(table), settings.balance.slack)
    price = np.zeros(len(table))
    for last in [False] * (settings.balance.rounds - 1) + [True]:
        costs = _costs(residuals, table)
        price = even_prices(costs, weights, bound, relaxed_prices(costs, weights, bound, price))
        if not last:
            table = centroid_means(rows, np.argmin(costs + price, axis=1), table, weights)
    load = np.bincount(
        residual.encode(residuals, [table], [price])[:, 0], weights=weights, minlength=len(table)
    )
    if load.max() > bound + int(weights.max()) - 1:
        raise DataError(
            f"level {level + 1}: rounding undoes the even codes of vectors that are almost the same; raise "
            "tokenizer.balance.slack"
        )
    return table, price


def _costs(residuals: Floats, table: npt.NDArray[np.float32]) -> Floats:
    """Squared distances [n, k]."""
    pieces = map_blocks(
        lambda part: squared_distances(residuals[part], table), len(residuals), block_rows(len(table))
    )
    return np.concatenate(pieces)
