"""From the bytes of a picture file to pixels, or to the reason why there are none."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segue.encoders.pictures import FORMATS, difference_hash, load_rgb, look, resized
from segue.encoders.settings import EncoderSettings
from segue.errors import DataError
from tests.encoders.pictures import drawn, encoded, put

SETTINGS = EncoderSettings()
WHOLE = encoded(drawn(1), "JPEG")


def sixteen_bits() -> Image.Image:
    grey = np.asarray(drawn(2).convert("L"), dtype=np.uint16)
    return Image.fromarray(grey * 256)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b"", "empty", id="empty file"),
        pytest.param(b"just a text, named .jpg\n" * 40, "not_an_image", id="text"),
        pytest.param(WHOLE[: len(WHOLE) // 2], "broken", id="half a JPEG"),
        pytest.param(encoded(drawn(1))[:-60], "broken", id="PNG without its end"),
        pytest.param(WHOLE[:4], "not_an_image", id="four bytes of a JPEG"),
        pytest.param(encoded(Image.new("RGB", (1, 1))), "tiny", id="1 x 1"),
        pytest.param(encoded(drawn(1, 15, 400)), "tiny", id="a sliver"),
        pytest.param(encoded(Image.new("RGB", (200, 300), "navy")), "blank", id="one colour"),
        pytest.param(encoded(Image.new("RGBA", (200, 300), (9, 9, 9, 0))), "blank", id="all transparent"),
        pytest.param(b"\x89PNG\r\n\x1a\n" + b"\x00" * 200, "not_an_image", id="a PNG signature alone"),
    ],
)
def test_what_is_no_picture_says_why(content: bytes, reason: str, tmp_path: Path) -> None:
    facts = look(content, SETTINGS)
    assert (facts.reason, facts.dhash) == (reason, "")
    if reason not in ("tiny", "blank"):
        with pytest.raises(DataError, match=f"{tmp_path.name}.*{reason}"):
            load_rgb(put(tmp_path / "x.jpg", content), SETTINGS.image_max_pixels)


def test_a_picture_with_too_many_pixels_is_not_decoded() -> None:
    assert look(
        encoded(drawn(1, 100, 100)), SETTINGS.model_copy(update={"image_max_pixels": 9999})
    ).reason == ("too_large")
    # A header that claims 100,000 × 100,000 pixels: refused before any memory is asked for.
    bomb = bytearray(encoded(Image.new("L", (1, 1))))
    bomb[16:24] = (100_000).to_bytes(4, "big") * 2
    assert look(bytes(bomb), SETTINGS).reason in ("too_large", "broken", "not_an_image")


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.filterwarnings("ignore::UserWarning")  # of TIFF's damaged tags
def test_no_damage_raises(format_: str) -> None:
    whole = encoded(drawn(7), format_)
    assert look(whole, SETTINGS).reason is None
    reasons = set()
    for seed in range(150):
        random = np.random.default_rng(seed)
        content = bytearray(whole)
        for position in random.integers(0, min(len(content), 400), random.integers(1, 20)):
            content[position] = random.integers(0, 256)
        cut = len(content) if seed % 3 else random.integers(1, len(content))
        reasons.add(look(bytes(content[:cut]), SETTINGS).reason)
    assert "broken" in reasons


def test_a_format_that_starts_a_program_is_no_image() -> None:
    assert look(encoded(drawn(1), "EPS"), SETTINGS).reason == "not_an_image"


@pytest.mark.parametrize(
    ("image", "format_", "tolerance"),
    [
        pytest.param(drawn(2), "PNG", 0, id="RGB"),
        pytest.param(drawn(2), "JPEG", 40, id="JPEG"),
        pytest.param(drawn(2).convert("CMYK"), "JPEG", 40, id="CMYK"),
        pytest.param(drawn(2).convert("RGBA"), "PNG", 0, id="alpha"),
        pytest.param(drawn(2).quantize(64), "PNG", 40, id="palette"),
        pytest.param(drawn(2).quantize(64), "GIF", 40, id="GIF"),
    ],
)
def test_every_colour_mode_becomes_the_same_rgb(
    image: Image.Image, format_: str, tolerance: int, tmp_path: Path
) -> None:
    content = encoded(image, format_)
    facts = look(content, SETTINGS)
    assert facts.reason is None
    assert (facts.width, facts.height, facts.format) == (40, 60, format_)
    found = load_rgb(put(tmp_path / "p", content), SETTINGS.image_max_pixels)
    expected = np.asarray(drawn(2))
    assert found.shape == (60, 40, 3)
    assert np.abs(found.astype(int) - expected.astype(int)).mean() <= tolerance / 4


@pytest.mark.parametrize(
    "image", [drawn(2).convert("L"), drawn(2).convert("LA"), sixteen_bits()], ids=["L", "LA", "16 bits"]
)
def test_grey_pictures_keep_their_greys(image: Image.Image, tmp_path: Path) -> None:
    found = load_rgb(put(tmp_path / "p.png", image), SETTINGS.image_max_pixels)
    assert np.array_equal(found, np.repeat(np.asarray(drawn(2).convert("L"))[:, :, None], 3, axis=2))


def test_transparency_lies_on_white_also_in_a_palette(tmp_path: Path) -> None:
    clear = drawn(2).convert("RGBA")
    clear.putalpha(0)
    assert (load_rgb(put(tmp_path / "a.png", clear), 10**6) == 255).all()
    palette = drawn(2).quantize(8)
    content = encoded(palette, "PNG", transparency=palette.getpixel((0, 0)))
    assert load_rgb(put(tmp_path / "b.png", content), 10**6)[0, 0].tolist() == [255, 255, 255]


def test_a_photo_stands_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    found = load_rgb(put(tmp_path / "p.png", encoded(drawn(3), "PNG", exif=exif)), 10**6)
    assert np.array_equal(found, np.rot90(np.asarray(drawn(3)), -1))


def test_the_whole_picture_is_stretched() -> None:
    found = resized(np.asarray(drawn(3)), 30)
    assert found.shape == (30, 30, 3)
    assert abs(float(found.mean()) - float(np.asarray(drawn(3)).mean())) < 3


def test_a_difference_hash_knows_a_copy_and_no_stranger() -> None:
    def bits(one: str, other: str) -> int:
        return (int(one, 16) ^ int(other, 16)).bit_count()

    own = drawn(5, 160, 240)
    copy = Image.open(io.BytesIO(encoded(own.resize((93, 140)), "JPEG", quality=60))).convert("RGB")
    hashes = [difference_hash(np.asarray(drawn(seed, 160, 240))) for seed in range(5, 25)]
    assert bits(hashes[0], difference_hash(np.asarray(copy))) <= 4
    assert min(bits(hashes[0], other) for other in hashes[1:]) > 4
