"""Pictures to vectors by an ONNX model on the CPU.

A vector depends on its picture alone, to the last bit: a forward pass always has the same shape (the last
picture fills it up) and runs on one thread; several passes run side by side, which changes no sum.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segue.canonical import sha256_of
from segue.encoders.pictures import load_rgb, resized
from segue.encoders.protocol import Progress, Vectors
from segue.encoders.settings import EncoderSettings, OnnxImageSettings
from segue.encoders.text import unit
from segue.errors import ConfigurationError

_PREPARATION = 1  # counts up when the way from a file to the model's input changes


class OnnxImageEncoder:
    """A :class:`segue.encoders.protocol.ImageEncoder` around an ONNX Runtime session.

    The model takes float32 pixels, [N, 3, H, W] or [N, H, W, 3], and gives one vector a picture, [N, D] (or
    [N, D, 1, 1]). Where N is fixed in the model it is the batch size.
    """

    def __init__(
        self,
        model: bytes,
        *,
        name: str,
        weights: object,
        expects: OnnxImageSettings,
        settings: EncoderSettings,
    ) -> None:
        """``weights``: what decides the vectors besides the preparation, to be hashed. Raises
        ConfigurationError for a model of another shape."""
        self.name = name
        self._expects = expects
        self._threads = settings.image_threads
        self._max_pixels = settings.image_max_pixels
        self._session = _session(model, name)
        self._input, self._channels_first, fixed = _input_of(self._session, name, expects.size)
        self._batch = fixed or settings.image_batch_size
        self._output = _output_of(self._session, name, expects.output)
        self.dimensions = int(
            self._forward([np.zeros((expects.size, expects.size, 3), dtype=np.uint8)]).shape[1]
        )
        self.weights_sha256 = sha256_of(
            {
                "weights": weights,
                "expects": expects.model_dump(mode="json"),
                "batch": self._batch,
                "preparation": _PREPARATION,
            }
        )

    @classmethod
    def from_file(cls, path: Path, settings: EncoderSettings) -> OnnxImageEncoder:
        """The model of an ``.onnx`` file, which must hold its own weights. Raises ConfigurationError."""
        try:
            model = path.read_bytes()
        except OSError as error:
            raise ConfigurationError(f"encoders.image_model: {path} cannot be read: {error}") from error
        digest = hashlib.sha256(model).hexdigest()
        return cls(model, name=path.stem, weights=digest, expects=settings.image_onnx, settings=settings)

    def encode(self, images: Sequence[Path], progress: Progress | None = None) -> Vectors:
        """[N, D] unit vectors. Raises DataError naming the first file that is no image."""
        vectors = np.zeros((len(images), self.dimensions), dtype=np.float32)
        starts = range(0, len(images), self._batch)
        batches = (images[start : start + self._batch] for start in starts)
        done = 0
        with ThreadPoolExecutor(self._threads) as pool:
            # A round at a time, so that no more pictures are in memory than are being looked at.
            for round_ in _rounds(batches, 2 * self._threads):
                for found in pool.map(self._encode_batch, round_):
                    vectors[done : done + len(found)] = found
                    done += len(found)
                    if progress is not None:
                        progress(done, len(images))
        return unit(vectors)

    def _encode_batch(self, paths: Sequence[Path]) -> Vectors:
        size = self._expects.size
        return self._forward([resized(load_rgb(path, self._max_pixels), size) for path in paths])

    def _forward(self, pictures: list[npt.NDArray[np.uint8]]) -> Vectors:
        full = [*pictures, *([pictures[-1]] * (self._batch - len(pictures)))]
        mean = np.asarray(self._expects.mean, dtype=np.float32)
        scale = np.asarray(self._expects.scale, dtype=np.float32)
        values = (np.stack(full).astype(np.float32) - mean) / scale
        if self._channels_first:
            values = np.ascontiguousarray(values.transpose(0, 3, 1, 2))
        (found,) = self._session.run([self._output], {self._input: values})
        rows = np.asarray(found, dtype=np.float32)
        if rows.shape[0] != self._batch or rows.ndim < 2 or any(size != 1 for size in rows.shape[2:]):
            raise ConfigurationError(
                f"encoders.image_model: the output {self._output!r} of {self.name} has the shape "
                f"{list(rows.shape)} for {self._batch} pictures; one vector a picture is needed: name a pooled "
                "output in encoders.image_onnx.output"
            )
        return rows.reshape(self._batch, -1)[: len(pictures)]


def _session(model: bytes, name: str) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigurationError(
            "encoders.image_model needs ONNX Runtime (`pip install onnxruntime`)"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        # From bytes: weights in a second file would not be hashed, and are refused by that.
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no base class of their own
        raise ConfigurationError(
            f"encoders.image_model: {name} is no ONNX model that can be run, with its weights inside the file: "
            f"{str(error).splitlines()[0]}"
        ) from error


def _input_of(session: Any, name: str, size: int) -> tuple[str, bool, int | None]:
    """The input's name, whether channels come first, and the batch size where it is fixed."""
    inputs = session.get_inputs()
    shape = list(inputs[0].shape) if len(inputs) == 1 else []
    if (
        len(inputs) != 1
        or inputs[0].type != "tensor(float)"
        or len(shape) != 4
        or 3 not in (shape[1], shape[3])
    ):
        raise ConfigurationError(
            f"encoders.image_model: {name} must take one float32 input [N, 3, H, W] or [N, H, W, 3]; it takes "
            + ", ".join(f"{one.name} {one.type} {one.shape}" for one in inputs)
        )
    first = shape[1] == 3
    sides = shape[2:] if first else shape[1:3]
    if any(isinstance(side, int) and side != size for side in sides):
        raise ConfigurationError(
            f"encoders.image_model: {name} takes pictures of {sides}, encoders.image_onnx.size is {size}"
        )
    return str(inputs[0].name), first, shape[0] if isinstance(shape[0], int) else None


def _output_of(session: Any, name: str, wanted: str | None) -> str:
    known = [str(one.name) for one in session.get_outputs()]
    if wanted is not None and wanted not in known:
        raise ConfigurationError(
            f"encoders.image_onnx.output: {name} has no output {wanted!r}, it has {', '.join(known)}"
        )
    return wanted or known[0]


def _rounds(batches: Iterator[Sequence[Path]], size: int) -> Iterator[list[Sequence[Path]]]:
    while round_ := list(islice(batches, size)):
        yield round_
