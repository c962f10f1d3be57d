"""Small pictures of items as data URLs, so that a page needs no other file."""

from __future__ import annotations

import base64
import io
import warnings
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from segue.data.images import image_folder
from segue.data.settings import DataSettings
from segue.errors import DataError
from segue.workspace import Workspace

SIDE = 92  # pixels of the longer side
FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
MOST_PIXELS = 50_000_000  # a larger picture is left out: decoding it costs more than a thumbnail is worth


def picture_folder(settings: DataSettings, workspace: Workspace) -> Path | None:
    """What relative picture paths count from; None where it does not exist."""
    try:
        folder = image_folder(settings, workspace)
    except DataError:
        return None
    return folder if folder.is_dir() else None


@dataclass
class Thumbnails:
    """At most ``left`` pictures; what is no picture, or not there, is None and costs nothing of that."""

    folder: Path | None
    left: int
    _made: dict[str, str | None] = field(default_factory=dict)

    def of(self, image: str | None) -> str | None:
        """A JPEG as a data URL, or None. ``image`` is a path as the catalogue names it."""
        if not image or self.left <= 0 or (path := self._resolve(image)) is None:
            return None
        if image not in self._made:
            self._made[image] = thumbnail(path)
        if self._made[image] is not None:
            self.left -= 1
        return self._made[image]

    def _resolve(self, image: str) -> Path | None:
        if "://" in image or ".." in PurePosixPath(image).parts:
            return None  # a page shows local files of the catalogue's folder, and nothing that a path leads out to
        if self.folder is None and not Path(image).is_absolute():
            return None
        path = (self.folder or Path()) / image
        return path if path.is_file() else None


def thumbnail(path: Path) -> str | None:
    """The picture, at most :data:`SIDE` pixels wide and high, as a data URL; None where it cannot be read."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as picture:
                if picture.width * picture.height > MOST_PIXELS:
                    return None
                picture.draft("RGB", (2 * SIDE, 2 * SIDE))
                small = picture.convert("RGB")
                small.thumbnail((SIDE, SIDE))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return None
    written = io.BytesIO()
    small.save(written, "JPEG", quality=72)
    return "data:image/jpeg;base64," + base64.b64encode(written.getvalue()).decode("ascii")
