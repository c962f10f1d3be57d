"""The nearest centroid of each row: as exact as float64, much faster.

Scores are screened (:mod:`segue.tokenizers.screens`). A row whose two best are closer than what the screen can be
wrong by is decided in float64, so every code is the one that float64 alone would give.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from segue.tokenizers.screens import Float32Screen, Floats, IntegerScreen, Rows, Screen, Table

Codes = npt.NDArray[np.int64]

BLOCK_VALUES = 1 << 18  # float32 scores computed at once: they stay in the processor's cache
SAMPLE = 4096  # rows that show the integer screen how large values are
MANY = 1 << 14  # rows from which on the integer screen's preparation pays


def block_rows(size: int) -> int:
    """Rows whose scores against ``size`` centroids are computed at once."""
    return max(64, BLOCK_VALUES // max(size, 1))


def squared_distances(rows: Floats, table: Table) -> Floats:
    """[n, k] squared Euclidean distances, by ‖x‖² − 2x·c + ‖c‖²."""
    wide = table.astype(np.float64)
    return np.asarray((rows**2).sum(axis=1)[:, None] - 2.0 * rows @ wide.T + (wide**2).sum(axis=1)[None, :])


class Cascade:
    """Greedy search through tables [k, d], each for what the ones before it left over; with prices [k] to be
    added to the squared distances.

    The distance of a residual to a centroid c is ‖x − c₁ − …‖² − 2x·c + 2c₁·c + … + ‖c‖², of which the first does not
    depend on c: all 2c₁·c are computed beforehand, and only x·c is left to do for a row.
    """

    def __init__(
        self,
        tables: Sequence[Table],
        prices: Sequence[Floats] | None = None,
        sample: Rows | None = None,
    ) -> None:
        """With a ``sample`` [m, d] of the rows to come, the integer screen where it pays."""
        self._wide = [table.astype(np.float64) for table in tables]
        self._offsets = [(wide**2).sum(axis=1) for wide in self._wide]
        if prices is not None:
            self._offsets = [offset + price for offset, price in zip(self._offsets, prices, strict=True)]
        self._screen: Screen = Float32Screen(self._wide, self._offsets)
        if sample is not None and len(sample) and IntegerScreen.pays(self._wide, sample):
            self._screen = IntegerScreen(self._wide, self._offsets, sample)
        self._doubled = [-2.0 * wide.T for wide in self._wide]
        self._starts: list[list[Table]] = []
        with np.errstate(over="ignore", invalid="ignore"):
            for level, (wide, offset) in enumerate(zip(self._wide, self._offsets, strict=True)):
                starts = [2.0 * before @ wide.T for before in self._wide[:level]] or [
                    np.zeros((1, len(wide)))
                ]
                starts[0] += offset
                self._starts.append([each.astype(np.float32) for each in starts])

    def exact(self, residuals: Floats, level: int) -> Codes:
        """[n] codes of residuals [n, d] on one level, decided in float64; ties to the smaller code."""
        scores = residuals @ self._doubled[level]
        codes: Codes = np.argmin(scores + self._offsets[level], axis=1)
        return codes

    def __call__(self, rows: Rows) -> Codes:
        """[n, L] codes of ``rows`` [n, d], ties to the smaller code; meant for one block of rows at a time."""
        codes = np.zeros((len(rows), len(self._wide)), dtype=np.int64)
        if not len(rows):
            return codes
        every = np.arange(len(rows))
        with np.errstate(over="ignore", invalid="ignore"):
            begun = self._screen.begin(rows)
            for level in range(len(self._wide)):
                scores = self._start(codes[:, :level])
                begun.add_products(level, scores)
                nearest = np.argmin(scores, axis=1)
                best = scores[every, nearest]
                scores[every, nearest] = np.inf
                second = scores[every, np.argmin(scores, axis=1)]
                gap = second.astype(np.float64) - best
                unsure = np.flatnonzero(~(gap > begun.doubt(level)))  # NaN is unsure, too
                if len(unsure):
                    nearest[unsure] = self.exact(self._residuals(rows[unsure], codes[unsure, :level]), level)
                codes[:, level] = nearest
        return codes

    def _start(self, codes: Codes) -> Table:
        """[n, k] the offsets of the level after ``codes`` [n, l], and what those add to them."""
        first, *others = self._starts[codes.shape[1]]
        if codes.shape[1] == 0:
            return np.repeat(first, len(codes), axis=0)
        scores: Table = np.take(first, codes[:, 0], axis=0)
        for level, products in enumerate(others, start=1):
            scores += np.take(products, codes[:, level], axis=0)
        return scores

    def _residuals(self, rows: Rows, codes: Codes) -> Floats:
        residuals = rows.astype(np.float64)
        for level in range(codes.shape[1]):
            residuals -= self._wide[level][codes[:, level]]
        return residuals


class Nearest:
    """Nearest-centroid search in one table [k, d], with a price [k] to be added to each squared distance."""

    def __init__(self, table: Table, prices: Floats | None = None) -> None:
        self._cascade = Cascade([table], None if prices is None else [prices])

    def __call__(self, rows: Rows) -> Codes:
        """[n] codes of ``rows`` [n, d], ties to the smaller code; meant for one block of rows at a time."""
        return self._cascade(rows)[:, 0]
