"""From the bytes of a picture file to RGB pixels, or to the reason why it is of no use.

Everything that a file can be wrong in is found here, once, so that an encoder sees only sound pictures.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from segue.encoders.settings import EncoderSettings
from segue.errors import DataError

Pixels = npt.NDArray[np.uint8]

# Pillow reads more; EPS would start Ghostscript, and a catalogue's file must not start anything.
FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
_HASH_SIDE: Final = 8
_WHITE: Final = (255, 255, 255, 255)


class Unusable(StrEnum):
    """Why a picture file is treated as if it were not there."""

    EMPTY = "empty"  # no byte in it
    NOT_AN_IMAGE = "not_an_image"  # none of FORMATS, whatever the name ends in
    BROKEN = "broken"  # begins as an image and cannot be decoded to its end
    TOO_LARGE = "too_large"
    TINY = "tiny"
    BLANK = "blank"  # one colour


class UnusableError(Exception):
    """Raised by :func:`decode`; never leaves this package."""

    def __init__(self, reason: Unusable) -> None:
        super().__init__(reason.value)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class PictureFacts:
    """What is to be said about a picture file without any model. ``dhash`` is empty for an unusable one."""

    reason: str | None
    width: int | None
    height: int | None
    format: str | None
    mode: str | None
    dhash: str  # 16 hexadecimal digits: 64 bits


def look(content: bytes, settings: EncoderSettings) -> PictureFacts:
    """The facts of a file's bytes. Never raises, whatever they are."""
    width = height = None
    format_ = mode = None
    dhash = ""
    try:
        with _opened(content) as image:
            width, height = image.size
            format_, mode = image.format, image.mode
            pixels = _rgb(image, settings.image_max_pixels)
        reason = _too_poor(pixels, settings)
        if reason is None:
            dhash = difference_hash(pixels)
    except UnusableError as error:
        reason = error.reason
    return PictureFacts(None if reason is None else reason.value, width, height, format_, mode, dhash)


def load_rgb(path: Path, max_pixels: int) -> Pixels:
    """[H, W, 3] of a sound picture file. Raises DataError naming a file that is none."""
    try:
        with _opened(path.read_bytes()) as image:
            return _rgb(image, max_pixels)
    except UnusableError as error:
        raise DataError(f"{path} is no usable image ({error.reason.value})") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def resized(pixels: Pixels, size: int) -> Pixels:
    """[size, size, 3]. The whole picture counts: it is stretched, and nothing of it is cut off."""
    image = Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.uint8)


def difference_hash(pixels: Pixels) -> str:
    """64 bits, whether each cell of a 9 × 8 grey miniature is darker than its right neighbour.

    Copies that were resized or compressed again differ in a few bits. (The "dHash" of N. Krawetz, 2013.)
    """
    small = Image.fromarray(pixels).convert("L").resize((_HASH_SIDE + 1, _HASH_SIDE), Image.Resampling.BOX)
    grey = np.asarray(small, dtype=np.int16)
    return np.packbits(grey[:, :-1] < grey[:, 1:]).tobytes().hex()


def _opened(content: bytes) -> Image.Image:
    if not content:
        raise UnusableError(Unusable.EMPTY)
    try:
        with warnings.catch_warnings():
            # Size is judged by our own limit, before anything is decoded.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise UnusableError(Unusable.NOT_AN_IMAGE) from error
    except Image.DecompressionBombError as error:
        raise UnusableError(Unusable.TOO_LARGE) from error
    except Exception as error:  # what a reader raises about a header that lies is an open list
        raise UnusableError(Unusable.BROKEN) from error


def _rgb(image: Image.Image, max_pixels: int) -> Pixels:
    """[H, W, 3]: upright as its EXIF says, on white where it is transparent, the first frame."""
    if image.width * image.height > max_pixels:
        raise UnusableError(Unusable.TOO_LARGE)
    try:
        image.load()
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I;16"):  # Pillow would clip 16 bits to white
            grey = (np.asarray(upright, dtype=np.uint16) >> 8).astype(np.uint8)
            return np.repeat(grey[:, :, None], 3, axis=2)
        if upright.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in upright.info:
            layer = upright.convert("RGBA")
            upright = Image.alpha_composite(Image.new("RGBA", layer.size, _WHITE), layer)
        return np.asarray(upright.convert("RGB"), dtype=np.uint8)
    except Exception as error:  # of damaged pixels, too
        raise UnusableError(Unusable.BROKEN) from error


def _too_poor(pixels: Pixels, settings: EncoderSettings) -> Unusable | None:
    if min(pixels.shape[:2]) < settings.image_min_side:
        return Unusable.TINY
    grey = pixels.astype(np.float32).mean(axis=2)
    return Unusable.BLANK if float(grey.std()) < settings.image_min_deviation else None
