"""Step ``generative_model``: the model with the chosen settings, on the training part, and its fusion
weight."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from segue.artifacts import MANIFEST, read_json, write_json
from segue.data.sequences import Sequences
from segue.errors import ArtifactError
from segue.generative.settings import GenerativeSettings
from segue.generative.store import load_weights, new_model, save_model
from segue.generative.training import choose_fusion, train
from segue.protocols import BoundItems, TrainableRecommender
from segue.schema import UserGroup
from segue.steps.runner import StepContext
from segue.steps.tracking import close_run, open_run
from segue.steps.tuning import SETTINGS, trained_on
from segue.tokenizers.item_map import bound_items
from segue.training.provenance import write_trained_on

TRAINING = "training.json"


def run(context: StepContext) -> None:
    """Writes ``model.safetensors``, ``config.json``, ``fusion.json`` and ``training.json``, or hands on
    what is kept.

    Where the tuning's best trial was a full training on the same inputs, its weights are this model's:
    training again would give the same ones."""
    if (kept := context.kept("generative_model")) is not None:
        shutil.copytree(kept, context.output, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST))
        context.progress("the model is kept; nothing is trained")
        return
    regular = Sequences.load(context.inputs["sequences"] / UserGroup.REGULAR.value)
    items = bound_items(context.inputs["item_map"])
    tuning = read_json(context.inputs["tuning"] / SETTINGS)
    if not isinstance(tuning, dict):
        raise ArtifactError(
            f"{context.inputs['tuning'] / SETTINGS} holds no settings: run the step tuning again"
        )
    settings = chosen_settings(tuning, context.params.generative)
    torch.set_num_threads(settings.threads)
    model, facts = _model(context, context.inputs["tuning"], tuning, settings, regular, items)
    if not context.leads:
        return
    context.progress("choosing the fusion weight on validation")
    weight, values = choose_fusion(model, items, regular, context.params.decoding)
    save_model(context.output, model, settings, weight)
    write_trained_on(context.output, context.input_hashes["sequences"])
    write_json(
        context.output / TRAINING,
        {**facts, "validation_ndcg_at_10": {f"{dense:g}": value for dense, value in values.items()}},
    )
    context.progress(f"dense weight {weight:g}, validation NDCG@10 {values[weight]:.4f}")
    context.metrics["best_epoch"] = facts["best_epoch"]
    context.metrics["dense_weight"] = weight
    context.metrics["validation_ndcg_at_10"] = round(values[weight], 4)
    context.metrics["parameters"] = sum(parameter.numel() for parameter in model.parameters())


def chosen_settings(tuning: dict[str, Any], asked: GenerativeSettings) -> GenerativeSettings:
    """The tuned settings, with this run's length of training, early stopping and ways of running it."""
    settings = GenerativeSettings.stored(tuning["settings"])
    names = ("epochs", "patience", "threads", "precision", "device", *GenerativeSettings.operational)
    mine = {name: getattr(asked, name) for name in names}
    return settings.model_copy(update=mine)


def _model(
    context: StepContext,
    folder: Path,
    tuning: dict[str, Any],
    settings: GenerativeSettings,
    regular: Sequences,
    items: BoundItems,
) -> tuple[TrainableRecommender, dict[str, Any]]:
    """The model, and what is written down about its training."""
    if (
        tuning["trained_on"] == trained_on(context)
        and GenerativeSettings.stored(tuning["trial_settings"]) == settings
    ):
        context.progress("the tuning's best trial was this very training: its weights are taken over")
        model = new_model(settings, items, regular.vocabulary)
        load_weights(folder, model)
        return model, {"best_epoch": int(tuning["best_epoch"]), "from_trial": True}
    run = open_run(context)
    trained = train(
        regular.training_part(),
        items,
        settings,
        validation=regular,
        checkpoints=context.checkpoints,
        report=None if run is None else run.epoch,
        progress=context.progress,
    )
    close_run(context, run, {"": trained.throughput}, settings.model_dump(mode="json"))
    return trained.model, {"best_epoch": trained.result.best_epoch, "from_trial": False}
