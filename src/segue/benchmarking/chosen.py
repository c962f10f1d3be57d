"""Settings of the contenders that were tuned elsewhere, as a YAML file.

    tokenizer: {level_sizes: [256, 128, 128]}     # of everybody who reads content
    models:
      sasrec: {dropout: 0.5}
      house: {dimensions: 128, tokenizer: {seed: 3}}

A model begins with the dataset's parameters (``params.yaml``, its profile) and takes from the file what stands there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from segue.benchmarking.contender import Contender
from segue.benchmarking.contenders import CONTENDERS
from segue.benchmarking.world import World
from segue.errors import ConfigurationError
from segue.settings import Settings
from segue.steps.registry import EMBEDDINGS
from segue.tokenizers.embeddings import check_modalities
from segue.tokenizers.settings import TokenizerSettings
from segue.yaml_files import read_yaml

Chosen = TypeVar("Chosen", bound=Settings)

_SECTIONS = ("tokenizer", "models")


@dataclass(frozen=True)
class ChosenSettings:
    """What a file says; ``origin`` is its name, for messages. Without a file nothing is said."""

    origin: str = "the dataset's parameters"
    tokenizer: Mapping[str, Any] = field(default_factory=dict)
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def settings(self, contender: Contender, world: World, epochs: int | None) -> Settings:
        """What ``contender`` begins with; ``epochs`` caps its training, where it is trained (None: its own cap).

        Raises ConfigurationError naming the file, the model and the key.
        """
        said = {
            key: value for key, value in self.models.get(contender.name, {}).items() if key != "tokenizer"
        }
        if epochs is not None and "epochs" in contender.settings.model_fields:
            said["epochs"] = epochs
        base = contender.defaults(world).model_dump()
        return _merged(contender.settings, base, said, f"{self.origin}: models.{contender.name}")

    def tokenizer_of(self, name: str, world: World) -> TokenizerSettings:
        """The codebook's settings for the contender ``name``. Raises ConfigurationError likewise."""
        said = {**self.tokenizer, **self.models.get(name, {}).get("tokenizer", {})}
        base = world.params.tokenizer.model_dump()
        where = f"{self.origin}: tokenizer of {name}"
        merged = _merged(TokenizerSettings, base, said, where)
        check_modalities(merged.modality_weights, EMBEDDINGS, where=where)
        return merged


def read_settings(path: Path) -> ChosenSettings:
    """Raises ConfigurationError where the file is missing, or no mapping of the known sections and models."""
    found = read_yaml(path)
    if not isinstance(found, dict):
        raise ConfigurationError(f"{path} must be a mapping with the keys {', '.join(_SECTIONS)}")
    _refuse(path, "", found, _SECTIONS)
    tokenizer, models = found.get("tokenizer") or {}, found.get("models") or {}
    for name, value in (("tokenizer", tokenizer), ("models", models)):
        if not isinstance(value, dict):
            raise ConfigurationError(f"{path}: {name} must be a mapping")
    _refuse(path, "models.", models, tuple(CONTENDERS))
    for name, value in models.items():
        if not isinstance(value, dict):
            raise ConfigurationError(f"{path}: models.{name} must be a mapping of settings")
        _refuse(path, f"models.{name}.", value, (*CONTENDERS[name].settings.model_fields, "tokenizer"))
        if isinstance(of_tokenizer := value.get("tokenizer"), dict):
            _refuse(path, f"models.{name}.tokenizer.", of_tokenizer, tuple(TokenizerSettings.model_fields))
    return ChosenSettings(path.name, tokenizer, models)


def _refuse(path: Path, inside: str, found: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in found:
        if key not in known:
            raise ConfigurationError(f"{path}: there is no {inside}{key}; known: {', '.join(known)}")


def _merged(model: type[Chosen], base: Mapping[str, Any], said: Mapping[str, Any], where: str) -> Chosen:
    values = dict(base)
    for key, value in said.items():
        if key not in model.model_fields:
            raise ConfigurationError(
                f"{where} has no setting {key!r}; settings: {', '.join(model.model_fields)}"
            )
        inner = values[key]
        values[key] = {**inner, **value} if isinstance(inner, dict) and isinstance(value, dict) else value
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(f"{where}.{place}: {first['msg']}") from error
