"""The pictures of a handful of items, outside the graph: no cache, no record, the same vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from segue.data.images import NoFile, image_folder, named_images, resolve
from segue.data.settings import DataSettings
from segue.encoders.pictures import look
from segue.encoders.protocol import ImageEncoder
from segue.encoders.settings import EncoderSettings
from segue.items import ItemVectors
from segue.schema import Catalogue
from segue.workspace import Workspace


def encode_items(
    encoder: ImageEncoder,
    table: pl.DataFrame,
    data: DataSettings,
    settings: EncoderSettings,
    workspace: Workspace,
) -> tuple[ItemVectors, dict[str, str]]:
    """The vectors of the rows of ``table`` (canonical catalogue columns), and item -> why it has none."""
    ids = table[Catalogue.ITEM].to_list()
    files: dict[int, Path] = {}
    reasons: dict[str, str] = {}
    for row, (item, path) in enumerate(zip(ids, named_images(table, data), strict=True)):
        found = _usable(path, data, settings, workspace)
        if isinstance(found, Path):
            files[row] = found
        else:
            reasons[item] = found
    vectors = np.zeros((len(ids), encoder.dimensions), dtype=np.float32)
    present = np.zeros(len(ids), dtype=bool)
    if files:
        rows = list(files)
        vectors[rows] = encoder.encode(list(files.values()))
        present[rows] = True
    return ItemVectors(vectors=vectors, present=present, item_ids=ids), reasons


def _usable(
    path: str | None, data: DataSettings, settings: EncoderSettings, workspace: Workspace
) -> Path | str:
    """The file, or the reason why there is none to use."""
    if not path:
        return NoFile.NOT_NAMED.value
    file = resolve(path, image_folder(data, workspace))
    if isinstance(file, NoFile):
        return file.value
    try:
        if not file.is_file():
            return NoFile.MISSING.value
        reason = look(file.read_bytes(), settings).reason
    except (OSError, ValueError):
        return NoFile.UNREADABLE.value
    return file if reason is None else reason
