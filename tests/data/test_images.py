"""Which picture belongs to which item, and the record by which a changed picture is noticed."""

from __future__ import annotations

import os
from pathlib import Path

import polars as pl
import pytest
from pydantic import ValidationError

from segue.canonical import sha256_of_file
from segue.data import images
from segue.data.images import named_images, read_images, record_images
from segue.data.settings import DataSettings
from segue.errors import ArtifactError, DataError
from segue.workspace import Workspace
from tests.data.examples import catalogue, interactions

EVENTS = interactions([("u", "a", 1), ("u", "x", 2)])
LONG_AGO = 1_000_000_000


def settings(**image_source: str) -> DataSettings:
    return DataSettings.model_validate({"interactions": {"path": "nowhere.csv"}, "images": image_source})


def write(path: Path, content: bytes = b"picture") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (LONG_AGO, LONG_AGO))


def record(root: Path, items: pl.DataFrame, data: DataSettings) -> dict[str, tuple[str | None, str | None]]:
    table = record_images(
        items, EVENTS, data, Workspace(root), seen=root / "state" / "seen.parquet", say=lambda message: None
    )
    table.write_parquet(root / "images.parquet")
    return read_images(root)


def test_the_catalogue_wins_over_the_template() -> None:
    items = catalogue(["a", "b", "c"], image_path=["own.png", "", None])
    assert named_images(items, settings(template="p/{item}.jpg")) == ["own.png", "p/b.jpg", "p/c.jpg"]
    assert named_images(items, settings()) == ["own.png", None, None]


def test_every_named_path_is_there_or_says_why(tmp_path: Path) -> None:
    write(tmp_path / "p" / "a.jpg")
    write(tmp_path / "secret.jpg")
    absolute = tmp_path / "elsewhere.png"
    write(absolute, b"other")
    paths = ["a.jpg", "gone.jpg", "../secret.jpg", "https://host/a.jpg", str(absolute), "", "a\0.jpg"]
    found = record(tmp_path, catalogue(list("abcdefg"), image_path=paths), settings(folder="p"))
    assert found == {
        "a.jpg": (sha256_of_file(tmp_path / "p" / "a.jpg"), None),
        "gone.jpg": (None, "missing"),
        "../secret.jpg": (None, "outside"),
        "https://host/a.jpg": (None, "remote"),
        str(absolute): (sha256_of_file(absolute), None),
        "a\0.jpg": (None, found["a\0.jpg"][1]),
    }
    assert found["a\0.jpg"][1] in ("missing", "unreadable")


def test_an_items_id_leads_nowhere_else(tmp_path: Path) -> None:
    write(tmp_path / "secret.jpg")
    (tmp_path / "p").mkdir()
    found = record(tmp_path, catalogue(["../secret"]), settings(folder="p", template="{item}.jpg"))
    assert found["../secret.jpg"] == (None, "outside")


def test_with_a_template_items_of_the_interactions_have_pictures_too(tmp_path: Path) -> None:
    write(tmp_path / "x.jpg")
    found = record(tmp_path, catalogue(["a"]), settings(template="{item}.jpg"))
    assert found == {"a.jpg": (None, "missing"), "x.jpg": (sha256_of_file(tmp_path / "x.jpg"), None)}


def test_only_what_changed_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def reading(path: Path) -> str:
        read.append(path.name)
        return sha256_of_file(path)

    monkeypatch.setattr(images, "sha256_of_file", reading)
    data, items = settings(template="{item}.jpg"), catalogue(["a", "b"])
    for name in "ab":
        write(tmp_path / f"{name}.jpg", name.encode())
    first = record(tmp_path, items, data)
    assert record(tmp_path, items, data) == first
    assert sorted(read) == ["a.jpg", "b.jpg"]
    (tmp_path / "b.jpg").write_bytes(b"B")  # the same size, another time
    second = record(tmp_path, items, data)
    assert second["b.jpg"] != first["b.jpg"]
    assert second["a.jpg"] == first["a.jpg"]
    assert sorted(read) == ["a.jpg", "b.jpg", "b.jpg"]
    record(tmp_path, items, data)
    assert read.count("b.jpg") == 3  # it was written just now, and might change within the same tick
    (tmp_path / "state" / "seen.parquet").write_bytes(b"damaged")
    assert record(tmp_path, items, data) == second


def test_no_picture_is_named_and_nothing_is_asked_for(tmp_path: Path) -> None:
    assert record(tmp_path, catalogue(["a"]), settings(folder="not/there")) == {}
    assert not (tmp_path / "state").exists()


def test_a_folder_that_is_not_there_is_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not/there does not exist: set `data.images.folder`"):
        record(tmp_path, catalogue(["a"], image_path=["a.jpg"]), settings(folder="not/there"))
    with pytest.raises(ValidationError, match=r"must hold \{item\}"):
        settings(template="posters/item.jpg")
    with pytest.raises(ArtifactError, match="run the step ingest again"):
        read_images(tmp_path)
