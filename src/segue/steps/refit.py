"""Step ``refit``: the same model on all events of the regular users. This one is served."""

from __future__ import annotations

import shutil

from segue.artifacts import MANIFEST, read_json, write_json
from segue.data.sequences import Sequences
from segue.errors import ArtifactError
from segue.generative.store import load_fusion, load_settings, save_model
from segue.generative.training import train
from segue.schema import UserGroup
from segue.steps.generative_model import TRAINING
from segue.steps.runner import StepContext
from segue.steps.tracking import close_run, open_run
from segue.tokenizers.item_map import bound_items


def run(context: StepContext) -> None:
    """Writes what ``generative_model`` writes: its settings, its number of epochs, its fusion weight, more
    events."""
    if (kept := context.kept("refit")) is not None:
        shutil.copytree(kept, context.output, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST))
        context.progress("the refitted model is kept; nothing is trained")
        return
    selected = context.inputs["generative_model"]
    settings = load_settings(selected)
    training = read_json(selected / TRAINING)
    if not isinstance(training, dict) or not isinstance(training.get("best_epoch"), int):
        raise ArtifactError(f"{selected / TRAINING} names no best_epoch: run the step generative_model again")
    run = open_run(context)
    trained = train(
        Sequences.load(context.inputs["sequences"] / UserGroup.REGULAR.value),
        bound_items(context.inputs["item_map"]),
        settings,
        validation=None,
        epochs=training["best_epoch"],
        checkpoints=context.checkpoints,
        report=None if run is None else run.epoch,
        progress=context.progress,
    )
    if not context.leads:
        return
    close_run(context, run, {"": trained.throughput}, settings.model_dump(mode="json"))
    save_model(context.output, trained.model, settings, load_fusion(selected))
    write_json(context.output / TRAINING, {"best_epoch": training["best_epoch"], "from_trial": False})
    context.metrics["epochs"] = trained.result.epochs
    context.metrics["loss"] = round(trained.result.history[-1]["total"], 4)
