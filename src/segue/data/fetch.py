"""Public data sets that ship inside wheels: fetched with pip by hash, only their data files kept."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from segue.artifacts import read_json, temporary_folder, write_json, write_text
from segue.canonical import sha256_of_file
from segue.errors import ArtifactError, DataError
from segue.lock import dataset_lock
from segue.workspace import Workspace

SOURCE_FILE: Final = "SOURCE.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class WheelData:
    """Data files inside a wheel."""

    package: str
    version: str
    wheel: str
    sha256: str
    folder: str  # inside the wheel
    files: tuple[str, ...]
    terms: str


WHEELS: Final[Mapping[str, WheelData]] = {
    "ml-100k": WheelData(
        package="recbole",
        version="1.2.1",
        wheel="recbole-1.2.1-py3-none-any.whl",
        sha256="9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
        folder="recbole/dataset_example/ml-100k",
        files=("ml-100k.inter", "ml-100k.item", "ml-100k.user"),
        terms="MovieLens 100K, GroupLens Research, University of Minnesota: research use, no commercial use "
        "without permission, no redistribution without it, cite Harper and Konstan (2015), "
        "The MovieLens Datasets: History and Context, ACM TiiS 5(4)",
    ),
}


def is_fetched(workspace: Workspace, dataset: str) -> bool:
    """Whether the raw files are there: as fetched, or put there by hand (then there is no
    ``SOURCE.json``)."""
    wheel, folder = _wheel(dataset), workspace.raw(dataset)
    if not all((folder / name).is_file() for name in wheel.files):
        return False
    if not (folder / SOURCE_FILE).is_file():
        return True
    try:
        record: Any = read_json(folder / SOURCE_FILE)
        return all(record["files"][name] == sha256_of_file(folder / name) for name in wheel.files)
    except (ArtifactError, KeyError, TypeError):
        return False


def fetch(workspace: Workspace, dataset: str) -> Path:
    """The folder with the raw files of ``dataset``, fetched unless they are there.

    The wheel is looked for in the folder ``SEGUE_WHEELS`` first, then asked of pip, by hash. ``SOURCE.json``,
    written last, says where the files come from and under which terms. Raises DataError where pip gets
    nothing (offline), or something whose hash differs; the message says what to do.
    """
    wheel, folder = _wheel(dataset), workspace.raw(dataset)
    with dataset_lock(workspace.state(dataset), purpose=f"fetch {dataset}"):
        if is_fetched(workspace, dataset):
            return folder
        with temporary_folder(folder) as temporary:
            archive = _find(wheel, folder) or _download(wheel, temporary, folder)
            _extract(archive, wheel, temporary)
            folder.mkdir(parents=True, exist_ok=True)
            hashes = {name: sha256_of_file(temporary / name) for name in wheel.files}
            (folder / SOURCE_FILE).unlink(missing_ok=True)
            for name in wheel.files:
                os.replace(temporary / name, folder / name)
        write_json(
            folder / SOURCE_FILE,
            {
                "package": wheel.package,
                "version": wheel.version,
                "wheel": wheel.wheel,
                "sha256": wheel.sha256,
                "terms": wheel.terms,
                "files": hashes,
            },
        )
    return folder


def _wheel(dataset: str) -> WheelData:
    try:
        return WHEELS[dataset]
    except KeyError:
        raise DataError(
            f"{dataset!r} cannot be fetched; what can: {', '.join(WHEELS)}. Other data sets are read from "
            "SEGUE_DATA or from your own tables"
        ) from None


def _find(wheel: WheelData, folder: Path) -> Path | None:
    """The wheel in ``SEGUE_WHEELS``; None where that is not set."""
    if not (place := os.environ.get("SEGUE_WHEELS")):
        return None
    archive = Path(place).expanduser() / wheel.wheel
    if not archive.is_file():
        raise DataError(f"SEGUE_WHEELS is {place}, but {archive} does not exist: {_remedy(wheel, folder)}")
    if (found := sha256_of_file(archive)) != wheel.sha256:
        raise DataError(
            f"{archive} has the SHA-256 {found}, not {wheel.sha256}: it is another or a damaged file"
        )
    return archive


def _download(wheel: WheelData, into: Path, folder: Path) -> Path:
    requirements = into / "requirements.txt"
    write_text(requirements, f"{wheel.package}=={wheel.version} --hash=sha256:{wheel.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--require-hashes", "--requirement", str(requirements), "--dest", str(into)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    archive = into / wheel.wheel
    if done.returncode != 0 or not archive.is_file():
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        why = (said or done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise DataError(
            f"pip could not download {wheel.package}=={wheel.version} ({why}). {_remedy(wheel, folder)}"
        )
    return archive


def _remedy(wheel: WheelData, folder: Path) -> str:
    return (
        f"Without a network: put {wheel.wheel} into a folder and set SEGUE_WHEELS to it, "
        f"or put {', '.join(wheel.files)} into {folder}"
    )


def _extract(archive: Path, wheel: WheelData, into: Path) -> None:
    try:
        with zipfile.ZipFile(archive) as content:
            for name in wheel.files:
                (into / name).write_bytes(content.read(f"{wheel.folder}/{name}"))
    except (zipfile.BadZipFile, KeyError) as error:
        raise DataError(f"{archive.name} is no wheel with {wheel.folder}: {error}") from error
