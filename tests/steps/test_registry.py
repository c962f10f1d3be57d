from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import segue
from segue.bases import ENTRIES
from segue.params import SECTIONS
from segue.steps.registry import BY_NAME, STEPS, Step, in_order, upstream


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_a_step_names_what_exists(step: Step) -> None:
    seen = {before.name for before in STEPS[: STEPS.index(step)]}
    assert set(step.inputs) <= seen, "a step comes after its inputs"
    assert set(step.params) <= set(SECTIONS)
    assert set(step.keeps) <= set(ENTRIES)
    root = Path(segue.__file__).parent
    for module in (*step.code, f"steps.{step.name}"):
        place = root.joinpath(*module.split("."))
        assert place.is_dir() or place.with_suffix(".py").is_file(), module
    module_name, _, function = step.function.partition(":")
    assert callable(getattr(importlib.import_module(module_name), function))


# What every step is run by, and what decides no byte of an output. A page is written beside the artifact, not hashed.
INFRASTRUCTURE = {
    "artifacts",
    "bases",
    "canonical",
    "errors",
    "params",
    "steps.runner",
    "steps.registry",
    "steps.tracking",
}
PAGES = {"reporting.evaluation_page", "reporting.semantic_ids_page", "reporting.tuning_page"}


def imported(source: Path) -> set[str]:
    """The modules under ``segue`` that a file imports itself, wherever in it."""
    root = Path(segue.__file__).parent
    found: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                place = root.parent.joinpath(*node.module.split("."), alias.name)
                is_module = place.is_dir() or place.with_suffix(".py").is_file()
                found.add(f"{node.module}.{alias.name}" if is_module else node.module)
    return {name.removeprefix("segue.") for name in found if name.startswith("segue.")}


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_a_step_s_code_version_covers_what_it_imports(step: Step) -> None:
    covered = (*step.code, f"steps.{step.name}")
    names = imported(Path(segue.__file__).parent / "steps" / f"{step.name}.py")
    missing = {
        name
        for name in names - INFRASTRUCTURE - PAGES
        if not any(name == one or name.startswith(f"{one}.") for one in covered)
    }
    assert not missing, f"add {', '.join(sorted(missing))} to the code of {step.name}"


def test_names_are_unique() -> None:
    assert len(BY_NAME) == len(STEPS)


def test_only_effects_and_what_reads_the_outside_always_run() -> None:
    assert {step.name for step in STEPS if step.always} == {
        "ingest",
        "online_evidence",
        "bootstrap",
        "deployment",
        "summary",
    }


def test_upstream_of_the_last_step_holds_every_input() -> None:
    found = upstream(["deployment"])
    for name in found:
        assert set(BY_NAME[name].inputs) <= found
    assert [step.name for step in in_order(found)][-1] == "deployment"


def test_whether_a_step_is_up_to_date_is_known_without_anything_heavy() -> None:
    code = (
        "import sys, segue.steps.runner, segue.steps.dvc, segue.cli;"
        "heavy = {'torch','mlflow','dagster','great_expectations','pandas','faiss','bentoml','optuna','polars'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
