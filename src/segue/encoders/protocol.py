"""What encoders promise: one is frozen, known by its weights, and reads one kind of content."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]  # done, all


@runtime_checkable
class TextEncoder(Protocol):
    """Texts to vectors. A text's vector must not depend on the other texts of the call, to the last bit."""

    name: str
    weights_sha256: str  # of everything that decides the vectors
    dimensions: int

    def encode(self, texts: Sequence[str], progress: Progress | None = None) -> Vectors:
        """[N, D] unit vectors of ``texts``; none of them is empty."""
        ...


@runtime_checkable
class FileEncoder(Protocol):
    """Files of one kind (pictures, sound, film) to vectors, with the same promise."""

    name: str
    weights_sha256: str
    dimensions: int

    def encode(self, files: Sequence[Path], /, progress: Progress | None = None) -> Vectors:
        """[N, D] unit vectors. Raises DataError naming the first file that is not of its kind."""
        ...


ImageEncoder = FileEncoder  # of pictures
