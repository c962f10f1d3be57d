"""Artifacts: folders of files that exist as a whole or not at all.

A step writes into a temporary folder beside its place; :func:`commit` hashes the files, writes ``manifest.json`` last
and renames the folder into place. A reader asks :func:`read_manifest`, which refuses what has no manifest, or one that
it does not understand. Manifests hold nothing that differs from run to run: no time, host or commit.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from segue.canonical import canonical_json, sha256_of, sha256_of_file
from segue.errors import ArtifactError

MANIFEST = "manifest.json"
SCHEMA_VERSION: Final = 1


class FileEntry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    size: int


class Manifest(BaseModel):
    """What an artifact is and what it was made from. ``content_sha256`` is its identity."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = SCHEMA_VERSION
    step: str
    dataset: str
    content_sha256: str
    files: dict[str, FileEntry]
    params_sha256: str
    inputs: dict[str, str]
    code_version: str


def hash_files(folder: Path) -> dict[str, FileEntry]:
    """Every file under ``folder`` but the manifest, by its relative POSIX path."""
    return {
        path.relative_to(folder).as_posix(): FileEntry(sha256=sha256_of_file(path), size=path.stat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).as_posix() != MANIFEST
    }


def content_hash(files: Mapping[str, FileEntry]) -> str:
    return sha256_of({name: entry.sha256 for name, entry in files.items()})


def read_manifest(folder: Path, *, remedy: str = "run the step again") -> Manifest:
    """The manifest of the artifact in ``folder``.

    Raises ArtifactError where it is missing, unreadable or of an unknown schema version; the message says what to run.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ArtifactError(f"{folder} is no finished artifact (it has no {MANIFEST}): {remedy}")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        version = raw.get("schema_version") if isinstance(raw, dict) else None
        if version != SCHEMA_VERSION:
            raise ArtifactError(
                f"{path} has schema version {version!r}, this code reads {SCHEMA_VERSION}: {remedy}"
            )
        return Manifest.model_validate(raw)
    except (json.JSONDecodeError, UnicodeDecodeError, ValidationError) as error:
        raise ArtifactError(f"{path} is damaged ({error}): {remedy}") from error


def looks_whole(folder: Path, manifest: Manifest) -> bool:
    """Whether every file stands there in its recorded size: the cheap check before a step is skipped."""
    return all(
        (file := folder / name).is_file() and file.stat().st_size == entry.size
        for name, entry in manifest.files.items()
    )


def verify(folder: Path, *, remedy: str = "run the step again") -> Manifest:
    """Read every byte of the artifact and compare. Raises ArtifactError naming the first file that differs."""
    manifest = read_manifest(folder, remedy=remedy)
    found = hash_files(folder)
    for name, entry in manifest.files.items():
        if name not in found:
            raise ArtifactError(f"{folder / name} is missing: {remedy}")
        if found[name].sha256 != entry.sha256:
            raise ArtifactError(f"{folder / name} was changed or damaged after it was written: {remedy}")
    if extra := sorted(set(found) - set(manifest.files)):
        raise ArtifactError(f"{folder / extra[0]} does not belong to the artifact: {remedy}")
    return manifest


def commit(
    temporary: Path,
    final: Path,
    *,
    step: str,
    dataset: str,
    params_sha256: str,
    inputs: Mapping[str, str],
    code_version: str,
) -> Manifest:
    """Seal ``temporary`` with a manifest and rename it to ``final``, replacing what stood there."""
    files = hash_files(temporary)
    manifest = Manifest(
        step=step,
        dataset=dataset,
        content_sha256=content_hash(files),
        files=files,
        params_sha256=params_sha256,
        inputs=dict(sorted(inputs.items())),
        code_version=code_version,
    )
    write_text(temporary / MANIFEST, canonical_json(manifest.model_dump()) + "\n")
    final.parent.mkdir(parents=True, exist_ok=True)
    replace_folder(temporary, final)
    return manifest


def replace_folder(source: Path, target: Path) -> None:
    """Rename ``source`` to ``target``. A kill in between leaves either the old folder, or none and the new one whole."""
    if target.exists():
        retired = target.with_name(f".retired-{target.name}-{os.getpid()}-{uuid.uuid4().hex[:8]}")
        os.rename(target, retired)
        os.rename(source, target)
        shutil.rmtree(retired)
    else:
        os.rename(source, target)


def write_text(path: Path, text: str) -> None:
    """Write a whole file or nothing, flushed to disk."""
    with temporary_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, value: object) -> None:
    """Readable JSON with sorted keys (equal values give equal bytes). Raises ValueError for NaN."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> object:
    """Raises ArtifactError where the file is missing or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} is missing") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path} is no JSON file: {error}") from error


@contextmanager
def temporary_file(final: Path) -> Iterator[Path]:
    """A name beside ``final`` to write a whole file to; renamed to ``final`` at the end, and after an error removed.

    Raises IsADirectoryError where ``final`` is a folder."""
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(final))
    temporary = final.with_name(f".{final.name}.{uuid.uuid4().hex[:8]}")
    try:
        yield temporary
        os.replace(temporary, final)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def temporary_folder(final: Path) -> Iterator[Path]:
    """A fresh folder beside ``final``; removed at the end unless it was renamed away."""
    folder = final.parent / f".tmp-{final.name}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        if folder.exists():
            shutil.rmtree(folder)


def remove_leftovers(parent: Path) -> list[str]:
    """Remove the temporary folders that killed runs left under ``parent``; call it under the dataset's lock.

    Those of another process that lives are left alone: a child that outlived its killed parent still writes there.
    """
    removed = []
    for pattern in (".tmp-*", ".retired-*"):
        for folder in parent.glob(pattern):
            if _another_writes(folder.name):
                continue
            shutil.rmtree(folder)
            removed.append(folder.name)
    return sorted(removed)


def _another_writes(name: str) -> bool:
    """Whether the process that a temporary folder's name ends in (``-<pid>-<random>``) lives and is not this one."""
    parts = name.rsplit("-", 2)
    if len(parts) < 3 or not parts[1].isdigit() or int(parts[1]) == os.getpid():
        return False
    try:
        os.kill(int(parts[1]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # somebody else's, and it lives
    return True
