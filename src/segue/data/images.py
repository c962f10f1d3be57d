"""Which picture file belongs to which item, and what its bytes are.

``images.parquet`` of the step ``ingest`` holds one row a path that the catalogue or the profile's template
names: ``path`` (as named), ``sha256`` and ``bytes`` of the file, or the ``reason`` why there is none. It is
what makes the image step stale when a picture changes; the tables know nothing of files, so that a new
poster trains no model again.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Final

import polars as pl

from segue.canonical import sha256_of_file
from segue.data.readers import data_folder
from segue.data.settings import DataSettings
from segue.data.sources import expand
from segue.errors import ArtifactError, DataError
from segue.schema import Catalogue, Interactions
from segue.workspace import Workspace

IMAGES_FILE: Final = "images.parquet"
IMAGES_SCHEMA: Final[dict[str, pl.DataType]] = {
    "path": pl.String(),
    "sha256": pl.String(),
    "bytes": pl.Int64(),
    "reason": pl.String(),
}
_SEEN_SCHEMA: Final[dict[str, pl.DataType]] = {
    "file": pl.String(),
    "bytes": pl.Int64(),
    "changed": pl.Int64(),
    "sha256": pl.String(),
}
_SETTLED_NS: Final = 2_000_000_000  # a file written this lately may change again within one tick of its clock
_READERS: Final = 4


class NoFile(StrEnum):
    """Why an item has no picture file."""

    NOT_NAMED = "not_named"  # neither the catalogue nor a template names one
    MISSING = "missing"
    UNREADABLE = "unreadable"  # it is there, and the system does not let it be read
    OUTSIDE = "outside"  # a relative path that leaves its folder
    REMOTE = "remote"  # a URL; only files on disk are read


def named_images(items: pl.DataFrame, settings: DataSettings) -> list[str | None]:
    """The picture path of each row of ``items`` (its ``item_id`` and ``image_path``), None where there is none.

    The catalogue's own path wins over the template.
    """
    template = settings.images.template
    return [
        path or (None if template is None or item is None else template.replace("{item}", item))
        for item, path in zip(items[Catalogue.ITEM], items[Catalogue.IMAGE], strict=True)
    ]


def image_folder(settings: DataSettings, workspace: Workspace) -> Path:
    """What relative picture paths count from. Raises DataError where it does not exist."""
    if settings.images.folder is None:
        return workspace.root if settings.reader == "tables" else data_folder(settings, workspace)
    folder = workspace.root / expand(settings.images.folder, workspace.root)
    if not folder.is_dir():
        raise DataError(
            f"the picture folder {folder} does not exist: set `data.images.folder` of the profile to where "
            "the pictures are"
        )
    return folder


def resolve(path: str, folder: Path) -> Path | NoFile:
    """The file that ``path`` means, whether it exists or not."""
    if "://" in path:
        return NoFile.REMOTE
    if not os.path.isabs(path) and ".." in PurePosixPath(path).parts:
        return NoFile.OUTSIDE  # an item's id goes into the template: it must not lead anywhere else
    return folder / path


def record_images(
    catalogue: pl.DataFrame,
    interactions: pl.DataFrame,
    settings: DataSettings,
    workspace: Workspace,
    *,
    seen: Path,
    say: Callable[[str], None],
) -> pl.DataFrame:
    """The content of ``images.parquet``, by path: of the catalogue's items and, with a template, of those that
    only the interactions name.

    ``seen`` remembers what was hashed, with size and time of change, so that only new and changed files are
    read. Raises DataError as :func:`image_folder` does, where any picture is named at all.
    """
    paths = set(named_images(catalogue, settings))
    if settings.images.template is not None:
        extra = interactions.select(
            pl.col(Interactions.ITEM).alias(Catalogue.ITEM),
            pl.lit(None, dtype=pl.String).alias(Catalogue.IMAGE),
        ).unique()
        known = extra.join(catalogue.select(Catalogue.ITEM), on=Catalogue.ITEM, how="anti")
        paths.update(named_images(known, settings))
    wanted = sorted(path for path in paths if path)
    if not wanted:
        return pl.DataFrame(schema=IMAGES_SCHEMA)
    folder = image_folder(settings, workspace)
    hashes = _Hashes(seen)
    with ThreadPoolExecutor(_READERS) as pool:
        rows = list(pool.map(lambda path: _look(path, folder, hashes), wanted))
    hashes.save()
    if hashes.read:
        say(
            f"{len(hashes.read)} of {len(wanted)} pictures were hashed, the others are as before or not there"
        )
    return pl.DataFrame(rows, schema=IMAGES_SCHEMA, orient="row")


def read_images(ingest: Path) -> dict[str, tuple[str | None, str | None]]:
    """Path -> (sha256, reason), from the artifact of ``ingest``. Raises ArtifactError where it has none."""
    path = ingest / IMAGES_FILE
    if not path.is_file():
        raise ArtifactError(f"{path} is missing: run the step ingest again")
    table = pl.read_parquet(path)
    return {
        name: (sha256, reason)
        for name, sha256, reason in zip(table["path"], table["sha256"], table["reason"], strict=True)
    }


def _look(path: str, folder: Path, hashes: _Hashes) -> tuple[str, str | None, int | None, str | None]:
    file = resolve(path, folder)
    if isinstance(file, NoFile):
        return path, None, None, file.value
    try:
        if not file.is_file():
            return path, None, None, NoFile.MISSING.value
        sha256, size = hashes.of(file)
    except (OSError, ValueError):  # ValueError: a name that no file can have (a null byte)
        return path, None, None, NoFile.UNREADABLE.value
    return path, sha256, size, None


class _Hashes:
    """SHA-256 by file, size and time of change; a file that is unchanged in both is not read again."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._known = {row[0]: row[1:] for row in _rows(store)}
        self._found: list[tuple[str, int, int, str]] = []
        self.read: list[str] = []

    def of(self, file: Path) -> tuple[str, int]:
        stat = file.stat()
        known = self._known.get(str(file))
        if known is not None and known[:2] == (stat.st_size, stat.st_mtime_ns):
            sha256 = str(known[2])
        else:
            sha256 = sha256_of_file(file)
            self.read.append(str(file))
        if time.time_ns() - stat.st_mtime_ns > _SETTLED_NS:
            self._found.append((str(file), stat.st_size, stat.st_mtime_ns, sha256))
        return sha256, stat.st_size

    def save(self) -> None:
        """Write what was found, where it differs from what was known."""
        if {row[0]: row[1:] for row in self._found} == self._known:
            return
        self._store.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._store.with_name(f".{self._store.name}.{uuid.uuid4().hex[:8]}")
        pl.DataFrame(self._found, schema=_SEEN_SCHEMA, orient="row").write_parquet(temporary)
        os.replace(temporary, self._store)


def _rows(store: Path) -> Iterable[tuple[str, int, int, str]]:
    """What is remembered; a file that cannot be read costs time and changes nothing."""
    if not store.is_file():
        return []
    try:
        table = pl.read_parquet(store)
    except (pl.exceptions.PolarsError, OSError):
        return []
    return table.select(list(_SEEN_SCHEMA)).rows() if set(_SEEN_SCHEMA) <= set(table.columns) else []
