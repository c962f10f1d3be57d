"""The day-two loop: keep what serves, take in what arrived, and let the drift report say whether to retrain.

The same three movements whichever engine runs the steps: the part of the graph up to ``drift``, the choice, the rest.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from segue.artifacts import read_json, verify, write_json
from segue.bases import KEEPABLE, read_base, store_copy, write_base
from segue.errors import StateError
from segue.steps.registry import STEPS, in_order, upstream
from segue.workspace import Workspace

RunSteps = Callable[[Sequence[str]], None]
WEIGHTS = ("generative_model", "refit")


def record_served(workspace: Workspace, dataset: str, bundle_id: str) -> None:
    """Remember, by bundle, the artifacts that it was made from, so that a later day can keep exactly what serves.

    Called when a bundle is published. Idempotent: the first record of a bundle stays.
    """
    path = _served_file(workspace, dataset, bundle_id)
    if path.is_file():
        return
    made_from: dict[str, str] = {}
    for name in KEEPABLE:
        folder = workspace.step(dataset, name)
        if folder.is_dir():
            manifest = verify(folder)
            store_copy(folder, workspace.kept(dataset) / name / manifest.content_sha256)
            made_from[name] = manifest.content_sha256
    write_json(path, made_from)


def keep_served(workspace: Workspace, dataset: str, *, retrain: bool = False) -> dict[str, str | None]:
    """Write the base that keeps what the deployed bundle was made from; with ``retrain`` not its weights.

    Raises StateError where nothing is deployed yet.
    """
    bundle_id = served_bundle(workspace, dataset)
    path = _served_file(workspace, dataset, bundle_id)
    if not path.is_file():
        raise StateError(
            f"{path} is missing: the served bundle {bundle_id} carries no generative model yet; run `segue run` first"
        )
    made_from = read_json(path)
    assert isinstance(made_from, dict)
    base = {name: made_from.get(name) for name in KEEPABLE}
    if retrain:
        base = {name: None if name in WEIGHTS else value for name, value in base.items()}
    write_base(workspace, dataset, base)
    return base


def day_two(workspace: Workspace, dataset: str, run_steps: RunSteps, say: Callable[[str], None]) -> str:
    """The whole loop. Returns the drift verdict. ``run_steps`` brings the named steps and their inputs up to date."""
    keep_served(workspace, dataset)
    say("keeping what serves; taking in what arrived")
    run_steps([step.name for step in in_order(upstream(["drift"]))])
    report = read_json(workspace.step(dataset, "drift") / "drift.json")
    assert isinstance(report, dict)
    verdict, reasons = str(report["verdict"]), "; ".join(report["reasons"])
    say(f"drift: {verdict} ({reasons})")
    if verdict == "retrain":
        base = read_base(workspace, dataset)
        write_base(
            workspace, dataset, {name: None if name in WEIGHTS else value for name, value in base.items()}
        )
    elif verdict == "new_codebook":
        say(
            "a new codebook is another recipe: it is adopted by hand (`segue keep --nothing`), so this run keeps the old"
        )
    run_steps([step.name for step in STEPS])
    return verdict


def _served_file(workspace: Workspace, dataset: str, bundle_id: str) -> Path:
    return workspace.kept(dataset) / "bundles" / f"{bundle_id}.json"


def served_bundle(workspace: Workspace, dataset: str) -> str:
    """The bundle whose making is to be kept: the shadow's, else the last arm's. Raises StateError before a deployment."""
    path = workspace.state(dataset) / "deployment" / "current.json"
    if not path.is_file():
        raise StateError(
            f"nothing is deployed for {dataset} yet: bootstrap comes first (`segue run --dataset {dataset}`)"
        )
    document = json.loads(path.read_text(encoding="utf-8"))["deployment"]
    shadow = document.get("shadow")
    return str(shadow["bundle"] if shadow else document["arms"][-1]["bundle"])
