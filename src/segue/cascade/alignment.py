"""Models know the items they were trained on, by id; requests come in the indices of today's item table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from segue.errors import ArtifactError
from segue.items import Items
from segue.paths import IndexArray
from segue.schema import Catalogue

ITEM_IDS = "item_ids.parquet"


def save_item_ids(item_ids: Sequence[str], folder: Path) -> None:
    """Write the ids of a model's rows, in order."""
    pl.DataFrame({Catalogue.ITEM: list(item_ids)}, schema={Catalogue.ITEM: pl.String}).write_parquet(
        folder / ITEM_IDS
    )


def load_item_ids(folder: Path) -> list[str]:
    """The ids of a model's rows, in order. Raises ArtifactError where the file is missing."""
    path = folder / ITEM_IDS
    if not path.is_file():
        raise ArtifactError(f"{path} is missing: run the step incumbent again")
    ids: list[str] = pl.read_parquet(path)[Catalogue.ITEM].to_list()
    return ids


def rows_of(items: Items, item_ids: Sequence[str]) -> IndexArray:
    """[N] the model's row of every item of the table, -1 where the model does not know it."""
    row_of = {item: row for row, item in enumerate(item_ids)}
    return np.fromiter((row_of.get(item, -1) for item in items.ids), dtype=np.int64, count=len(items))
