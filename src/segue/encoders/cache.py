"""Vectors by the hash of what was encoded, so that day two encodes only what is new.

One Parquet file an encoder: ``key`` (SHA-256 of the content), ``vector`` (float32 list of fixed width). The
file is replaced as a whole; what is not in it, or a file that cannot be read, costs time and changes
nothing.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from segue.encoders.protocol import TextEncoder, Vectors

_KEY = "key"
_VECTOR = "vector"


def encode_cached(
    encoder: TextEncoder, texts: Sequence[str], path: Path, say: Callable[[str], None]
) -> tuple[Vectors, int]:
    """[N, D] vectors of ``texts`` and how many had to be encoded; each distinct text is encoded once.

    ``path``: the cache of exactly this encoder with exactly these settings. Nothing else may write to it
    meanwhile.
    """
    keys = [hashlib.sha256(text.encode("utf-8")).hexdigest() for text in texts]
    known = _read(path, encoder.dimensions, say)
    wanted = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
    if wanted:
        say(f"{len(wanted)} of {len(set(keys))} texts are new to {encoder.name}")
        steps = _Tenths(say)
        fresh = encoder.encode(list(wanted.values()), steps)
        known.update(zip(wanted, fresh, strict=True))
        _write(path, known, encoder.dimensions)
    vectors = np.zeros((len(texts), encoder.dimensions), dtype=np.float32)
    for row, key in enumerate(keys):
        vectors[row] = known[key]
    return vectors, len(wanted)


class _Tenths:
    """Says at every tenth how far the work is."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._tenth = 0

    def __call__(self, done: int, total: int) -> None:
        if (tenth := 10 * done // total) > self._tenth:
            self._tenth = tenth
            self._say(f"{done} of {total} encoded")


def _read(path: Path, dimensions: int, say: Callable[[str], None]) -> dict[str, Vectors]:
    if not path.is_file():
        return {}
    try:
        table = pl.read_parquet(path)
        keys, vectors = table[_KEY].to_list(), table[_VECTOR].to_numpy()
    except (pl.exceptions.PolarsError, OSError) as error:
        say(f"the cache {path.name} cannot be read and is made anew: {error}")
        return {}
    if vectors.shape != (len(keys), dimensions):
        say(f"the cache {path.name} holds vectors of another width and is made anew")
        return {}
    return dict(zip(keys, vectors, strict=True))


def _write(path: Path, known: dict[str, Vectors], dimensions: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pl.DataFrame(
        {_KEY: list(known), _VECTOR: np.stack(list(known.values()))},
        schema={_KEY: pl.String, _VECTOR: pl.Array(pl.Float32, dimensions)},
    )
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    table.write_parquet(temporary)
    os.replace(temporary, path)
