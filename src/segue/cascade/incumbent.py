"""An incumbent's folder: made, refitted with the chosen settings, or kept with fresh counts.

incumbent.json                          settings, trials, epochs, incumbent_id
sasrec/  two_tower/                     weights, configuration, and the ids of the items they were trained on
two_tower/content/                      content vectors of today's items
item_knn/  popularity/                  counted on today's events
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segue.artifacts import read_json, write_json
from segue.canonical import sha256_of, sha256_of_file
from segue.cascade.alignment import ITEM_IDS
from segue.cascade.cascade import CONFIG
from segue.cascade.item_knn import ItemKnn
from segue.cascade.popularity import Popularity
from segue.cascade.sasrec import CONFIG as MODEL_CONFIG
from segue.cascade.sasrec import WEIGHTS, Sasrec, save_sasrec
from segue.cascade.scorers import CONTENT
from segue.cascade.settings import CascadeSettings
from segue.cascade.study import Trained, train_sasrec, train_two_tower, tune_sasrec
from segue.cascade.two_tower import TwoTower, save_two_tower
from segue.cascade.validation import Vocabulary
from segue.data.sequences import Sequences
from segue.errors import ArtifactError, DataError
from segue.items import Items, ItemVectors

Progress = Callable[[str], None]
Measured = Callable[[str, Mapping[str, float]], None]  # a model's name, and how fast it was trained

_NEURAL = ("sasrec", "two_tower")


def item_content(parts: Sequence[ItemVectors], items: Items) -> ItemVectors:
    """What is known of the items beside their events: the parts' vectors, each of unit length, side by side.

    Raises ArtifactError where a part is not aligned with ``items``.
    """
    for part in parts:
        if part.item_ids != items.ids:
            raise ArtifactError(
                f"item vectors of {len(part.item_ids)} items do not fit the table of {len(items)} items: "
                "run the embedding steps again"
            )
    blocks = [
        np.where(part.present[:, None], part.vectors, 0.0)
        / np.maximum(np.linalg.norm(part.vectors, axis=1, keepdims=True), 1e-12)
        for part in parts
    ]
    present = np.any([part.present for part in parts], axis=0)
    return ItemVectors(np.concatenate(blocks, axis=1).astype(np.float32), present, items.ids)


def fit_incumbent(
    folder: Path,
    *,
    items: Items,
    sequences: Sequences,
    content: ItemVectors,
    settings: CascadeSettings,
    progress: Progress,
    checkpoints: Path | None = None,
    measured: Measured | None = None,
) -> dict[str, Any]:
    """Fit on the training part, tune SASRec on validation, write the folder. Returns what incumbent.json
    holds; ``measured`` is told what it must not: how fast each model was trained.

    Raises DataError where no user of ``sequences`` has a validation target or two training events.
    """
    if not sequences.targets("validation"):
        raise DataError("no regular user has a validation event: the incumbent cannot be tuned on this split")
    _check_trainable(sequences.training_part())
    two_tower = train_two_tower(
        sequences,
        content.vectors,
        settings.two_tower,
        validate=True,
        threads=settings.threads,
        progress=lambda text: progress(f"two-tower: {text}"),
        checkpoints=None if checkpoints is None else checkpoints / "two_tower",
    )
    sasrec, trials = tune_sasrec(
        sequences,
        len(items),
        settings.sasrec,
        threads=settings.threads,
        progress=progress,
        checkpoints=None if checkpoints is None else checkpoints / "sasrec",
    )
    if measured is not None:
        measured("two_tower", two_tower.throughput)
        measured("sasrec", sasrec.throughput)
    _write_neural(folder, items, sasrec, two_tower)
    _write_counted(folder, items, sequences.training_part(), content, settings)
    return _write_config(
        folder,
        settings.model_copy(update={"sasrec": sasrec.model.settings}),
        {
            "trained_on": "training part",
            "epochs": {"sasrec": sasrec.epochs, "two_tower": two_tower.epochs},
            "validation_ndcg_at_10": {"sasrec": sasrec.value, "two_tower": two_tower.value},
            "validation_users": len(sequences.targets("validation")),
            "trials": trials,
        },
    )


def refit_incumbent(
    folder: Path,
    *,
    chosen: Path,
    items: Items,
    sequences: Sequences,
    content: ItemVectors,
    settings: CascadeSettings,
    progress: Progress,
    checkpoints: Path | None = None,
    measured: Measured | None = None,
) -> dict[str, Any]:
    """The incumbent in ``chosen`` again, with its settings and epochs, on all events of ``sequences``.

    ``settings`` decide what the study did not: recall, counts, ranking. Returns what incumbent.json holds.
    """
    _check_trainable(sequences)
    config = read_incumbent(chosen)
    former = CascadeSettings.stored(config["settings"])
    settings = _with_neural(settings, former)
    epochs: Mapping[str, int] = config["epochs"]
    two_tower = train_two_tower(
        sequences,
        content.vectors,
        settings.two_tower.model_copy(update={"epochs": epochs["two_tower"]}),
        validate=False,
        threads=settings.threads,
        progress=lambda text: progress(f"two-tower: {text}"),
        checkpoints=None if checkpoints is None else checkpoints / "two_tower",
    )
    sasrec = train_sasrec(
        sequences,
        len(items),
        settings.sasrec.model_copy(update={"epochs": epochs["sasrec"]}),
        validate=False,
        threads=settings.threads,
        progress=lambda text: progress(f"SASRec: {text}"),
        checkpoints=None if checkpoints is None else checkpoints / "sasrec",
    )
    if measured is not None:
        measured("two_tower", two_tower.throughput)
        measured("sasrec", sasrec.throughput)
    _write_neural(folder, items, sasrec, two_tower)
    _write_counted(folder, items, sequences, content, settings)
    return _write_config(folder, settings, {"trained_on": "all events", "epochs": dict(epochs)})


def refresh_incumbent(
    folder: Path,
    *,
    kept: Path,
    items: Items,
    sequences: Sequences,
    content: ItemVectors,
    settings: CascadeSettings,
) -> dict[str, Any]:
    """The kept incumbent over today's items: its weights byte for byte, popularity and item-to-item
    counted anew.

    ``sequences``: the events to count. The incumbent_id is that of ``kept`` as long as ``settings``
    (recall, counts, ranking) are. Returns what incumbent.json holds.
    """
    config = read_incumbent(kept)
    former = CascadeSettings.stored(config["settings"])
    settings = _with_neural(settings, former)
    for name in _NEURAL:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for file in (WEIGHTS, MODEL_CONFIG, ITEM_IDS):
            shutil.copyfile(kept / name / file, folder / name / file)
    _write_counted(folder, items, sequences, content, settings)
    derived = ("settings", "incumbent_id")
    return _write_config(
        folder, settings, {name: value for name, value in config.items() if name not in derived}
    )


def _with_neural(settings: CascadeSettings, former: CascadeSettings) -> CascadeSettings:
    """``settings``, with the models that ``former`` describes; how training runs is still theirs to say."""
    chosen = {}
    for name in _NEURAL:
        own = getattr(settings, name)
        how = {key: getattr(own, key) for key in own.operational}
        chosen[name] = getattr(former, name).model_copy(update=how)
    return settings.model_copy(update=chosen)


def read_incumbent(folder: Path) -> dict[str, Any]:
    """What incumbent.json holds. Raises ArtifactError where it is missing or no object."""
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict):
        raise ArtifactError(f"{folder / CONFIG} holds no object: run the step incumbent again")
    return config


def _check_trainable(sequences: Sequences) -> None:
    if not (np.diff(sequences.offsets) >= 2).any():
        raise DataError("no regular user has two events to train on: the incumbent needs sequences")


def _write_neural(folder: Path, items: Items, sasrec: Trained[Sasrec], two_tower: Trained[TwoTower]) -> None:
    save_sasrec(sasrec.model, _ids(items, sasrec.vocabulary), folder / "sasrec")
    save_two_tower(two_tower.model, _ids(items, two_tower.vocabulary), folder / "two_tower")


def _write_counted(
    folder: Path, items: Items, sequences: Sequences, content: ItemVectors, settings: CascadeSettings
) -> None:
    (folder / "two_tower" / CONTENT).mkdir(parents=True, exist_ok=True)
    content.save(folder / "two_tower" / CONTENT)
    Popularity.fit(sequences, items.ids, half_life_days=settings.popularity_half_life_days).save(
        folder / "popularity"
    )
    ItemKnn.fit(
        sequences,
        items.ids,
        neighbours=settings.item_knn_neighbours,
        shrinkage=settings.item_knn_shrinkage,
        half_life=settings.item_knn_half_life,
    ).save(folder / "item_knn")


def _write_config(folder: Path, settings: CascadeSettings, facts: Mapping[str, Any]) -> dict[str, Any]:
    recorded = settings.described()
    config = {**facts, "settings": recorded, "incumbent_id": _incumbent_id(folder, recorded)}
    write_json(folder / CONFIG, config)
    return config


def _incumbent_id(folder: Path, settings: Mapping[str, Any]) -> str:
    """Of the weights, the items that they are about, and the settings: not of what was counted."""
    files = {
        f"{name}/{file}": sha256_of_file(folder / name / file)
        for name in _NEURAL
        for file in (WEIGHTS, MODEL_CONFIG, ITEM_IDS)
    }
    return sha256_of({"settings": settings, "files": files})


def _ids(items: Items, vocabulary: Vocabulary) -> list[str]:
    return [items.ids[index] for index in vocabulary.items]
