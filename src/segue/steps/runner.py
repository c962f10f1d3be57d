"""Running one step, the same way under every engine: skip what is up to date, else write it whole and seal it."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal

import segue
from segue.artifacts import (
    Manifest,
    commit,
    content_hash,
    hash_files,
    looks_whole,
    read_json,
    read_manifest,
    remove_leftovers,
    temporary_folder,
    write_json,
)
from segue.bases import kept_path, read_base
from segue.canonical import sha256_of, sha256_of_file
from segue.errors import ArtifactError, ConfigurationError
from segue.lock import dataset_lock
from segue.params import Params
from segue.steps.registry import STEPS, Step, get
from segue.workspace import Workspace

Status = Literal["ran", "up_to_date", "no_change", "refused", "joined"]


@dataclass(slots=True, kw_only=True)
class StepContext:
    """What a step's function is given. It reads ``inputs``, ``params`` and ``kept``, and writes under ``output``."""

    workspace: Workspace
    dataset: str
    step: Step
    params: Params
    inputs: Mapping[str, Path]
    input_hashes: Mapping[str, str]
    output: Path  # a temporary folder, renamed into place afterwards
    identity: str  # hash of parameters, inputs and code: the key of resumable checkpoints
    base: Mapping[str, str | None]
    leads: bool = True  # False in the processes that only train along: nothing that they write stays
    record: dict[str, Any] = field(default_factory=dict)  # the run record: anything that must not be hashed
    metrics: dict[str, float | int | str] = field(default_factory=dict)  # shown in Dagster and MLflow
    receipt: dict[str, Any] = field(default_factory=dict)  # of an effect: the state that it left
    message: str = ""  # of an effect: what it did; "no change: ..." where it did nothing

    def kept(self, step: str) -> Path | None:
        """The kept artifact of ``step``, or None where the base keeps none."""
        content = self.base.get(step)
        return None if content is None else kept_path(self.workspace, self.dataset, step, content)

    @property
    def checkpoints(self) -> Path:
        """A folder for resumable checkpoints of exactly this work; removed once the step is done."""
        return self.workspace.state(self.dataset) / "checkpoints" / self.step.name / self.identity[:16]

    @property
    def reports(self) -> Path:
        """Where pages and plots for people go (not hashed)."""
        folder = self.workspace.reports(self.dataset)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def progress(self, message: str) -> None:
        """Tell the person who waits. Goes to stderr with the step's name."""
        if not self.leads:
            return
        print(f"[{datetime.now():%H:%M:%S}] {self.step.name}: {message}", file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a step ended."""

    step: str
    status: Status
    seconds: float
    manifest: Manifest | None
    record: Mapping[str, Any]
    message: str = ""


@cache
def code_version(modules: tuple[str, ...]) -> str:
    """Hash of the sources of the modules and packages (names under ``segue``). Nothing is imported."""
    root = Path(segue.__file__).parent
    files: list[Path] = []
    for name in modules:
        place = root.joinpath(*name.split("."))
        if place.is_dir():
            files.extend(sorted(place.rglob("*.py")))
        elif place.with_suffix(".py").is_file():
            files.append(place.with_suffix(".py"))
        else:
            raise FileNotFoundError(f"no module segue.{name}")
    return sha256_of({path.relative_to(root).as_posix(): sha256_of_file(path) for path in sorted(set(files))})


@dataclass(frozen=True, slots=True)
class _Key:
    params_sha256: str
    inputs: dict[str, str]
    code_version: str

    def matches(self, manifest: Manifest) -> bool:
        return (
            manifest.params_sha256 == self.params_sha256
            and manifest.inputs == self.inputs
            and manifest.code_version == self.code_version
        )


def _key(workspace: Workspace, dataset: str, step: Step, params: Params) -> _Key:
    inputs: dict[str, str] = {}
    for name in step.inputs:
        manifest = read_manifest(
            workspace.step(dataset, name),
            remedy=f"run `segue step {name} --dataset {dataset}` (or `segue run`) first",
        )
        inputs[name] = manifest.content_sha256
    if step.keeps:
        base = read_base(workspace, dataset)
        inputs["base"] = sha256_of({name: base[name] for name in step.keeps})
    return _Key(
        params_sha256=params.sections_hash(step.params),
        inputs=dict(sorted(inputs.items())),
        code_version=code_version((*step.code, f"steps.{step.name}")),
    )


def is_up_to_date(workspace: Workspace, dataset: str, step: Step, params: Params) -> bool:
    """Whether ``step``'s artifact is the one that its inputs, parameters and code would give."""
    folder = workspace.step(dataset, step.name)
    try:
        manifest = read_manifest(folder)
        return _key(workspace, dataset, step, params).matches(manifest) and looks_whole(folder, manifest)
    except ArtifactError:
        return False


def check_together(step: Step) -> None:
    """Raises ConfigurationError for a step that several processes cannot run as one."""
    if not step.together:
        trained = ", ".join(one.name for one in STEPS if one.together)
        raise ConfigurationError(
            f"{step.name} runs in one process: start it without torchrun (several processes train {trained})"
        )


def run_step(
    workspace: Workspace, dataset: str, name: str, params: Params, *, force: bool = False, engine: str = "cli"
) -> Outcome:
    """Bring one step up to date under the dataset's lock.

    Under ``torchrun`` the first process does so, and the others join it where it trains. Raises ArtifactError where an
    input is missing, ConfigurationError where several processes are to run a step that one runs; whatever the step
    raises leaves its former artifact untouched.
    """
    step = get(name)
    if "TORCHELASTIC_RUN_ID" not in os.environ:  # torch is heavy, and whether a step must run is known before
        return _run_step(workspace, dataset, step, params, force=force, engine=engine)
    from segue.training import distributed

    if distributed.announced() > 1:
        check_together(step)
    with distributed.process_group():
        if distributed.leads():
            outcome = _run_step(
                workspace, dataset, step, params, force=force, engine=engine, call=distributed.told_by_first
            )
            if outcome.status == "up_to_date":
                distributed.told_by_first(None)
            return outcome
        return _join(workspace, dataset, step, params, distributed.told_by_first(None))


def _run_step(
    workspace: Workspace,
    dataset: str,
    step: Step,
    params: Params,
    *,
    force: bool,
    engine: str,
    call: Callable[[str], object] | None = None,
) -> Outcome:
    """``call`` is given the identity of what is about to be run, so that others may join."""
    name = step.name
    with dataset_lock(workspace.state(dataset), purpose=f"{engine}: {name}"):
        started = time.monotonic()
        folder = workspace.step(dataset, name)
        if not step.always and not force and is_up_to_date(workspace, dataset, step, params):
            record = read_record(workspace, dataset, name)
            return Outcome(name, "up_to_date", time.monotonic() - started, read_manifest(folder), record)
        if step.kind == "effect" and os.environ.get("DVC_EXP_NAME"):
            message = f"refused: {name} never acts inside a DVC experiment ({os.environ['DVC_EXP_NAME']})"
            return Outcome(name, "refused", 0.0, None, {}, message)
        if workspace.data(dataset).is_dir():
            remove_leftovers(workspace.data(dataset))
        key = _key(workspace, dataset, step, params)
        run = _load(step)
        with temporary_folder(folder) as temporary:
            context = _context(workspace, dataset, step, params, key, temporary)
            if call is not None:
                call(context.identity)
            began = datetime.now(UTC)
            run(context)
            seconds = time.monotonic() - started
            if step.kind == "effect":
                write_json(temporary / "receipt.json", context.receipt)
            status, manifest = _seal(temporary, folder, context, key)
            if step.kind == "effect":
                status = "no_change" if context.message.startswith("no change") else "ran"
        record = _record(context, engine, began, seconds)
        if status != "no_change" or not workspace.run_record(dataset, name).is_file():
            write_json(workspace.run_record(dataset, name), record)
        _forget_checkpoints(context)
        return Outcome(name, status, seconds, manifest, record, context.message)


def _join(workspace: Workspace, dataset: str, step: Step, params: Params, identity: str | None) -> Outcome:
    """Run ``step`` along with the first process, which holds the lock and writes what stays.

    ``identity``: of what the first process is about to run; None where it found nothing to do.
    """
    started = time.monotonic()
    if identity is not None:
        with tempfile.TemporaryDirectory() as temporary:
            key = _key(workspace, dataset, step, params)
            context = _context(workspace, dataset, step, params, key, Path(temporary), leads=False)
            if context.identity != identity:
                raise ArtifactError(
                    f"{step.name}: this process sees other inputs, parameters or code than the first one: "
                    "give all of them the same checkout and data"
                )
            _load(step)(context)
    return Outcome(step.name, "joined", time.monotonic() - started, None, {})


def _context(
    workspace: Workspace,
    dataset: str,
    step: Step,
    params: Params,
    key: _Key,
    output: Path,
    *,
    leads: bool = True,
) -> StepContext:
    return StepContext(
        workspace=workspace,
        dataset=dataset,
        step=step,
        params=params,
        inputs={name: workspace.step(dataset, name) for name in step.inputs},
        input_hashes={name: key.inputs[name] for name in step.inputs},
        output=output,
        identity=sha256_of([step.name, key.params_sha256, key.inputs, key.code_version]),
        base=read_base(workspace, dataset) if step.keeps else {},
        leads=leads,
    )


def read_record(workspace: Workspace, dataset: str, name: str) -> dict[str, Any]:
    """The last run record of a step; empty where it never ran here."""
    path = workspace.run_record(dataset, name)
    if not path.is_file():
        return {}
    value = read_json(path)
    assert isinstance(value, dict)
    return value


def _seal(temporary: Path, folder: Path, context: StepContext, key: _Key) -> tuple[Status, Manifest]:
    if context.step.always and folder.is_dir():
        try:
            old = read_manifest(folder)
            if (
                key.matches(old)
                and looks_whole(folder, old)
                and old.content_sha256 == content_hash(hash_files(temporary))
            ):
                return "no_change", old
        except ArtifactError:
            context.progress("the former artifact is damaged and is replaced")
    return "ran", commit(
        temporary,
        folder,
        step=context.step.name,
        dataset=context.dataset,
        params_sha256=key.params_sha256,
        inputs=key.inputs,
        code_version=key.code_version,
    )


def _load(step: Step) -> Callable[[StepContext], None]:
    module, _, attribute = step.function.partition(":")
    function = getattr(importlib.import_module(module), attribute)
    assert callable(function)
    return function  # type: ignore[no-any-return]  # getattr is untyped


def _record(context: StepContext, engine: str, began: datetime, seconds: float) -> dict[str, Any]:
    return {
        "step": context.step.name,
        "engine": engine,
        "identity": context.identity,
        "started": began.isoformat(timespec="seconds"),
        "seconds": round(seconds, 3),
        "host": platform.node(),
        "machine": platform.machine(),
        "commit": _commit(context.workspace.root),
        "metrics": context.metrics,
        "message": context.message,
        **context.record,
    }


@cache
def _commit(root: Path) -> str | None:
    found = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or None


def _forget_checkpoints(context: StepContext) -> None:
    folder = context.workspace.state(context.dataset) / "checkpoints" / context.step.name
    if folder.is_dir():
        shutil.rmtree(folder)
