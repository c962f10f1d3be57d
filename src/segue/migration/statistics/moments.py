"""What is kept of the users of one arm: their number, the sums of their figures and of the products of these.

All asymptotic intervals are functions of this, so that an arm of any size is a few numbers, arms and days add up, and
the figures that a team's own experiment platform exports (per-arm sums) are enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from segue.errors import DataError
from segue.migration.statistics.interval import Floats


@dataclass(frozen=True, slots=True)
class UserMoments:
    """Sums over users, each of whom has ``d`` figures, such as clicks and impressions.

    ``n [...]``: users; ``total [..., d]``: sums; ``product [..., d, d]``: sums of pairwise products. Leading
    axes are free (experiments, looks). Double precision: figures whose mean is above some 1e6 times their
    standard deviation (a time since 1970) must be centred before.
    """

    n: Floats
    total: Floats
    product: Floats

    @classmethod
    def of(cls, *figures: Floats) -> Self:
        """From one array ``[N]`` a figure, one entry a user. Raises DataError naming a figure that is not finite."""
        columns = [np.asarray(figure, dtype=np.float64) for figure in figures]
        for number, column in enumerate(columns):
            if column.ndim != 1 or column.shape != columns[0].shape:
                raise DataError(f"figure {number} has shape {column.shape}: one number a user, in one order")
            if not np.isfinite(column).all():
                row = int(np.flatnonzero(~np.isfinite(column))[0])
                raise DataError(
                    f"figure {number} of user {row} is {column[row]}: leave the user out or mend it"
                )
        values = np.stack(columns, axis=-1)
        return cls(np.asarray(float(len(values))), values.sum(axis=0), values.T @ values)

    def __add__(self, other: Self) -> Self:
        return type(self)(self.n + other.n, self.total + other.total, self.product + other.product)

    def cumulative(self, axis: int) -> Self:
        """Of all users up to each position of a leading ``axis`` (not negative)."""
        return type(self)(np.cumsum(self.n, axis), np.cumsum(self.total, axis), np.cumsum(self.product, axis))

    def later(self, looks: int) -> Self:
        """The same, ``looks`` later along axis 1: nobody at first."""

        def shifted(values: Floats) -> Floats:
            moved = np.zeros_like(values)
            moved[:, looks:] = values[:, : values.shape[1] - looks]
            return moved

        return type(self)(shifted(self.n), shifted(self.total), shifted(self.product))

    @property
    def mean(self) -> Floats:
        """``[..., d]``; NaN without users."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(self.total / self.n[..., None])

    @property
    def covariance(self) -> Floats:
        """Of one user's figures, ``[..., d, d]``, divisor n - 1; NaN below two users."""
        with np.errstate(invalid="ignore", divide="ignore"):
            outer = self.total[..., :, None] * self.total[..., None, :] / self.n[..., None, None]
            return np.asarray(
                (self.product - outer) / np.where(self.n > 1, self.n - 1, np.nan)[..., None, None]
            )
