"""Step ``tuning``: an Optuna study with pruning, its trials nested MLflow runs, chooses the model's
settings."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from segue.artifacts import MANIFEST, read_json, write_json
from segue.data.sequences import Sequences
from segue.generative.store import save_weights
from segue.generative.training import Data, tune
from segue.reporting.tuning_page import write_tuning_page
from segue.schema import UserGroup
from segue.steps.runner import StepContext
from segue.steps.tracking import tracking_of
from segue.tokenizers.item_map import bound_items

SETTINGS = "settings.json"
TRIALS = "trials.json"


def run(context: StepContext) -> None:
    """Writes ``settings.json``, ``trials.json`` and the best trial's own weights, or hands on what is
    kept."""
    if (kept := context.kept("tuning")) is not None:
        shutil.copytree(kept, context.output, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST))
        context.progress("the chosen settings are kept; nothing is tuned")
        _say_what_is_not_obeyed(context, kept)
        _write_page(context)
        return
    params = context.params
    name = f"{context.step.name}-{context.identity[:16]}"
    source = partial(_data, context.inputs["sequences"] / UserGroup.REGULAR.value, context.inputs["item_map"])
    tuned = tune(
        *source(),
        params.generative,
        params.tuning,
        name=name,
        storage=context.workspace.study_storage(context.dataset, name),
        checkpoints=context.checkpoints,
        tracking=tracking_of(context),
        progress=context.progress,
        source=source,
    )
    save_weights(context.output, tuned.best.model)
    write_json(
        context.output / SETTINGS,
        {
            "settings": tuned.settings.model_dump(mode="json"),
            "trial_settings": tuned.trial_settings.model_dump(mode="json"),
            "fusion_grid": list(params.decoding.fusion_grid),
            "best_epoch": tuned.best.result.best_epoch,
            "trained_on": trained_on(context),
        },
    )
    write_json(
        context.output / TRIALS,
        {
            "best": tuned.study.best_index,
            "value": tuned.study.best_value,
            "trials": tuned.study.trials,
            "importance": tuned.study.importance,
        },
    )
    _write_page(context)
    context.record["mlflow"] = tuned.study.mlflow
    context.metrics["trials"] = len(tuned.study.trials)
    context.metrics["pruned"] = sum(trial["state"] == "pruned" for trial in tuned.study.trials)
    context.metrics["validation_ndcg_at_10"] = round(tuned.study.best_value, 4)
    for key, value in tuned.study.best_params.items():
        context.metrics[key] = value


def _say_what_is_not_obeyed(context: StepContext, kept: Path) -> None:
    """What is kept goes before the parameters: somebody who asks for another model must hear that none is made."""
    settings = read_json(kept / SETTINGS)
    held = settings.get("settings") if isinstance(settings, dict) else None
    name, asked = held.get("model") if isinstance(held, dict) else None, context.params.generative.model
    if name is not None and name != asked:
        context.progress(
            f"generative.model is {asked}, but the settings that are kept are those of {name}, and so are retrained "
            f"models: `segue keep --nothing --dataset {context.dataset}` begins another recipe"
        )


def _write_page(context: StepContext) -> None:
    page = write_tuning_page(
        context.reports,
        context.output,
        dataset=context.dataset,
        title=context.params.data.title or context.dataset,
        workers=context.params.tuning.workers,
    )
    context.record["plots"] = [str(page)]


def _data(sequences: Path, item_map: Path) -> Data:
    """What a study is about; each of its workers reads it itself."""
    return Sequences.load(sequences), bound_items(item_map)


def trained_on(context: StepContext) -> dict[str, str]:
    """The artifacts that a model's weights depend on, by content hash."""
    return {name: context.input_hashes[name] for name in ("item_map", "sequences")}
