"""How a stranger's file is written: format, encoding, separator, header."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import fsspec
import polars as pl

from segue.data.column_names import is_known
from segue.data.csv_shape import best_separator, split, why_none
from segue.data.settings import TableSource
from segue.data.sources import read_file
from segue.errors import DataError

_OTHER_KINDS: Final = {
    b"PK\x03\x04": "an Excel workbook or another zip file",
    b"\xd0\xcf\x11\xe0": "an Excel workbook",
    b"\xff\xfe": "text in UTF-16",
    b"\xfe\xff": "text in UTF-16",
}


def sniff(path: str, separator: str | None = None) -> tuple[TableSource, pl.DataFrame]:
    """How the file is written, and all of it as strings (CSV) or as typed (Parquet)."""
    if path.lower().endswith((".parquet", ".pq")):
        source = TableSource(path=path, format="parquet")
        return source, read_file(path, source)
    try:
        with fsspec.open(path, "rb", compression="infer") as file:
            content: bytes = file.read()
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing") from error
    except IsADirectoryError as error:
        raise DataError(
            f"{path} is a folder: give one of its files, and put the folder into the profile afterwards (`path`)"
        ) from error
    except (OSError, ValueError, ImportError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    for mark, kind in _OTHER_KINDS.items():
        if content.startswith(mark):
            raise DataError(f"{path} is {kind}: save it as CSV in UTF-8, or as Parquet")
    encoding = "utf8"
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        encoding, text = "latin-1", content.decode("latin-1")
    lines = [line for line in text[:1_000_000].splitlines()[:200] if line.strip()]
    if len(lines) < 2:
        raise DataError(f"{path} is empty" if not lines else f"{path} has no rows below its first line")
    if separator is None and (separator := best_separator(lines)) is None:
        raise DataError(f"{path}: {why_none(lines)}")
    rows = split(lines, separator)
    source = TableSource(
        path=path, format="csv", separator=separator, encoding=encoding, has_header=_looks_like_header(rows)
    )
    if source.has_header and (twice := sorted({name for name in rows[0] if rows[0].count(name) > 1})):
        raise DataError(f"{path}: several columns are called {twice[0]!r}: give each a name of its own")
    return source, read_file(path, source)


def _looks_like_header(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first line names columns: by a name that is known, or because some column has digits (a number, a time, an
    id such as u53) in every line but the first."""
    first, others = rows[0], rows[1:]
    if any(map(is_known, first)):
        return True
    if any(map(_is_number, first)):
        return False
    return any(map(_is_number, others[0])) or any(
        not _has_digit(name) and all(map(_has_digit, column))
        for name, *column in zip(first, *others, strict=False)
    )


def _has_digit(cell: str) -> bool:
    return any(character.isdigit() for character in cell)


def _is_number(cell: str) -> bool:
    return re.fullmatch(r"\s*-?\d+(\.\d*)?\s*", cell) is not None
