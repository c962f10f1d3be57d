"""The same graph for ``dvc repro``: ``dvc.yaml`` is rendered from the registry, and finished steps are adopted by name.

DVC is driven through its command line: its Python interface is not a public one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

import segue
from segue.artifacts import MANIFEST, read_json, verify, write_json
from segue.canonical import sha256_of, sha256_of_file
from segue.errors import SegueError
from segue.steps.child import run_child
from segue.steps.registry import STEPS, Step, get
from segue.workspace import Workspace

HEADER = """\
# Rendered from segue.steps.registry by `segue render-dvc`; a test holds the two equal. Do not edit by hand.
# One entry a dataset of params.yaml: `dvc repro splits@ml-100k`. Steps marked always_changed say "no change".
"""


def stage(step: Step) -> dict[str, Any]:
    """One stage of ``dvc.yaml``. Outputs persist, because a step replaces its own artifact, whole or not at all."""
    output: dict[str, Any] = {"persist": True}
    if step.kind != "deterministic":
        output["cache"] = False  # the run cache must not bring back a latency, nor the receipt of an act
    rendered: dict[str, Any] = {
        "matrix": {"dataset": "${datasets}"},
        "desc": step.description,
        "cmd": f"segue step {step.name} --dataset ${{item.dataset}} --engine dvc",
    }
    deps = [
        *(f"data/${{item.dataset}}/{name}" for name in step.inputs),
        *(["bases/${item.dataset}.json"] if step.keeps else []),
        *(_source(name) for name in (*step.code, f"steps.{step.name}")),
    ]
    rendered["deps"] = deps
    if step.params:
        rendered["params"] = [*step.params, {"profiles/${item.dataset}.yaml": list(step.params)}]
    rendered["outs"] = [{f"data/${{item.dataset}}/{step.name}": output}]
    if step.always:
        rendered["always_changed"] = True
    return rendered


def render() -> str:
    """The text of ``dvc.yaml``."""
    stages = {step.name: stage(step) for step in STEPS}
    return HEADER + yaml.safe_dump({"stages": stages}, sort_keys=False, width=120, allow_unicode=True)


def repro(workspace: Workspace, dataset: str, steps: Sequence[str], *, force: bool = False) -> None:
    """``dvc repro`` of the named steps and what they need. Raises SegueError where it fails."""
    targets = [f"{name}@{dataset}" for name in steps]
    _dvc(workspace, ["repro", *(["--force"] if force else []), *targets], capture=False)


def adopt(workspace: Workspace, dataset: str, steps: Iterable[str]) -> list[str]:
    """Tell DVC that ``steps`` are finished: verify their manifests, then commit them by name, once.

    Returns the stages committed. Raises ArtifactError where an artifact is damaged: nothing stale is ever blessed.
    """
    finished = []
    names = tuple(steps)
    for name in names:
        verify(workspace.step(dataset, name))
        finished.append(f"{name}@{dataset}")
    if finished:
        _dvc(workspace, ["commit", "--force", *finished], capture=True)
        states = {name: _present_state(workspace, dataset, name) for name in names}
        write_json(workspace.state(dataset) / "adopted.json", {**_adopted(workspace, dataset), **states})
    return finished


def not_adopted(workspace: Workspace, dataset: str, steps: Iterable[str]) -> list[str]:
    """Those of ``steps`` that DVC does not know in their present state: judged without starting DVC."""
    lock_file = workspace.root / "dvc.lock"
    locked = yaml.safe_load(lock_file.read_text(encoding="utf-8")) if lock_file.is_file() else None
    stages = (locked or {}).get("stages") or {}
    adopted = _adopted(workspace, dataset)
    return [
        name
        for name in steps
        if f"{name}@{dataset}" not in stages or adopted.get(name) != _present_state(workspace, dataset, name)
    ]


def _adopted(workspace: Workspace, dataset: str) -> dict[str, Any]:
    path = workspace.state(dataset) / "adopted.json"
    value = read_json(path) if path.is_file() else {}
    assert isinstance(value, dict)
    return value


def _present_state(workspace: Workspace, dataset: str, name: str) -> str:
    """What DVC hashes of a step, in one hash: its manifest (outputs, parameters, code), its inputs' and the base."""
    files = [workspace.step(dataset, one) / MANIFEST for one in (name, *get(name).inputs)]
    if get(name).keeps:
        files.append(workspace.base_file(dataset))
    return sha256_of([sha256_of_file(path) for path in files])


def _source(module: str) -> str:
    place = Path(*module.split("."))
    root = Path(segue.__file__).parent
    return (Path("src/segue") / (place if (root / place).is_dir() else place.with_suffix(".py"))).as_posix()


def _dvc(workspace: Workspace, arguments: Sequence[str], *, capture: bool) -> None:
    environment = {
        **os.environ,
        "DVC_NO_ANALYTICS": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    finished = run_child(
        [sys.executable, "-m", "dvc", *arguments], cwd=workspace.root, env=environment, capture=capture
    )
    if finished.returncode:
        raise SegueError(f"dvc {' '.join(arguments)} failed:\n{finished.stdout or 'see above'}")
