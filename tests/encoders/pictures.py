"""Picture files for the tests: drawn here, from a seed."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from segue.encoders.protocol import Progress, Vectors
from segue.encoders.text import unit


def drawn(seed: int, width: int = 40, height: int = 60) -> Image.Image:
    """A few coloured rectangles on a slope of grey: no two seeds look alike."""
    random = np.random.default_rng(seed)
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels += np.linspace(20, 200, width, dtype=np.uint8)[None, :, None]
    for _ in range(6):
        top, left = random.integers(0, height - 8), random.integers(0, width - 8)
        tall, wide = random.integers(6, height // 2), random.integers(6, width // 2)
        pixels[top : top + tall, left : left + wide] = random.integers(0, 255, 3)
    return Image.fromarray(pixels)


def encoded(image: Image.Image, format_: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def put(path: Path, content: bytes | Image.Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else encoded(content))
    return path


class Miniature:
    """An image encoder that needs no weights: the picture at 4 × 4 pixels. It remembers what it was asked."""

    name = "miniature"
    weights_sha256 = "0" * 64
    dimensions = 48

    def __init__(self, fails_after: int | None = None) -> None:
        self.asked: list[str] = []
        self.fails_after = fails_after

    def encode(self, images: Sequence[Path], progress: Progress | None = None) -> Vectors:
        rows = []
        for number, path in enumerate(images, 1):
            if self.fails_after is not None and len(self.asked) >= self.fails_after:
                raise KeyboardInterrupt
            self.asked.append(path.name)
            with Image.open(path) as image:
                small = image.convert("RGB").resize((4, 4), Image.Resampling.BOX)
            rows.append(np.asarray(small, dtype=np.float32).ravel() - 100)
            if progress is not None:
                progress(number, len(images))
        return unit(np.stack(rows).astype(np.float32))
