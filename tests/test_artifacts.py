from __future__ import annotations

import contextlib
import json
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue import artifacts
from segue.artifacts import ArtifactError, commit, read_manifest, temporary_folder, verify, write_text


def make(folder: Path, files: dict[str, bytes]) -> artifacts.Manifest:
    with temporary_folder(folder) as temporary:
        for name, content in files.items():
            path = temporary / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return commit(
            temporary,
            folder,
            step="s",
            dataset="d",
            params_sha256="p",
            inputs={"b": "2", "a": "1"},
            code_version="c",
        )


def test_commit_then_verify(tmp_path: Path) -> None:
    manifest = make(tmp_path / "a", {"x.txt": b"1", "deep/y.bin": b"\x00"})
    assert verify(tmp_path / "a") == manifest
    assert set(manifest.files) == {"x.txt", "deep/y.bin"}
    assert artifacts.looks_whole(tmp_path / "a", manifest)


@settings(max_examples=20, deadline=None)
@given(st.dictionaries(st.sampled_from(["a", "b", "c/d"]), st.binary(max_size=8), max_size=3))
def test_equal_files_give_equal_identity_wherever_they_lie(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]
) -> None:
    one, two = (make(tmp_path_factory.mktemp("w") / "a", files) for _ in range(2))
    assert one == two


@pytest.mark.parametrize("damage", ["changed", "missing", "extra"])
def test_damage_is_found_and_named(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "a"
    make(folder, {"x.txt": b"1234"})
    if damage == "changed":
        (folder / "x.txt").write_bytes(b"1235")
    elif damage == "missing":
        (folder / "x.txt").unlink()
    else:
        (folder / "z.txt").write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"[xz]\.txt"):
        verify(folder)


def test_without_manifest_it_is_refused_and_the_remedy_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="run the thing"):
        read_manifest(tmp_path, remedy="run the thing")


@pytest.mark.parametrize("text", ['{"schema_version": 99}', "not json", '{"schema_version": 1}', "[]"])
def test_a_manifest_that_is_not_understood_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / artifacts.MANIFEST).write_text(text)
    with pytest.raises(ArtifactError):
        read_manifest(tmp_path)


def test_a_failing_step_leaves_the_former_artifact_and_nothing_else(tmp_path: Path) -> None:
    make(tmp_path / "a", {"x.txt": b"old"})
    with contextlib.suppress(RuntimeError), temporary_folder(tmp_path / "a") as temporary:
        (temporary / "x.txt").write_bytes(b"new")
        raise RuntimeError
    assert (tmp_path / "a" / "x.txt").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_leftovers_of_a_kill_are_removed(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    leftovers = [".retired-a-ff", f".tmp-a-{gone.pid}-ff", f".tmp-a-b-{os.getpid()}-ff"]
    for name in (*leftovers, "a"):
        (tmp_path / name).mkdir()
    assert artifacts.remove_leftovers(tmp_path) == sorted(leftovers)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_a_living_orphan_writes_is_no_leftover(tmp_path: Path) -> None:
    orphan = subprocess.Popen(["sleep", "30"])
    try:
        for name in (f".tmp-a-{orphan.pid}-ff", f".retired-a-{orphan.pid}-ff"):
            (tmp_path / name).mkdir()
        assert artifacts.remove_leftovers(tmp_path) == []
        orphan.kill()
        orphan.wait()
        assert len(artifacts.remove_leftovers(tmp_path)) == 2
    finally:
        orphan.kill()
        orphan.wait()


def test_json_refuses_what_is_no_number(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        artifacts.write_json(tmp_path / "x.json", {"a": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_manifest_says_nothing_of_time_or_host(tmp_path: Path) -> None:
    make(tmp_path / "a", {"x.txt": b"1"})
    raw = json.loads((tmp_path / "a" / artifacts.MANIFEST).read_text())
    assert set(raw) == {
        "schema_version",
        "step",
        "dataset",
        "content_sha256",
        "files",
        "params_sha256",
        "inputs",
        "code_version",
    }


def test_a_text_that_cannot_be_put_in_its_place_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(IsADirectoryError) as folder:
        write_text(tmp_path, "text")
    assert folder.value.filename == str(tmp_path)  # and no temporary name

    def refuse(*_: object) -> None:
        raise PermissionError("no")

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(PermissionError):
        write_text(tmp_path / "a.txt", "text")
    assert not list(tmp_path.iterdir())
