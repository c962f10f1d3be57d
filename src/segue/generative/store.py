"""A trained model on disk: ``model.safetensors``, ``config.json`` and ``fusion.json``. Nothing that can run
code."""

from __future__ import annotations

import os
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from segue.artifacts import read_json, write_json
from segue.data.context import Vocabulary
from segue.errors import ArtifactError, BindingError
from segue.generative.registry import model_factory
from segue.generative.settings import GenerativeSettings
from segue.protocols import BoundItems, ReadsContext, TrainableRecommender
from segue.training.device import check_device

Folder = str | os.PathLike[str]

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
FUSION = "fusion.json"


def new_model(
    settings: GenerativeSettings, items: BoundItems, vocabulary: Vocabulary | None = None
) -> TrainableRecommender:
    """An untrained model on ``settings.device``, bound to ``items``; its weights depend on ``settings`` and the
    shapes alone. A model that reads no context leaves the ``vocabulary`` of declared features alone.

    Raises ConfigurationError where this machine has no such device."""
    import torch

    check_device(settings.device, "generative.device")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = model_factory(settings.model)(
            settings,
            codebook_id=items.codebook_id,
            level_sizes=items.level_sizes,
            content_dimensions=items.vectors.shape[1],
        )
    if vocabulary is not None and isinstance(model, ReadsContext):
        model.declare_context(vocabulary)
    model.to(settings.device)
    model.bind(items)
    return model


def save_model(
    folder: Path, model: TrainableRecommender, settings: GenerativeSettings, dense_weight: float
) -> None:
    """Write the three files, and ``context.json`` of a model that reads context features. Equal models give equal bytes."""
    save_weights(folder, model)
    write_json(
        folder / CONFIG,
        {
            "model": settings.model,
            "settings": settings.model_dump(mode="json"),
            "codebook_id": model.codebook_id,
            "level_sizes": list(model.level_sizes),
            "content_dimensions": model.content_dimensions,
        },
    )
    write_json(folder / FUSION, {"dense_weight": dense_weight})
    if isinstance(model, ReadsContext) and model.vocabulary is not None:
        model.vocabulary.save(folder)


def save_weights(folder: Path, model: TrainableRecommender) -> None:
    save_file(
        {name: value.cpu().contiguous() for name, value in model.state_dict().items()}, folder / WEIGHTS
    )


def load_weights(folder: Path, model: TrainableRecommender) -> None:
    """Into ``model``, left in eval mode. Raises ArtifactError where the file is missing or damaged, and where it holds
    other weights than the model has, as one that an earlier version wrote does."""
    file = folder / WEIGHTS
    try:
        found = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"{file} does not hold the model's weights ({error})") from error
    try:
        model.load_state_dict(found)
    except RuntimeError as error:
        wanted = set(model.state_dict())
        lacking, unknown = sorted(wanted - set(found)), sorted(set(found) - wanted)
        what = "; ".join(
            f"{verb} {names[0]}" + (f" and {len(names) - 1} more" if names[1:] else "")
            for verb, names in (("it lacks", lacking), ("nobody knows", unknown))
            if names
        )
        raise ArtifactError(
            f"{file} does not hold the weights of this version's {type(model).__name__} "
            f"({what or ' '.join(str(error).split())}): train the model again (where it is kept: `segue keep --nothing`), "
            "or serve it with the version that wrote it"
        ) from error
    model.eval()


def load_settings(folder: Folder) -> GenerativeSettings:
    """The settings of the model in ``folder``. Raises ArtifactError where they are missing or wrong."""
    return _read_config(Path(folder))[0]


def load_model(folder: Folder, items: BoundItems) -> TrainableRecommender:
    """The model in ``folder``, bound to ``items`` and ready to serve.

    Raises ArtifactError where a file is missing or does not fit, BindingError for items of another codebook.
    """
    folder = Path(folder)
    settings, codebook_id, level_sizes, content_dimensions = _read_config(folder)
    model = model_factory(settings.model)(
        settings, codebook_id=codebook_id, level_sizes=level_sizes, content_dimensions=content_dimensions
    )
    vocabulary = Vocabulary.load(folder)
    if vocabulary is not None:
        if not isinstance(model, ReadsContext):
            raise ArtifactError(
                f"{folder} was trained with context features, and {type(model).__name__} of this version reads none: "
                "train the model again, or serve it with the version that wrote it"
            )
        model.declare_context(vocabulary)
    load_weights(folder, model)
    try:
        model.bind(items)
    except BindingError as error:
        raise BindingError(f"{folder}: {error}") from error
    return model


def _read_config(folder: Path) -> tuple[GenerativeSettings, str, tuple[int, ...], int]:
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict):
        raise ArtifactError(f"{folder / CONFIG} describes no model: run the step again")
    try:
        settings = GenerativeSettings.stored(config["settings"])
        sizes = tuple(int(size) for size in config["level_sizes"])
        return settings, str(config["codebook_id"]), sizes, int(config["content_dimensions"])
    except (KeyError, TypeError, ValueError) as error:  # pydantic's ValidationError is a ValueError
        raise ArtifactError(f"{folder / CONFIG} describes no model ({error}): run the step again") from error


def load_fusion(folder: Folder) -> float:
    """The weight of the dense score in the fused one. Raises ArtifactError where it is missing."""
    value = read_json(Path(folder) / FUSION)
    if not isinstance(value, dict) or not isinstance(value.get("dense_weight"), float | int):
        raise ArtifactError(f"{Path(folder) / FUSION} holds no dense_weight: run the step again")
    return float(value["dense_weight"])
