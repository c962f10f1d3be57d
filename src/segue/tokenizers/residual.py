"""What residual quantizers share: a table of centroids a level, each for what the levels before it left over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from segue.errors import DataError
from segue.tokenizers.nearest import MANY, SAMPLE, Cascade, block_rows
from segue.tokenizers.parallel import map_blocks, torch_threads_kept
from segue.tokenizers.registry import Codes
from segue.tokenizers.screens import UNIT, Floats, Table


def require_different_vectors(vectors: npt.NDArray[np.float32]) -> None:
    """Raises DataError for vectors [N, d] that are not finite (naming the row) or all the same."""
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise DataError(f"the fused vector in row {row} is not finite: run the encoders again")
    if not len(vectors) or bool((vectors == vectors[0]).all()):
        raise DataError(
            f"a codebook needs at least two different item vectors; all {len(vectors)} are the same"
        )


def encode(
    vectors: npt.NDArray[np.floating[Any]], tables: Sequence[Table], prices: Sequence[Floats] | None = None
) -> Codes:
    """Greedy residual codes [N, P]: on each level the centroid of the least squared distance (plus its price),
    ties to the smaller code."""
    sample = vectors[:: max(1, len(vectors) // SAMPLE)] if len(vectors) >= MANY else None
    with torch_threads_kept():
        search = Cascade(tables, prices, sample)
        pieces = map_blocks(
            lambda part: search(vectors[part]), len(vectors), block_rows(max(len(table) for table in tables))
        )
    return np.concatenate([np.zeros((0, len(tables)), dtype=np.int64), *pieces])


def reconstruct(prefixes: Codes, tables: Sequence[Table]) -> Floats:
    """Sums of centroids [N, d]."""
    total = np.zeros((len(prefixes), tables[0].shape[1]))
    for level, table in enumerate(tables):
        total += table[prefixes[:, level]]
    return total


class PrefixSearch:
    """Beam search over the levels by what is left of a vector; exact where nothing is pruned.

    As in :class:`segue.tokenizers.nearest.Cascade`, all products of centroids with each other are computed once, so that a
    vector costs one product with each table, whatever the width of the beam. Float32 says which children can be among
    the nearest, float64 orders them.
    """

    def __init__(self, tables: Sequence[Table]) -> None:
        self._wide = [table.astype(np.float64) for table in tables]
        self._squared = [(wide**2).sum(axis=1) for wide in self._wide]
        self._products = [
            [2.0 * before @ wide.T for before in self._wide[:level]] for level, wide in enumerate(self._wide)
        ]
        self._magnitudes = [
            sum(float(np.abs(each).max()) for each in products) for products in self._products
        ]
        with np.errstate(over="ignore"):
            self._narrow = [[each.astype(np.float32) for each in products] for products in self._products]

    def __call__(self, vector: npt.NDArray[np.floating[Any]], width: int, most: int | None) -> Codes:
        """Prefixes [M, P], nearest first: ``width`` partial ones are kept a level, ``most`` whole ones at the end."""
        wide = vector.astype(np.float64)
        prefixes = np.zeros((1, 0), dtype=np.int64)
        left = np.array([wide @ wide])  # [W] squared distances of the partial prefixes
        for level, table in enumerate(self._wide):
            # Parents in the order of their codes make the children so, and a stable sort leaves ties to smaller codes.
            by_code = np.lexsort(prefixes.T[::-1]) if level else np.zeros(1, dtype=np.int64)
            prefixes, left = prefixes[by_code], left[by_code]
            base = self._squared[level] - 2.0 * (table @ wide)  # [codes]
            last = level == len(self._wide) - 1
            children = self._screened(level, prefixes, left, base, most if last else width)
            parents, codes = np.divmod(children, len(table))
            squared = base[codes] + left[parents]
            for before, products in enumerate(self._products[level]):
                squared += products[prefixes[parents, before], codes]
            order = smallest(squared, most if last else width)
            prefixes = np.concatenate([prefixes[parents[order]], codes[order, None]], axis=1)
            left = squared[order]
        return prefixes

    def _screened(
        self, level: int, prefixes: Codes, left: Floats, base: Floats, keep: int | None
    ) -> npt.NDArray[np.int64]:
        """Children, as parent · codes + code, ascending: all that can be among the ``keep`` nearest.

        In float32, which is wrong by at most ``off``: half the unit in the last place for each number and each sum.
        The keep-th smallest score of some children is no smaller than that of all.
        """
        count = len(left) * len(base)
        if keep is None or count < 8 * keep:
            return np.arange(count)
        products = self._narrow[level]
        magnitude = self._magnitudes[level] + float(left.max() + np.abs(base).max())
        off = 4.0 * (level + 2) * UNIT * magnitude
        with np.errstate(over="ignore", invalid="ignore"):
            scores = np.add.outer(left.astype(np.float32), base.astype(np.float32))
            for before, product in enumerate(products):
                scores += np.take(product, prefixes[:, before], axis=0)
            some = scores
            if count >= 64 * keep:  # those of the nearest parents are small
                some = scores[np.argsort(left)[: len(left) // 8]]
            cut = float(np.partition(some.ravel(), keep - 1)[keep - 1])
            return np.flatnonzero(~(scores > cut + 2.0 * off))  # what float32 cannot hold is kept


def smallest(values: Floats, most: int | None) -> npt.NDArray[np.int64]:
    """Where the ``most`` smallest of ``values`` are (None: all), ascending, ties in the order of the values."""
    if most is None or most >= len(values):
        return np.asarray(np.argsort(values, kind="stable"))
    candidates = np.arange(len(values))
    if len(values) >= 16 * most:
        # The most-th smallest of every eighth value is no smaller than that of all: a cheap first cut.
        candidates = np.flatnonzero(values <= np.partition(values[::8], most - 1)[most - 1])
    found = values[candidates]
    candidates = candidates[found <= np.partition(found, most - 1)[most - 1]]
    return np.asarray(candidates[np.argsort(values[candidates], kind="stable")][:most])


def tables_of(arrays: Mapping[str, npt.NDArray[Any]], name: str, level_sizes: Sequence[int]) -> list[Table]:
    """The arrays ``<name>.0`` … of the quantized levels.

    Raises KeyError naming one that is missing, ValueError where one is no table of at most the level's size,
    not finite, or of another width than the others.
    """
    tables = [arrays[f"{name}.{level}"] for level in range(len(level_sizes) - 1)]
    for level, table in enumerate(tables):
        if table.ndim != 2 or not 1 <= len(table) <= level_sizes[level]:
            raise ValueError(
                f"{name}.{level} has the shape {table.shape}: 1 to {level_sizes[level]} rows are needed"
            )
        if table.shape[1] != tables[0].shape[1]:
            raise ValueError(f"{name}.{level} is {table.shape[1]} wide, {name}.0 is {tables[0].shape[1]}")
        if not np.isfinite(table).all():
            raise ValueError(f"{name}.{level} has values that are not finite")
    return tables
