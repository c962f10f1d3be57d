"""Starting a run under either engine from the command line.

Dagster's side lives outside the package (``orchestration``), so it is started as a process of its own, in the workspace.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from segue.bases import read_base
from segue.encoders.registry import check_encoders
from segue.errors import ConfigurationError, SegueError
from segue.generative.registry import check_model
from segue.lock import dataset_lock
from segue.params import Params, active_datasets, expanded, load_params
from segue.steps import dvc
from segue.steps.child import run_child
from segue.steps.day_two import day_two, served_bundle
from segue.steps.registry import EMBEDDINGS, STEPS
from segue.steps.runner import is_up_to_date
from segue.tokenizers.embeddings import check_modalities
from segue.tokenizers.registry import load_tokenizer
from segue.workspace import Workspace

EngineName = Literal["dagster", "dvc"]


def run_graph(workspace: Workspace, dataset: str, engine: EngineName, overrides: Sequence[str]) -> None:
    """The whole graph under ``engine``; raises SegueError where the run fails."""
    _check_names(load_params(workspace, dataset, overrides))
    read_base(workspace, dataset)  # a missing one is told now, not by the step that needs it
    if engine == "dvc":
        _refuse_overrides(overrides)
        with dataset_lock(workspace.state(dataset), purpose="dvc repro"):
            dvc.repro(workspace, dataset, [step.name for step in STEPS])
        return
    _orchestration(workspace, ["graph", "--dataset", dataset, *_sets(overrides)])


def _check_names(params: Params) -> None:
    """Names that registries resolve: a wrong one is told now, not after hours by the step that needs it."""
    check_encoders(params.encoders)
    load_tokenizer(params.tokenizer.name)
    check_modalities(params.tokenizer.modality_weights, EMBEDDINGS)
    check_model(params.generative.model)


def run_day_two(workspace: Workspace, dataset: str, engine: EngineName, overrides: Sequence[str]) -> None:
    """The day-two loop under ``engine``."""
    params = load_params(workspace, dataset, overrides)
    served_bundle(workspace, dataset)  # refused here in one line, not from within a run
    if engine == "dvc":
        _refuse_overrides(overrides)
        with dataset_lock(workspace.state(dataset), purpose="day two under dvc"):
            day_two(
                workspace,
                dataset,
                params,
                run_steps=lambda names: dvc.repro(workspace, dataset, names),
                say=lambda message: print(message, flush=True),
            )
        return
    _orchestration(workspace, ["day-two", "--dataset", dataset, *_sets(overrides)])


def adopt_everywhere(workspace: Workspace, dataset: str) -> dict[str, list[str]]:
    """Verify what is finished, commit it to DVC, report it to Dagster."""
    params = load_params(workspace, dataset)
    finished = [step.name for step in STEPS if is_up_to_date(workspace, dataset, step, params)]
    with dataset_lock(workspace.state(dataset), purpose="adopt"):
        committed = dvc.adopt(workspace, dataset, finished) if dataset in active_datasets(workspace) else []
    _orchestration(workspace, ["report", "--dataset", dataset])
    return {"dvc": committed, "dagster": finished}


def _orchestration(workspace: Workspace, arguments: Sequence[str]) -> None:
    if not (workspace.root / "orchestration").is_dir():
        raise ConfigurationError(
            f"{workspace.root} holds no orchestration/: run inside a checkout of the repository"
        )
    finished = run_child(
        [sys.executable, "-m", "orchestration", *arguments],
        cwd=workspace.root,
        env={**os.environ, "PYTHONPATH": _path_with(workspace.root)},
    )
    if finished.returncode:
        raise SegueError(
            "the Dagster run did not succeed: the step's own message stands above, and in `make ui`"
        )


def _path_with(root: Path) -> str:
    """What a person put on the path stays on it, before the repository's own folders."""
    return os.pathsep.join(part for part in (os.environ.get("PYTHONPATH"), str(root)) if part)


def _sets(overrides: Sequence[str]) -> list[str]:
    return [part for override in expanded(overrides) for part in ("--set", override)]


def _refuse_overrides(overrides: Sequence[str]) -> None:
    if overrides:
        raise ConfigurationError(
            "under DVC parameters come from files: use `dvc exp run -S section.key=value`"
        )
