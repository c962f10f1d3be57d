"""What a tokenizer promises, and how it is found by name."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import numpy.typing as npt

from segue.errors import ConfigurationError
from segue.tokenizers.settings import TokenizerSettings

GROUP = "segue.tokenizers"
BUILT_IN = {
    "balanced_residual_kmeans": "segue.tokenizers.balanced_residual_kmeans:BalancedResidualKMeans",
    "product_quantization": "segue.tokenizers.product_quantization:ProductQuantization",
    "residual_kmeans": "segue.tokenizers.residual_kmeans:ResidualKMeans",
    "rqvae": "segue.tokenizers.rqvae:RqVae",
}

Codes = npt.NDArray[np.int64]


class Tokenizer(Protocol):
    """A frozen quantizer: from fused vectors to all codes but the last. The last level is the item map's.

    N items, d dimensions, P = L - 1 quantized levels. A *prefix* is the P codes of an item.
    """

    name: ClassVar[str]

    @property
    def used_sizes(self) -> tuple[int, ...]:
        """Codes in use on each quantized level [P], at most the declared sizes (fewer where there were few
        items)."""
        ...

    @classmethod
    def fit(cls, vectors: npt.NDArray[np.float32], settings: TokenizerSettings) -> Self:
        """Deterministic for equal ``vectors`` [N, d] and settings."""
        ...

    def encode(self, vectors: npt.NDArray[np.float32]) -> Codes:
        """Prefixes [N, P]."""
        ...

    def reconstruct(self, prefixes: Codes) -> npt.NDArray[np.float64]:
        """The vectors [N, d] that prefixes [N, P] stand for."""
        ...

    def nearest_prefixes(self, vector: npt.NDArray[np.float32], width: int, most: int | None = None) -> Codes:
        """Candidate prefixes [C, P] of one vector [d], nearest first in the space that the tokenizer quantizes (the
        vectors' own, but for ``rqvae``), ties by smaller codes.

        ``width`` bounds the search on each level but the last; one at least as large as the number of partial
        prefixes gives all prefixes. ``most`` bounds how many are given back: the first ones.
        """
        ...

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Everything fitted, by name, to be stored and hashed."""
        ...

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], level_sizes: tuple[int, ...]) -> Self:
        """The inverse of :meth:`arrays`. Raises KeyError naming the array that is missing."""
        ...


def load_tokenizer(name: str) -> type[Tokenizer]:
    """The tokenizer class called ``name``: built in, or an entry point of the group ``segue.tokenizers``.

    Raises ConfigurationError naming those that exist.
    """
    found = {point.name: point.value for point in entry_points(group=GROUP)} | BUILT_IN
    if name not in found:
        raise ConfigurationError(
            f"tokenizer.name: there is no tokenizer {name!r}; there are: {', '.join(sorted(found))}"
        )
    module, _, attribute = found[name].partition(":")
    loaded: type[Tokenizer] = getattr(import_module(module), attribute)
    return loaded
