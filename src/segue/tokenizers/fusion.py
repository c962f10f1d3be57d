"""One vector an item from its modalities, by maps that are frozen with the codebook.

Each modality (text, attribute, collaborative, …) is L2-normalised row by row, centred on the mean of the
items it was fitted on, and scaled so that its mean squared norm is the square of its weight: a weight then
says what share of the fused distance the modality decides, whatever the anisotropy of its encoder. The
modalities are concatenated and projected on their leading principal components.

An item without a collaborative vector (nobody has touched it yet) gets the one that its content predicts: a
ridge regression from the other modalities (Hoerl and Kennard 1970, W = (X'X + λI)⁻¹X'Y; λ by generalised
cross-validation, Golub, Heath and Wahba 1979). An item without another modality gets that modality's mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from segue.errors import BindingError, DataError
from segue.items import ItemVectors

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

IMPUTED = "collaborative"  # the modality that content can stand in for
PENALTIES = tuple(10.0**exponent for exponent in range(-4, 5))  # candidates for λ / number of items
_MIN_REGRESSION_ITEMS = 8  # fewer give no regression worth having: the mean is used
_RELATIVE_RANK = 1e-7  # a principal axis with a smaller share of the largest deviation is noise


@dataclass(frozen=True)
class Modality:
    """The frozen statistics of one modality."""

    mean: Floats  # [D] of the L2-normalised rows
    scale: float  # what centred rows are multiplied with

    @classmethod
    def fit(cls, vectors: ItemVectors, name: str, *, weight: float) -> Modality:
        """On the items that have it, of which there must be one. Raises DataError for NaN or infinity."""
        rows, has = _unit_rows(vectors, name)
        mean = rows[has].mean(axis=0)
        spread = float(np.sqrt(((rows[has] - mean) ** 2).sum(axis=1).mean()))
        # A modality that is the same for all items carries nothing; dividing by its rounding noise would.
        return cls(mean=mean, scale=weight / spread if spread > 1e-6 else 0.0)

    @property
    def dimension(self) -> int:
        return len(self.mean)

    def prepare(self, vectors: ItemVectors, name: str) -> tuple[Floats, Bools]:
        """Normalised, centred, scaled rows [N, D] (zeros, which is the mean, where absent) and who is present
        [N].

        A vector of length zero has no direction and counts as absent. Raises DataError for NaN or infinity,
        naming the item, and BindingError where the dimension is another one than at codebook time.
        """
        if vectors.vectors.shape[1] != self.dimension:
            raise BindingError(
                f"the {name} vectors have {vectors.vectors.shape[1]} dimensions, the codebook was made on "
                f"{self.dimension}: use the encoder it was made with, or make a new codebook"
            )
        rows, present = _unit_rows(vectors, name)
        return np.where(present[:, None], (rows - self.mean) * self.scale, 0.0), present


@dataclass(frozen=True)
class Fusion:
    """From modalities to fused vectors. Everything in it was fitted once, on the items present at codebook
    time."""

    name: ClassVar[str] = "concat_pca"

    modalities: dict[str, Modality]  # in the order of concatenation
    centre: Floats  # [D total] of the concatenated training rows
    components: Floats  # [d, D total] orthonormal rows, by falling variance
    coefficients: Floats  # [D others, D imputed]; of size zero where nothing is imputed
    intercept: Floats  # [D imputed]

    @property
    def dimensions(self) -> int:
        return len(self.components)

    @classmethod
    def fit(
        cls, modalities: Mapping[str, ItemVectors], weights: Mapping[str, float], dimensions: int
    ) -> Fusion:
        """Fit on all items given. Modalities of weight 0 (or without a weight) and of no vector at all are
        left out.

        The number of dimensions is reduced to what the items span: at most the concatenated width, and at
        most one less than the number of items. Raises DataError where nothing is left, where a vector is not
        finite (naming the item), or where all items are alike.
        """
        fitted: dict[str, Modality] = {}
        prepared: dict[str, Floats] = {}
        present: dict[str, Bools] = {}
        ids = same_items(modalities)
        for name in sorted(modalities):
            weight = weights.get(name, 0.0)
            _, has = _unit_rows(modalities[name], name)
            if weight == 0.0 or not has.any():
                continue
            fitted[name] = Modality.fit(modalities[name], name, weight=weight)
            prepared[name], present[name] = fitted[name].prepare(modalities[name], name)
        require_a_modality(fitted, modalities, weights)
        coefficients, intercept = _fit_imputation(prepared, present)
        joined = _join(prepared, present, coefficients, intercept)
        centre = joined.mean(axis=0)
        components = _principal_axes(joined - centre, dimensions)
        if not len(components):
            raise DataError(
                f"all {len(ids)} items have the same vector (the first is item {ids[0]!r}): nothing can tell "
                "them apart; look at the texts and attributes of the catalogue"
            )
        return cls(
            modalities=fitted,
            centre=centre,
            components=components,
            coefficients=coefficients,
            intercept=intercept,
        )

    def fuse(self, modalities: Mapping[str, ItemVectors]) -> tuple[npt.NDArray[np.float32], Bools]:
        """Fused vectors [N, d] float32, and which items have at least one modality of their own [N].

        Raises BindingError where a modality of the codebook is missing or has another dimension, DataError
        for a vector that is not finite.
        """
        used = of_the_codebook(self.modalities, modalities)
        prepared: dict[str, Floats] = {}
        present: dict[str, Bools] = {}
        for name, modality in self.modalities.items():
            prepared[name], present[name] = modality.prepare(used[name], name)
        joined = _join(prepared, present, self.coefficients, self.intercept)
        fused = (joined - self.centre) @ self.components.T
        return fused.astype(np.float32), np.logical_or.reduce(list(present.values()))

    def arrays(self) -> dict[str, npt.NDArray[np.float64]]:
        """Everything fitted, by name, to be stored and hashed."""
        arrays = {
            "fusion.centre": self.centre,
            "fusion.components": self.components,
            "fusion.coefficients": self.coefficients,
            "fusion.intercept": self.intercept,
        }
        return {**arrays, **modality_arrays(self.modalities)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[np.float64]], modalities: Sequence[str]) -> Fusion:
        """The inverse of :meth:`arrays`. Raises KeyError naming the array that is missing."""
        return cls(
            modalities=modalities_of(arrays, modalities),
            centre=arrays["fusion.centre"],
            components=arrays["fusion.components"],
            coefficients=arrays["fusion.coefficients"],
            intercept=arrays["fusion.intercept"],
        )


def require_a_modality(
    fitted: Mapping[str, Modality], given: Mapping[str, ItemVectors], weights: Mapping[str, float]
) -> None:
    """Raises DataError where no modality was left to fit on."""
    if not fitted:
        raise DataError(
            "no item has a vector of any modality with a weight above 0 "
            f"(modalities: {', '.join(sorted(given)) or 'none'}; "
            f"tokenizer.modality_weights: {dict(weights)})"
        )


def of_the_codebook(
    fitted: Mapping[str, Modality], given: Mapping[str, ItemVectors]
) -> dict[str, ItemVectors]:
    """The vectors of the fitted modalities, in their order.

    Raises BindingError where one is missing, or they are of different items.
    """
    if missing := sorted(set(fitted) - set(given)):
        raise BindingError(f"the codebook was made on {', '.join(fitted)}; {', '.join(missing)} is missing")
    used = {name: given[name] for name in fitted}
    same_items(used)
    return used


def modality_arrays(modalities: Mapping[str, Modality]) -> dict[str, Floats]:
    """The modalities' statistics, by name, to be stored and hashed."""
    arrays: dict[str, Floats] = {}
    for name, modality in modalities.items():
        arrays[f"fusion.{name}.mean"] = modality.mean
        arrays[f"fusion.{name}.scale"] = np.array([modality.scale])
    return arrays


def modalities_of(arrays: Mapping[str, Floats], names: Sequence[str]) -> dict[str, Modality]:
    """The inverse of :func:`modality_arrays`. Raises KeyError naming the array that is missing."""
    return {
        name: Modality(mean=arrays[f"fusion.{name}.mean"], scale=float(arrays[f"fusion.{name}.scale"][0]))
        for name in names
    }


def same_items(modalities: Mapping[str, ItemVectors]) -> list[str]:
    """The item ids that all modalities share, in order. Raises BindingError where they are not the same."""
    if not modalities:
        raise BindingError("no modality was given")
    first, *others = sorted(modalities)
    ids = modalities[first].item_ids
    for name in others:
        if modalities[name].item_ids != ids:
            raise BindingError(
                f"the {first} and {name} vectors are of different items: run both encoders again"
            )
    return ids


def select(vectors: ItemVectors, rows: npt.NDArray[np.int64]) -> ItemVectors:
    """The vectors of some rows, in that order."""
    return ItemVectors(
        vectors=vectors.vectors[rows],
        present=vectors.present[rows],
        item_ids=[vectors.item_ids[row] for row in rows],
    )


def _unit_rows(vectors: ItemVectors, name: str) -> tuple[Floats, Bools]:
    values = vectors.vectors.astype(np.float64)
    wrong = vectors.present & ~np.isfinite(values).all(axis=1)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(
            f"the {name} vector of item {vectors.item_ids[row]!r} is not finite (NaN or infinity): "
            f"mend the item's {name} data or run the {name} encoder again"
        )
    values = np.where(vectors.present[:, None], values, 0.0)
    lengths = np.linalg.norm(values, axis=1)
    present = lengths > 0
    return values / np.where(present, lengths, 1.0)[:, None], present


def _others(names: Sequence[str] | Mapping[str, object]) -> list[str]:
    return [name for name in names if name != IMPUTED]


def _fit_imputation(prepared: Mapping[str, Floats], present: Mapping[str, Bools]) -> tuple[Floats, Floats]:
    """Ridge coefficients [D others, D imputed] and intercept [D imputed]; of size zero where there is nothing
    to fit."""
    others = _others(prepared)
    if IMPUTED not in prepared:
        return np.zeros((0, 0)), np.zeros(0)
    targets = prepared[IMPUTED]
    width = sum(prepared[name].shape[1] for name in others)
    rows = present[IMPUTED] & np.logical_or.reduce(
        [np.zeros(len(targets), dtype=bool), *(present[n] for n in others)]
    )
    if rows.sum() < _MIN_REGRESSION_ITEMS:
        return np.zeros((width, targets.shape[1])), np.zeros(targets.shape[1])
    x = np.concatenate([prepared[name] for name in others], axis=1)[rows]
    y = targets[rows]
    return ridge(x, y)


def ridge(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Ridge regression of ``y`` [n, q] on ``x`` [n, p]: coefficients [p, q], intercept [q].

    The penalty is the one of ``PENALTIES`` (times n) with the least generalised cross-validation error
    n‖y − ŷ‖² / (n − 1 − Σ sᵢ²/(sᵢ² + λ))², sᵢ being the singular values of the centred ``x``.
    """
    n = len(x)
    x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
    left, singular, right = np.linalg.svd(x - x_mean, full_matrices=False)
    projected = left.T @ (y - y_mean)  # [r, q]
    outside = float(((y - y_mean) ** 2).sum() - (projected**2).sum())
    energy = (projected**2).sum(axis=1)
    errors = []
    for penalty in PENALTIES:
        shrunk = penalty * n / (singular**2 + penalty * n)  # 1 - filter factor
        freedom = max(n - 1 - float((1 - shrunk).sum()), 1e-9)
        errors.append(n * (max(outside, 0.0) + float((shrunk**2 * energy).sum())) / freedom**2)
    best = PENALTIES[int(np.argmin(errors))] * n
    coefficients = right.T @ ((singular / (singular**2 + best))[:, None] * projected)
    return coefficients, y_mean - x_mean @ coefficients


def _join(
    prepared: Mapping[str, Floats], present: Mapping[str, Bools], coefficients: Floats, intercept: Floats
) -> Floats:
    """All modalities side by side [N, D total], the imputed one filled in where it is absent."""
    filled = dict(prepared)
    if IMPUTED in prepared:
        absent = ~present[IMPUTED]
        if absent.any():
            values = prepared[IMPUTED].copy()
            others = _others(prepared)
            content = (
                np.concatenate([prepared[name][absent] for name in others], axis=1)
                if others
                else np.zeros((int(absent.sum()), 0))
            )
            values[absent] = content @ coefficients + intercept
            filled[IMPUTED] = values
    return np.concatenate(list(filled.values()), axis=1)


def _principal_axes(centred: Floats, dimensions: int) -> Floats:
    """The leading principal axes [d, D], d <= dimensions, signs fixed: the largest entry of each is
    positive."""
    count, width = centred.shape
    if count >= width:  # the smaller of the two problems has the same axes
        _, values, axes = np.linalg.svd(centred.T @ centred, hermitian=True)
        deviations = np.sqrt(np.maximum(values, 0.0))
    else:
        _, deviations, axes = np.linalg.svd(centred, full_matrices=False)
    if not len(deviations) or deviations[0] <= 1e-9 * np.sqrt(count):
        return np.zeros((0, width))
    kept = axes[
        : min(dimensions, max(count - 1, 0), int((deviations > _RELATIVE_RANK * deviations[0]).sum()))
    ]
    largest = np.argmax(np.abs(kept), axis=1)
    return np.asarray(kept * np.sign(kept[np.arange(len(kept)), largest])[:, None])
