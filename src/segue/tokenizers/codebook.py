"""The codebook: the frozen fusion and quantizers that turn item vectors into codes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from segue.artifacts import read_json, write_json
from segue.canonical import sha256_of
from segue.errors import ArtifactError, BindingError
from segue.items import ItemVectors
from segue.tokenizers.alignment import Alignment, Pairs
from segue.tokenizers.fusion import Bools, Fusion
from segue.tokenizers.parallel import one_thread
from segue.tokenizers.registry import Codes, Tokenizer, load_tokenizer
from segue.tokenizers.settings import TokenizerSettings

TENSORS = "codebook.safetensors"
DESCRIPTION = "codebook.json"


class EncoderIdentity(BaseModel):
    """Which encoder made a modality's vectors."""

    model_config = ConfigDict(frozen=True)

    name: str
    weights_sha256: str

    @classmethod
    def load(cls, folder: Path) -> EncoderIdentity:
        """From an embeddings artifact. Raises ArtifactError where ``encoder.json`` is missing or lacks a
        field."""
        try:
            return cls.model_validate(read_json(folder / "encoder.json"))
        except ValidationError as error:
            raise ArtifactError(
                f"{folder / 'encoder.json'} is damaged ({error}): run the encoder again"
            ) from error


@dataclass(frozen=True)
class Codebook:
    """Frozen for good: a change of anything in it is another codebook, with another id."""

    fusion: Fusion | Alignment
    tokenizer: Tokenizer
    level_sizes: tuple[int, ...]  # [L], the last one disambiguates
    encoders: dict[str, EncoderIdentity]  # by modality
    prefix_capacity: int | None = (
        None  # items that may share a prefix; None: as many as the last level has codes
    )

    @classmethod
    def fit(
        cls,
        modalities: Mapping[str, ItemVectors],
        encoders: Mapping[str, EncoderIdentity],
        settings: TokenizerSettings,
        pairs: Pairs | None = None,
    ) -> Codebook:
        """Fit on the items given; ``pairs`` [P, 2] are rows of items consumed together, for the contrastive
        fusion. Deterministic. Raises DataError as :meth:`Fusion.fit` and the tokenizer do."""
        tokenizer = load_tokenizer(settings.name)
        with one_thread():
            fusion = _fit_fusion(modalities, settings, pairs)
            vectors, _ = fusion.fuse(modalities)
            fitted = tokenizer.fit(vectors, settings)
        return cls(
            fusion=fusion,
            tokenizer=fitted,
            level_sizes=settings.level_sizes,
            encoders={name: encoders[name] for name in fusion.modalities},
            prefix_capacity=settings.prefix_capacity,
        )

    @property
    def dimensions(self) -> int:
        """Of the fused vectors."""
        return self.fusion.dimensions

    @property
    def room_per_prefix(self) -> int:
        """How many items may share a prefix."""
        return self.level_sizes[-1] if self.prefix_capacity is None else self.prefix_capacity

    @property
    def capacity(self) -> int:
        """How many items can have an ID at all: prefixes in use times the items that may share one."""
        return math.prod((*self.tokenizer.used_sizes, self.room_per_prefix))

    @cached_property
    def codebook_id(self) -> str:
        """Hash of the quantizers, the fusion, the encoders' names and weights, and the level sizes."""
        tensors = {
            name: [
                str(array.dtype),
                list(array.shape),
                hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest(),
            ]
            for name, array in self._arrays().items()
        }
        return sha256_of({"tensors": tensors, **self._description()})

    def require_encoders(self, encoders: Mapping[str, EncoderIdentity]) -> None:
        """Raises BindingError where vectors come from other encoders than those that the codebook was made
        with."""
        for modality, expected in self.encoders.items():
            found = encoders.get(modality)
            if found is None or (found.name, found.weights_sha256) != (
                expected.name,
                expected.weights_sha256,
            ):
                raise BindingError(
                    f"the {modality} vectors come from {_named(found)}, the codebook "
                    f"{self.codebook_id[:12]} was made with {_named(expected)}: keep {modality}_embeddings "
                    "together with the codebook, or make a new codebook (`segue keep --nothing`)"
                )

    def fuse(self, modalities: Mapping[str, ItemVectors]) -> tuple[npt.NDArray[np.float32], Bools]:
        """Fused vectors [N, d] and which items have a modality of their own [N]; see :meth:`Fusion.fuse`."""
        with one_thread():
            return self.fusion.fuse(modalities)

    def encode(self, vectors: npt.NDArray[np.float32]) -> Codes:
        """Prefixes [N, L - 1] of fused vectors [N, d]."""
        with one_thread():
            return self.tokenizer.encode(vectors)

    def reconstruct(self, codes: Codes) -> npt.NDArray[np.float64]:
        """Fused vectors [N, d] that codes stand for: prefixes [N, L - 1], or whole IDs [N, L] (their last
        code is ignored)."""
        return self.tokenizer.reconstruct(codes[:, : len(self.level_sizes) - 1])

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {name: np.ascontiguousarray(array) for name, array in self._arrays().items()}, folder / TENSORS
        )
        write_json(folder / DESCRIPTION, {"codebook_id": self.codebook_id, **self._description()})

    @classmethod
    def load(cls, folder: Path) -> Codebook:
        """Raises ArtifactError where a file is missing, damaged, or not the one that the id was made of."""
        description = read_json(folder / DESCRIPTION)
        if not isinstance(description, dict):
            raise ArtifactError(f"{folder / DESCRIPTION} is damaged (no object): restore the codebook")
        try:
            arrays = load_file(folder / TENSORS)
        except (OSError, SafetensorError) as error:
            raise ArtifactError(
                f"{folder / TENSORS} is missing or damaged ({error}): restore the codebook"
            ) from error
        try:
            level_sizes = tuple(int(size) for size in description["level_sizes"])
            loaded = cls(
                fusion=_FUSIONS[description.get("fusion", Fusion.name)].from_arrays(
                    arrays, description["modalities"]
                ),
                tokenizer=load_tokenizer(description["tokenizer"]).from_arrays(arrays, level_sizes),
                level_sizes=level_sizes,
                encoders={
                    name: EncoderIdentity.model_validate(value)
                    for name, value in description["encoders"].items()
                },
                prefix_capacity=description.get("prefix_capacity"),
            )
            stated = description["codebook_id"]
            actual = loaded.codebook_id
        except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
            raise ArtifactError(
                f"{folder / DESCRIPTION} is damaged ({error!r}): restore the codebook"
            ) from error
        if actual != stated:
            raise ArtifactError(
                f"{folder} was changed after it was made: it says codebook {str(stated)[:12]}, its "
                f"content is {actual[:12]}; restore the codebook"
            )
        return loaded

    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {**self.fusion.arrays(), **self.tokenizer.arrays()}

    def _description(self) -> dict[str, Any]:
        return {
            # The first fusion has no name in the description, or every older codebook would get another id.
            **({} if self.fusion.name == Fusion.name else {"fusion": self.fusion.name}),
            "tokenizer": self.tokenizer.name,
            "level_sizes": list(self.level_sizes),
            "used_sizes": list(self.tokenizer.used_sizes),
            "dimensions": self.dimensions,
            "modalities": list(self.fusion.modalities),
            "encoders": {name: encoder.model_dump() for name, encoder in sorted(self.encoders.items())},
            **({} if self.prefix_capacity is None else {"prefix_capacity": self.prefix_capacity}),
        }


_FUSIONS: dict[str, type[Fusion] | type[Alignment]] = {Fusion.name: Fusion, Alignment.name: Alignment}


def _fit_fusion(
    modalities: Mapping[str, ItemVectors], settings: TokenizerSettings, pairs: Pairs | None
) -> Fusion | Alignment:
    if settings.fusion == Fusion.name:
        return Fusion.fit(modalities, settings.modality_weights, settings.dimensions)
    return Alignment.fit(
        modalities,
        settings.modality_weights,
        settings.dimensions,
        pairs=np.zeros((0, 2), dtype=np.int64) if pairs is None else pairs,
        settings=settings.alignment,
        seed=settings.seed,
    )


def _named(encoder: EncoderIdentity | None) -> str:
    return "no encoder" if encoder is None else f"{encoder.name} ({encoder.weights_sha256[:12]})"
