"""Pictures by the hash of their bytes: what was found out about each, and its vector.

A folder an encoder, with Parquet parts that are only ever added: one is written after every few hundred
pictures, so that a run that was killed goes on where it stopped. A part that cannot be read costs time and
changes nothing.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from segue.encoders.pictures import PictureFacts, look
from segue.encoders.protocol import ImageEncoder, Vectors
from segue.encoders.settings import EncoderSettings
from segue.errors import DataError

PICTURES_FILE: Final = "pictures.parquet"  # of the step image_embeddings: a row an item
PART: Final = 256  # pictures between two writes
_LINES: Final = 20  # at most so many say how far the work is
_FACTS: Final[dict[str, pl.DataType]] = {
    "sha256": pl.String(),
    "reason": pl.String(),
    "width": pl.Int64(),
    "height": pl.Int64(),
    "format": pl.String(),
    "mode": pl.String(),
    "dhash": pl.String(),
}


@dataclass(frozen=True, slots=True)
class Picture:
    """One content: its facts, and its vector [D] where it is usable."""

    facts: PictureFacts
    vector: npt.NDArray[np.float32] | None


def encode_pictures(
    encoder: ImageEncoder,
    files: Mapping[str, Path],
    folder: Path,
    settings: EncoderSettings,
    say: Callable[[str], None],
) -> tuple[dict[str, Picture], int]:
    """Every content of ``files`` (its SHA-256 -> a file that has it), and how many files had to be opened.

    ``folder``: the cache of exactly this encoder with exactly these settings. Raises DataError where a file
    has other bytes than its hash says, or is gone: it changed since its data was ingested.
    """
    for leftover in folder.glob(".*.parquet"):  # of a run that was killed while it wrote
        leftover.unlink()
    found = _read(folder, set(files), encoder.dimensions, say)
    wanted = [(key, path) for key, path in files.items() if key not in found]
    if wanted:
        say(f"{len(wanted)} of {len(files)} pictures are new to {encoder.name}")
    left = iter(wanted)
    opened = told = 0
    while part := dict(islice(left, PART)):
        fresh = _encode(encoder, part, settings)
        _write(folder, fresh, encoder.dimensions)
        found.update(fresh)
        opened += len(part)
        if (share := _LINES * opened // len(wanted)) > told:
            told = share
            say(f"{opened} of {len(wanted)} pictures encoded")
    return found, opened


def _encode(encoder: ImageEncoder, part: Mapping[str, Path], settings: EncoderSettings) -> dict[str, Picture]:
    facts = {key: look(_content(key, path), settings) for key, path in part.items()}
    usable = [key for key, one in facts.items() if one.reason is None]
    vectors: dict[str, Vectors] = {}
    if usable:
        vectors = dict(zip(usable, encoder.encode([part[key] for key in usable]), strict=True))
        for key in usable:  # the encoder read the files again: what it saw must be what the hash says
            _content(key, part[key])
    return {key: Picture(one, vectors.get(key)) for key, one in facts.items()}


def _content(sha256: str, path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read any more ({error.strerror}): run the step ingest again"
        ) from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DataError(f"{path} changed since it was ingested: run the step ingest again")
    return content


def _read(folder: Path, wanted: set[str], dimensions: int, say: Callable[[str], None]) -> dict[str, Picture]:
    schema = _schema(dimensions)
    found: dict[str, Picture] = {}
    for path in sorted(folder.glob("*.parquet")):
        try:
            table = pl.read_parquet(path)
        except (pl.exceptions.PolarsError, OSError) as error:
            say(f"the cached part {path.name} cannot be read and is made anew: {error}")
            continue
        if dict(table.schema) != schema:
            say(f"the cached part {path.name} has other columns and is made anew")
            continue
        chosen = table.filter(pl.Series([key in wanted for key in table["sha256"]], dtype=pl.Boolean))
        vectors = chosen["vector"].to_numpy().reshape(chosen.height, dimensions)
        for row, vector in zip(chosen.select(list(_FACTS)).iter_rows(named=True), vectors, strict=True):
            key = row.pop("sha256")
            facts = PictureFacts(**row)
            found[key] = Picture(facts, vector.astype(np.float32) if facts.reason is None else None)
    return found


def _write(folder: Path, fresh: Mapping[str, Picture], dimensions: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    vectors = np.zeros((len(fresh), dimensions), dtype=np.float32)
    for row, picture in enumerate(fresh.values()):
        if picture.vector is not None:
            vectors[row] = picture.vector
    columns: dict[str, Any] = {
        name: [key if name == "sha256" else getattr(one.facts, name) for key, one in fresh.items()]
        for name in _FACTS
    }
    table = pl.DataFrame(columns | {"vector": vectors}, schema=_schema(dimensions))
    name = f"{uuid.uuid4().hex}.parquet"
    temporary = folder / f".{name}"
    table.write_parquet(temporary)
    os.replace(temporary, folder / name)


def _schema(dimensions: int) -> dict[str, pl.DataType]:
    return {**_FACTS, "vector": pl.Array(pl.Float32, dimensions)}
