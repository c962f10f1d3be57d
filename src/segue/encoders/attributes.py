"""Structured attributes to vectors: categories, year and price in a space that is frozen with its vocabulary.

Columns: one a category of the vocabulary (0 or 1), one for any category outside it, the standardised year,
the standardised log price. A missing year or price stands at the mean. Rows have unit length.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, ValidationError

from segue.artifacts import write_json
from segue.canonical import sha256_of
from segue.encoders.protocol import Vectors
from segue.encoders.text import unit
from segue.errors import ArtifactError
from segue.schema import Catalogue

_CLIP = 3.0  # standard deviations: one absurd price must not outweigh every category


class Scale(BaseModel):
    """Mean and standard deviation of a number; a constant number has standard deviation 1."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: float
    deviation: float

    @classmethod
    def of(cls, values: pl.Series) -> Self:
        """Of the values that are there and finite."""
        known = values.drop_nulls().to_numpy().astype(np.float64)
        known = known[np.isfinite(known)]
        if not known.size:
            return cls(mean=0.0, deviation=1.0)
        return cls(mean=float(known.mean()), deviation=float(known.std()) or 1.0)

    def __call__(self, values: pl.Series) -> np.ndarray:
        """[N] float64, 0 where missing, at most three standard deviations from it."""
        raw = values.cast(pl.Float64).to_numpy()
        scaled = (raw - self.mean) / self.deviation
        return np.clip(np.where(np.isfinite(scaled), scaled, 0.0), -_CLIP, _CLIP)


class AttributeSpace(BaseModel):
    """The frozen space: the vocabulary in its column order, and the scales."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    categories: tuple[str, ...]
    year: Scale
    log_price: Scale

    FILE: str = "attributes.json"

    @classmethod
    def fit(cls, items: pl.DataFrame, max_categories: int) -> AttributeSpace:
        """From an item table; only the ``max_categories`` most frequent categories get a column."""
        counts = Counter(label for labels in _labels(items) for label in labels)
        frequent = sorted(counts, key=lambda label: (-counts[label], label))[:max_categories]
        return cls(
            categories=tuple(sorted(frequent)),
            year=Scale.of(items[Catalogue.YEAR]),
            log_price=Scale.of(_log_price(items)),
        )

    @property
    def dimensions(self) -> int:
        return len(self.categories) + 3

    @property
    def sha256(self) -> str:
        return sha256_of(self.model_dump(mode="json"))

    def encode(self, items: pl.DataFrame) -> tuple[Vectors, np.ndarray]:
        """[N, D] unit vectors and [N] whether its attributes say anything about the item (else zeros)."""
        column = {label: index for index, label in enumerate(self.categories)}
        outside = len(self.categories)
        vectors = np.zeros((items.height, self.dimensions), dtype=np.float32)
        for row, found in enumerate(_labels(items)):
            for label in found:
                vectors[row, column.get(label, outside)] = 1.0
        vectors[:, outside + 1] = self.year(items[Catalogue.YEAR])
        vectors[:, outside + 2] = self.log_price(_log_price(items))
        # Who has nothing, or stands at the mean with all that it has, has no direction to point to.
        return unit(vectors), np.abs(vectors).sum(axis=1) > 0

    def save(self, folder: Path) -> None:
        write_json(folder / self.FILE, self.model_dump(mode="json"))

    @classmethod
    def load(cls, folder: Path) -> AttributeSpace:
        """Raises ArtifactError where the file is missing or damaged."""
        path = folder / "attributes.json"
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValidationError) as error:
            raise ArtifactError(f"{path} cannot be read: {error}") from error


def _labels(items: pl.DataFrame) -> list[set[str]]:
    return [{label for label in labels or () if label} for labels in items[Catalogue.CATEGORIES].to_list()]


def _log_price(items: pl.DataFrame) -> pl.Series:
    """log(1 + price); null where there is no price or no sensible one."""
    price = items[Catalogue.PRICE].cast(pl.Float64)
    sensible = pl.select(pl.when(price.is_finite() & (price >= 0)).then(price)).to_series()
    return sensible.log1p()
