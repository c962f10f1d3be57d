"""Pictures by content: opened once, a killed run goes on, damage costs time only."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from segue.encoders import image_cache
from segue.encoders.image_cache import Picture, encode_pictures
from segue.encoders.settings import EncoderSettings
from segue.errors import DataError
from tests.encoders.pictures import Miniature, drawn, put

SETTINGS = EncoderSettings()


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_cache, "PART", 3)


def files(folder: Path, count: int = 8) -> dict[str, Path]:
    """Eight files, of which the third is no image and the fourth is blank."""
    made = [put(folder / f"{number}.png", drawn(number)) for number in range(count)]
    made[2].write_bytes(b"no image")
    put(made[3], drawn(0).convert("1").point(lambda _: 0))
    return {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in made}


def encode(
    encoder: Miniature, wanted: dict[str, Path], cache: Path, said: list[str] | None = None
) -> tuple[dict[str, Picture], int]:
    return encode_pictures(encoder, wanted, cache, SETTINGS, ([] if said is None else said).append)


def same(one: dict[str, Picture], other: dict[str, Picture]) -> bool:
    return set(one) == set(other) and all(
        one[key].facts == other[key].facts
        and (
            (one[key].vector is None and other[key].vector is None)
            or np.array_equal(one[key].vector, other[key].vector)  # type: ignore[arg-type]
        )
        for key in one
    )


def test_a_file_that_is_replaced_while_it_is_encoded_poisons_nothing(tmp_path: Path) -> None:
    wanted = files(tmp_path, 4)

    class Replacing(Miniature):
        def encode(self, images, progress=None):  # type: ignore[no-untyped-def]
            put(tmp_path / "1.png", drawn(77))
            return super().encode(images, progress)

    with pytest.raises(DataError, match=r"1\.png changed since it was ingested"):
        encode(Replacing(), wanted, tmp_path / "cache")
    put(tmp_path / "1.png", drawn(1))
    again, _ = encode(Miniature(), wanted, tmp_path / "cache")
    fresh, _ = encode(Miniature(), wanted, tmp_path / "other")
    assert same(again, fresh)


def test_a_content_is_opened_once(tmp_path: Path) -> None:
    wanted = files(tmp_path)
    first, second = Miniature(), Miniature()
    found, opened = encode(first, wanted, tmp_path / "cache")
    assert (opened, len(first.asked)) == (8, 6)
    reasons = {path.name: found[key].facts.reason for key, path in wanted.items()}
    assert (reasons.pop("2.png"), reasons.pop("3.png")) == ("not_an_image", "blank")
    assert set(reasons.values()) == {None}
    for path in wanted.values():
        path.unlink()  # what is cached needs no file
    again, opened = encode(second, wanted, tmp_path / "cache")
    assert (opened, second.asked) == (0, [])
    assert same(found, again)


def test_a_killed_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    wanted = files(tmp_path)
    expected, _ = encode(Miniature(), wanted, tmp_path / "whole")
    killed, said = Miniature(fails_after=3), list[str]()
    with pytest.raises(KeyboardInterrupt):
        encode(killed, wanted, tmp_path / "cache", said)
    resumed = Miniature()
    found, opened = encode(resumed, wanted, tmp_path / "cache", said)
    assert same(found, expected)
    assert opened == 5  # the first part of three stood
    assert set(resumed.asked) == {"4.png", "5.png", "6.png", "7.png"}
    assert said[-1] == "5 of 5 pictures encoded"


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:60]),
        lambda path: path.write_text("no parquet", encoding="utf-8"),
        lambda path: pl.DataFrame({"sha256": ["a"]}).write_parquet(path),
    ],
)
def test_a_damaged_part_costs_time_only(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    wanted, said = files(tmp_path), list[str]()
    expected, _ = encode(Miniature(), wanted, tmp_path / "cache")
    damage(sorted((tmp_path / "cache").iterdir())[0])
    found, opened = encode(Miniature(), wanted, tmp_path / "cache", said)
    assert same(found, expected)
    assert opened in (2, 3)
    assert any("made anew" in line for line in said)


def test_a_file_that_changed_since_it_was_hashed_stops_the_run(tmp_path: Path) -> None:
    wanted = files(tmp_path)
    put(tmp_path / "5.png", drawn(99))
    with pytest.raises(DataError, match=r"5\.png changed since it was ingested: run the step ingest"):
        encode(Miniature(), wanted, tmp_path / "cache")
    (tmp_path / "5.png").unlink()
    with pytest.raises(DataError, match=r"5\.png cannot be read any more .*: run the step ingest"):
        encode(Miniature(), wanted, tmp_path / "cache")
