"""Pictures to vectors: ``python -m benchmarks.images``.

EfficientNet-Lite0 from JPEG files of 160 × 240 pixels to unit vectors, decoding included: the exported model on ONNX
Runtime as the graph runs it, against the same network in eager PyTorch with the same batches. Every engine's vectors
are checked against each other.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks import harness
from segue.encoders import image
from segue.encoders.onnx_image import OnnxImageEncoder
from segue.encoders.pictures import load_rgb, resized
from segue.encoders.protocol import Vectors
from segue.encoders.settings import EncoderSettings
from segue.encoders.text import unit

COLUMNS = ("engine", "threads", "pictures per second", "slowest", "fastest")
TOLERANCE = 5e-5  # of a unit vector's entries


@dataclass(frozen=True, slots=True)
class Size:
    pictures: int
    repeats: int
    batch: int = 8


def measure(size: Size) -> list[dict[str, Any]]:
    """One row an engine and number of threads."""
    with tempfile.TemporaryDirectory() as folder:
        paths = pictures(Path(folder), size.pictures)
        model = image.exported(Path(folder), size.batch)
        network = image.features(image.weights_file())
        contenders: dict[str, Callable[[], Vectors]] = {}
        for threads in (1, 2):
            settings = EncoderSettings(image_batch_size=size.batch, image_threads=threads)
            encoder = OnnxImageEncoder(
                model, name=image.NAME, weights=None, expects=image.EXPECTS, settings=settings
            )
            contenders[f"ONNX Runtime {threads}"] = partial(encoder.encode, paths)
            contenders[f"eager PyTorch {threads}"] = partial(eager, network, paths, size.batch, threads)
        expected = contenders["ONNX Runtime 1"]()
        for name, function in contenders.items():
            difference = float(np.abs(function() - expected).max())
            if difference > TOLERANCE:
                raise RuntimeError(f"{name} differs from ONNX Runtime by {difference}")
        seconds = harness.median_seconds(contenders, size.repeats)
    return [
        {
            "engine": name.rpartition(" ")[0],
            "threads": int(name.rpartition(" ")[2]),
            "pictures per second": size.pictures / found["median"],
            "slowest": size.pictures / found["high"],
            "fastest": size.pictures / found["low"],
        }
        for name, found in seconds.items()
    ]


def pictures(folder: Path, count: int) -> list[Path]:
    """Noise smoothed to the detail of a poster, as JPEG."""
    random = np.random.default_rng(0)
    paths = []
    for number in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (30, 20, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        coarse.resize((160, 240), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
        paths.append(folder / f"{number}.jpg")
        paths[-1].write_bytes(buffer.getvalue())
    return paths


def eager(network: torch.nn.Module, paths: Sequence[Path], batch: int, threads: int) -> Vectors:
    """The same vectors by PyTorch, without any export."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    rows = []
    try:
        for start in range(0, len(paths), batch):
            pixels = np.stack([resized(load_rgb(path, 10**6), 224) for path in paths[start : start + batch]])
            values = torch.from_numpy((pixels.astype(np.float32) - 127) / 128).permute(0, 3, 1, 2)
            with torch.inference_mode():
                rows.append(network(values.contiguous()).numpy())
    finally:
        torch.set_num_threads(before)
    return unit(np.concatenate(rows))


def notes(size: Size) -> list[str]:
    return [
        f"Median, slowest and fastest of {size.repeats} repeats, interleaved, after a warm-up; {size.pictures} pictures in "
        f"batches of {size.batch}, fp32, on the CPU.",
        "ONNX Runtime's threads are forward passes side by side, each on one thread, so that no vector depends on "
        "their number; PyTorch's are within an operator.",
        f"The machine's load average at the end was {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores: where that is "
        "more than the threads measured, other work took its share, and two threads show less than they could.",
    ]


def main() -> None:
    assert __doc__ is not None
    harness.main(
        "images",
        __doc__,
        COLUMNS,
        measure,
        notes,
        size=Size(pictures=48, repeats=3),
        quick=Size(pictures=8, repeats=1),
    )


if __name__ == "__main__":
    main()
