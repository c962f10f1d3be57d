"""Fast scores that know how wrong they can be: what decides all but the closest calls of a nearest-centroid search.

A score is a squared distance less ‖x‖²: the centroid's offset ‖c‖² (plus its price) − 2x·c. On the levels of a residual
quantizer x stays the vector itself, and what the earlier levels took away enters by products of centroids with each other
(:class:`segue.tokenizers.nearest.Cascade`), so a screen never sees residuals. Each screen gives the *doubt* of a level: two
scores further apart than that are in the order of the exact ones.

:class:`Float32Screen` runs anywhere. :class:`IntegerScreen` splits both factors into digits of 8 bits, whose products
are exact integers, and pays where the processor multiplies matrices of them (Intel AMX): about three times faster for five
products instead of one. Which one screens can be seen in the seconds alone, never in a code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Table = npt.NDArray[np.float32]
Rows = npt.NDArray[np.floating[Any]]
Bytes = npt.NDArray[np.int8]

UNIT = 2.0**-24  # the relative rounding error of float32
SMALLEST = 2.0**-126  # below it float32 may be flushed to zero

DIGIT = 256  # digits are -128 … 127
LARGEST = 127 * DIGIT  # of a vector's number of two digits
LARGEST_OF_CENTROID = 127 * DIGIT**2  # three digits
ROUNDING = 0.51  # of a vector's number: a half, and what float32 adds before rounding
MARGIN = 1.25  # how much larger than in the sample a value may be before its row is decided in float64
_SANE = (1e-12, 1e12)  # magnitudes whose products float32 holds with room to spare


class Screen(Protocol):
    def begin(self, rows: Rows) -> Begun: ...


class Begun(Protocol):
    """One block of n rows."""

    def add_products(self, level: int, scores: Table) -> None:
        """Adds −2x·c to ``scores`` [n, k], contiguous, which hold all else."""
        ...

    def doubt(self, level: int) -> Floats | float:
        """[n] or one for all: scores further apart than this are in the right order."""
        ...


class Float32Screen:
    """Products in float32, wrong by at most n·u·‖x‖·‖c‖ in whatever order they are summed (Higham 2002, section
    3.1)."""

    def __init__(self, tables: Sequence[Floats], offsets: Sequence[Floats]) -> None:
        with np.errstate(over="ignore"):  # what float32 cannot hold is decided in float64
            self.doubled = [np.ascontiguousarray((-2.0 * table).astype(np.float32).T) for table in tables]
        width = tables[0].shape[1]
        longest = [float(np.sqrt((table**2).sum(axis=1).max())) for table in tables]
        self.slopes = [4.0 * (width + 8) * UNIT * each for each in longest]
        self.constants = [
            16.0 * UNIT * magnitude + 8.0 * (width + 8) * SMALLEST for magnitude in _beside(longest, offsets)
        ]

    def begin(self, rows: Rows) -> _Float32Begun:
        narrow = np.ascontiguousarray(rows, dtype=np.float32)
        squared = np.einsum("nd,nd->n", narrow, narrow).astype(np.float64)
        return _Float32Begun(self, narrow, 1.001 * np.sqrt(squared + rows.shape[1] * SMALLEST))


class _Float32Begun:
    def __init__(self, screen: Float32Screen, rows: Table, norms: Floats) -> None:
        self.screen, self.rows, self.norms = screen, rows, norms

    def add_products(self, level: int, scores: Table) -> None:
        scores += self.rows @ self.screen.doubled[level]

    def doubt(self, level: int) -> Floats:
        doubt: Floats = self.screen.slopes[level] * self.norms + self.screen.constants[level]
        return doubt


class IntegerScreen:
    """Products of 8-bit digits, summed exactly in 32-bit integers by oneDNN.

    A value x_d is t_d·(256a + b + ε), t_d from a sample's largest value and |ε| at most a half; a centroid's t_d·c_d is
    r·(256²p + 256q + w) + f. Of their products b·w and all with ε and f are left out: their largest possible sums
    are the doubt. A row with a value beyond the sample's is in doubt whatever its scores.
    """

    def __init__(self, tables: Sequence[Floats], offsets: Sequence[Floats], sample: Rows) -> None:
        import torch

        largest = MARGIN * np.abs(sample).max(axis=0).astype(np.float64)
        largest = np.maximum(largest, 1e-6 * largest.max())  # [d]
        self.inverse = (LARGEST / largest).astype(np.float32)
        steps = 1.0 / self.inverse.astype(np.float64)  # t
        longest = [float(np.sqrt((table**2).sum(axis=1).max())) for table in tables]
        self.levels, self.doubts = [], []
        for table, beside in zip(tables, _beside(longest, offsets), strict=True):
            scaled = table * steps
            unit = np.abs(scaled).max(axis=1) / LARGEST_OF_CENTROID  # r
            unit[unit == 0.0] = 1.0
            whole = np.rint(scaled / unit[:, None])
            high, middle, low = _digits(whole)
            lost = np.abs(scaled - unit[:, None] * whole).sum(axis=1)
            sums = [np.abs(digit.astype(np.float64)).sum(axis=1) for digit in (high, middle, low)]
            left_out = ROUNDING * np.abs(scaled).sum(axis=1) + LARGEST * lost + 128.0 * unit * sums[2]
            summed = unit * (
                127.0 * DIGIT**3 * sums[0]
                + 128.0 * DIGIT**2 * (sums[1] + sums[0])
                + 128.0 * DIGIT * (sums[2] + sums[1])
            )
            self.doubts.append(float((4.0 * left_out + 32.0 * UNIT * summed).max()) + 16.0 * UNIT * beside)
            self.levels.append(
                [
                    (_packed(weights), torch.from_numpy((-2.0 * unit * power).astype(np.float32)))
                    for weights, power in (
                        (high, DIGIT**3),
                        (np.concatenate([middle, high], axis=1), DIGIT**2),
                        (np.concatenate([low, middle], axis=1), DIGIT),
                    )
                ]
            )
        self.zeros = [torch.zeros(len(table), dtype=torch.int64) for table in tables]

    @staticmethod
    def pays(tables: Sequence[Floats], sample: Rows) -> bool:
        """Whether this processor has matrix instructions for bytes, and float32 holds all that occurs here."""
        import torch

        everything: list[Rows] = [sample, *tables]
        values = [float(np.abs(each).max(initial=0.0)) for each in everything]
        return (
            bool(torch.cpu.get_capabilities().get("amx_int8", False))
            and hasattr(torch.ops.onednn, "qlinear_pointwise")
            and tables[0].shape[1] < 2**15  # sums of 2d products of bytes fit 32 bits
            and all(_SANE[0] < value < _SANE[1] for value in values)
        )

    def begin(self, rows: Rows) -> _IntegerBegun:
        import torch

        if torch.get_num_threads() != 1:  # in this thread: blocks are what runs side by side
            torch.set_num_threads(1)
        values: Rows = rows * self.inverse
        np.rint(values, out=values)
        beyond: npt.NDArray[np.bool_] | None = None
        if not max(values.max(), -values.min()) <= LARGEST:  # NaN, too
            beyond = np.logical_not((np.abs(values) <= LARGEST).all(axis=1))
            values[beyond] = 0.0
        numbers = values.astype(np.int16)
        count, width = numbers.shape
        both = np.empty((count, 2 * width), dtype=np.int8)  # a, then b
        both[:, width:] = numbers.astype(np.int8)  # the low byte as it is: -128 … 127
        numbers += DIGIT // 2
        numbers >>= 8
        high = numbers.astype(np.int8)
        both[:, :width] = high
        return _IntegerBegun(self, high, both, beyond)


class _IntegerBegun:
    def __init__(
        self, screen: IntegerScreen, high: Bytes, both: Bytes, beyond: npt.NDArray[np.bool_] | None
    ) -> None:
        import torch

        self.screen, self.beyond = screen, beyond
        self.high, self.both = torch.from_numpy(high), torch.from_numpy(both)

    def add_products(self, level: int, scores: Table) -> None:
        import torch

        total = torch.from_numpy(scores)
        digits = (self.high, self.both, self.both)
        for left, (weights, scales) in zip(digits, self.screen.levels[level], strict=True):
            torch.ops.onednn.qlinear_pointwise.binary(
                left,
                *(1.0, 0),  # the scale and the zero point of the left side
                *(weights, scales, self.screen.zeros[level]),
                total,
                *(None, 1.0, 0, torch.float32),  # no bias; the result is float32 as it is,
                *(1.0, 0, "sum", 1.0),  # and added to the total in place
                *("none", [], ""),
            )

    def doubt(self, level: int) -> Floats | float:
        doubt = self.screen.doubts[level]
        return doubt if self.beyond is None else np.where(self.beyond, np.inf, doubt)


def _beside(longest: Sequence[float], offsets: Sequence[Floats]) -> list[float]:
    """How large what is added to the products can be on each level: the offset, and 2c·c' for each level
    before."""
    return [
        float(np.abs(offset).max()) + sum(2.0 * before * longest[level] for before in longest[:level])
        for level, offset in enumerate(offsets)
    ]


def _digits(whole: Floats) -> tuple[Bytes, Bytes, Bytes]:
    """Integers up to LARGEST_OF_CENTROID as 256²·high + 256·middle + low."""
    left = whole.astype(np.int64)
    low = left.astype(np.int8)
    left = (left - low) // DIGIT
    middle = left.astype(np.int8)
    return ((left - middle) // DIGIT).astype(np.int8), middle, low


def _packed(weights: Bytes) -> object:
    import torch

    return torch.ops.onednn.qlinear_prepack(torch.from_numpy(np.ascontiguousarray(weights)), None)
