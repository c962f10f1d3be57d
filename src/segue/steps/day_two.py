"""The day-two loop: keep what serves, take in what arrived, and let the drift report say whether to retrain.

The same three movements whichever engine runs the steps: the part of the graph up to ``drift``, the choice, the rest.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from segue.artifacts import read_json, read_manifest, verify, write_json
from segue.bases import KEEPABLE, REPLACED_MODEL, read_base, store_copy, write_base
from segue.canonical import sha256_of
from segue.errors import StateError
from segue.migration.deployment import CANARY
from segue.params import Params
from segue.steps.registry import STEPS, get, in_order, upstream
from segue.workspace import Workspace

RunSteps = Callable[[Sequence[str]], None]
WEIGHTS = ("generative_model", "refit")
# What a bundle of the incumbent alone was made from: its own fits, and the vocabulary of the vectors they read.
INCUMBENT_ALONE = ("attribute_embeddings", "incumbent", "incumbent_refit")


def record_served(
    workspace: Workspace, dataset: str, bundle_id: str, steps: Sequence[str] = KEEPABLE
) -> None:
    """Remember, by bundle, the artifacts that it was made from, so that a later day can keep exactly what serves.

    Called when a bundle is published; ``steps`` are those that it was made from. Idempotent: the first record of a
    bundle stays.
    """
    path = _served_file(workspace, dataset, bundle_id)
    if path.is_file():
        return
    made_from: dict[str, str] = {}
    present = [name for name in steps if workspace.step(dataset, name).is_dir()]
    _require_one_making(workspace, dataset, present)
    for name in present:
        folder = workspace.step(dataset, name)
        manifest = verify(folder)
        store_copy(folder, workspace.kept(dataset) / name / manifest.content_sha256)
        made_from[name] = manifest.content_sha256
    if "splits" in made_from and "generative_model" in made_from:
        _let_splits_be_those_of_the_weights(workspace, dataset, made_from)
    write_json(path, made_from)


def _require_one_making(workspace: Workspace, dataset: str, steps: Sequence[str]) -> None:
    """A run that was stopped leaves new artifacts beside old ones: a record of the mixture could never be kept.

    Raises StateError naming two that do not belong together.
    """
    for name in steps:
        inputs = read_manifest(workspace.step(dataset, name)).inputs
        for source in get(name).inputs:
            if source not in steps:
                continue
            now = read_manifest(workspace.step(dataset, source)).content_sha256
            if source in inputs and inputs[source] != now:
                raise StateError(
                    f"the {name} of {dataset} was made from another {source} than the present one: a run was "
                    f"stopped in between; `segue run --dataset {dataset}` finishes it"
                )


def served_model(workspace: Workspace, dataset: str) -> str | None:
    """The content hash of the evaluated model behind what serves or runs in shadow; None where it is not known."""
    path = _served_file(workspace, dataset, served_bundle(workspace, dataset))
    made_from = read_json(path) if path.is_file() else {}
    assert isinstance(made_from, dict)
    found = made_from.get("generative_model")
    return None if found is None else str(found)


def _let_splits_be_those_of_the_weights(
    workspace: Workspace, dataset: str, made_from: dict[str, str]
) -> None:
    """``splits`` is kept to be compared with by ``drift``, which asks what has changed since the weights were trained.

    Weights that were kept for ten days have seen ten days ago's events: were today's splits recorded, every day would
    be compared with the day before, and no slow growth would ever ask for a retrain.
    """
    manifest = read_manifest(workspace.step(dataset, "generative_model"))
    base = read_base(workspace, dataset)
    keeps = get("generative_model").keeps
    anew = manifest.inputs.get("base") == sha256_of(dict.fromkeys(keeps))
    trained_on = manifest.inputs.get("splits") if anew else base["splits"]
    if trained_on == made_from["splits"]:
        return
    if trained_on is not None and (workspace.kept(dataset) / "splits" / trained_on).is_dir():
        made_from["splits"] = trained_on
    else:
        del made_from["splits"]  # not known, or nowhere any more: drift says that nothing is kept of them


def keep_served(workspace: Workspace, dataset: str, *, retrain: bool = False) -> dict[str, str | None]:
    """Write the base that keeps what the deployed bundle was made from; with ``retrain`` not its weights.

    Raises StateError where nothing is deployed yet.
    """
    bundle_id = served_bundle(workspace, dataset)
    path = _served_file(workspace, dataset, bundle_id)
    if not path.is_file():
        raise StateError(
            f"{path} is missing: it is not known what the served bundle {bundle_id} was made from; "
            "`segue keep --nothing` and `segue run` build everything anew"
        )
    made_from = read_json(path)
    assert isinstance(made_from, dict)
    base = {name: made_from.get(name) for name in KEEPABLE}
    if retrain:
        base = without_weights(base)
    write_base(workspace, dataset, base)
    return base


def without_weights(base: Mapping[str, str | None]) -> dict[str, str | None]:
    """``base`` for a retrain: new weights are learned, and measured beside those that they would replace."""
    return {**base, **dict.fromkeys(WEIGHTS), REPLACED_MODEL: base["generative_model"]}


def day_two(
    workspace: Workspace, dataset: str, params: Params, run_steps: RunSteps, say: Callable[[str], None]
) -> str:
    """The whole loop. Returns the drift verdict. ``run_steps`` brings the named steps and their inputs up to date."""
    from segue.data.inbox import take_inbox  # heavy: it reads tables

    # What can be refused comes first: a file leaves the inbox only for a run that has begun.
    keep_served(workspace, dataset)
    say("keeping what serves; taking in what arrived")
    for told in take_inbox(workspace, dataset, params):
        say(told)
    run_steps([step.name for step in in_order(upstream(["drift"]))])
    report = read_json(workspace.step(dataset, "drift") / "drift.json")
    assert isinstance(report, dict)
    verdict, reasons = str(report["verdict"]), "; ".join(report["reasons"])
    say(f"drift: {verdict} ({reasons})")
    if verdict == "retrain":
        write_base(workspace, dataset, without_weights(read_base(workspace, dataset)))
    elif verdict == "new_codebook":
        say(
            "a new codebook is another recipe: it is adopted by hand (`segue keep --nothing`), so this run keeps the old"
        )
    run_steps([step.name for step in STEPS])
    return verdict


def retrain(workspace: Workspace, dataset: str, run_steps: RunSteps, say: Callable[[str], None]) -> None:
    """New weights of what serves, measured beside those that they replace; the refresh gate has the word.

    Raises StateError where nothing is deployed yet.
    """
    keep_served(workspace, dataset, retrain=True)
    say("keeping all that serves but its weights")
    run_steps([step.name for step in STEPS])


def _served_file(workspace: Workspace, dataset: str, bundle_id: str) -> Path:
    return workspace.kept(dataset) / "bundles" / f"{bundle_id}.json"


def served_bundle(workspace: Workspace, dataset: str) -> str:
    """The bundle whose making is to be kept: the shadow's, else the last arm's; never a canary's, which is on trial.

    Raises StateError before a deployment.
    """
    path = workspace.state(dataset) / "deployment" / "current.json"
    if not path.is_file():
        raise StateError(
            f"nothing is deployed for {dataset} yet: bootstrap comes first (`segue run --dataset {dataset}`)"
        )
    document = json.loads(path.read_text(encoding="utf-8"))["deployment"]
    shadow = document.get("shadow")
    arms = [arm for arm in document["arms"] if arm["name"] != CANARY]
    return str(shadow["bundle"] if shadow else arms[-1]["bundle"])
