"""The items of a dataset, in the order that every per-item array follows: row i of items.parquet is item index i."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
from safetensors.numpy import load_file, save_file

from segue.errors import ArtifactError
from segue.paths import IndexArray
from segue.schema import Catalogue, Split

ITEMS_FILE = "items.parquet"


@dataclass(frozen=True)
class Items:
    """The item table: item_index, the catalogue's columns, and ``train_count`` (events in the training part)."""

    table: pl.DataFrame

    @classmethod
    def load(cls, folder: Path) -> Items:
        """From an artifact folder that holds ``items.parquet``. Raises ArtifactError where it does not."""
        path = folder / ITEMS_FILE
        if not path.is_file():
            raise ArtifactError(f"{path} is missing")
        table = pl.read_parquet(path)
        if table[Split.ITEM_INDEX].to_list() != list(range(table.height)):
            raise ArtifactError(f"{path}: item_index is not 0 … {table.height - 1} in order")
        return cls(table)

    def __len__(self) -> int:
        return self.table.height

    @cached_property
    def ids(self) -> list[str]:
        return self.table[Catalogue.ITEM].to_list()

    @cached_property
    def index_of(self) -> dict[str, int]:
        return {item: index for index, item in enumerate(self.ids)}

    @cached_property
    def train_counts(self) -> IndexArray:
        return self.table["train_count"].to_numpy().astype(np.int64)

    def indices(self, ids: Sequence[str]) -> tuple[IndexArray, list[str]]:
        """Item indices of the known ids, in order, and the ids that are unknown."""
        known = [self.index_of[item] for item in ids if item in self.index_of]
        return np.asarray(known, dtype=np.int64), [item for item in ids if item not in self.index_of]


@dataclass(frozen=True)
class ItemVectors:
    """Vectors aligned with :class:`Items`, and which items really have one."""

    vectors: np.ndarray  # [N, D] float32; zeros where absent
    present: np.ndarray  # [N] bool
    item_ids: list[str]  # [N]

    FILE = "vectors.safetensors"
    IDS = "vector_items.parquet"

    def save(self, folder: Path) -> None:
        save_file(
            {"vectors": self.vectors.astype(np.float32), "present": self.present.astype(np.uint8)},
            folder / self.FILE,
        )
        pl.DataFrame({Catalogue.ITEM: self.item_ids}, schema={Catalogue.ITEM: pl.String}).write_parquet(
            folder / self.IDS
        )

    @classmethod
    def load(cls, folder: Path) -> ItemVectors:
        """Raises ArtifactError where the files are missing."""
        if not (folder / cls.FILE).is_file():
            raise ArtifactError(f"{folder / cls.FILE} is missing")
        arrays = load_file(folder / cls.FILE)
        ids = pl.read_parquet(folder / cls.IDS)[Catalogue.ITEM].to_list()
        return cls(vectors=arrays["vectors"], present=arrays["present"].astype(bool), item_ids=ids)
