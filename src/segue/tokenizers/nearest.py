"""The nearest centroid of each row: as exact as float64, nearly as fast as float32.

Distances are screened in float32. A row whose two best scores are closer than twice what float32 can be wrong by
(the standard bound on a dot product, Higham 2002, section 3.1: n·u·‖x‖·‖c‖ with u = 2⁻²⁴) is decided in float64,
so every code is the one that float64 alone would give.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Table = npt.NDArray[np.float32]

BLOCK_VALUES = 1 << 19  # float32 scores computed at once: they stay in the processor's cache
_UNIT = 2.0**-24  # the relative rounding error of float32


def block_rows(size: int) -> int:
    """Rows whose scores against ``size`` centroids are computed at once."""
    return max(64, BLOCK_VALUES // max(size, 1))


def squared_distances(rows: Floats, table: Table) -> Floats:
    """[n, k] squared Euclidean distances, by ‖x‖² − 2x·c + ‖c‖²."""
    wide = table.astype(np.float64)
    return np.asarray((rows**2).sum(axis=1)[:, None] - 2.0 * rows @ wide.T + (wide**2).sum(axis=1)[None, :])


class Nearest:
    """Nearest-centroid search in one table [k, d], with a price [k] to be added to each squared distance."""

    def __init__(self, table: Table, prices: Floats | None = None) -> None:
        self.table = table
        self.prices = np.zeros(len(table)) if prices is None else prices
        wide = table.astype(np.float64)
        squared = (wide**2).sum(axis=1)
        offsets = squared + self.prices
        with np.errstate(over="ignore"):  # what float32 cannot hold is decided in float64
            self._offsets = offsets.astype(np.float32)
            self._doubled = np.ascontiguousarray((-2.0 * wide).astype(np.float32).T)
        longest = float(np.sqrt(squared.max(initial=0.0)))
        self._slope = 4.0 * (table.shape[1] + 4) * _UNIT * longest
        self._constant = 8.0 * _UNIT * float(np.abs(offsets).max(initial=0.0))

    def exact(self, rows: Floats) -> npt.NDArray[np.int64]:
        """[n] codes of ``rows`` [n, d], decided in float64; ties to the smaller code."""
        codes: npt.NDArray[np.int64] = np.argmin(squared_distances(rows, self.table) + self.prices, axis=1)
        return codes

    def __call__(self, rows: Floats) -> npt.NDArray[np.int64]:
        """[n] codes of ``rows`` [n, d], ties to the smaller code; meant for one block of rows at a time."""
        if not len(rows):
            return np.zeros(0, dtype=np.int64)
        with np.errstate(over="ignore", invalid="ignore"):
            scores = rows.astype(np.float32) @ self._doubled
            scores += self._offsets
            codes: npt.NDArray[np.int64] = np.argmin(scores, axis=1)
            every = np.arange(len(rows))
            best = scores[every, codes].astype(np.float64)
            scores[every, codes] = np.inf
            second = scores.min(axis=1).astype(np.float64)
            doubt = self._slope * np.sqrt(np.einsum("nd,nd->n", rows, rows)) + self._constant
            unsure = np.flatnonzero(~(second - best > doubt))  # NaN is unsure, too
        if len(unsure):
            codes[unsure] = self.exact(rows[unsure])
        return codes
