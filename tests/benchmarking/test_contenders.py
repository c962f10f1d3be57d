from __future__ import annotations

import ast
from pathlib import Path

import pytest

import segue
from segue.benchmarking.contenders import CONTENDERS

ROOT = Path(segue.__file__).parent
# What decides a figure lies in these packages, and in what is listed elsewhere.
DECIDING = tuple(
    f"segue.{name}"
    for name in ("cascade", "decoding", "evaluation", "generative", "ranking", "tokenizers", "training")
)
# Imported by what is listed, and not what a figure rests on.
NOT_OF_A_FIGURE = {
    "segue.cascade.settings",  # their values are in a record's key
    "segue.generative.registry",  # finds the model that was asked for, and imports no other
    "segue.training",  # a package of nothing
    "segue.training.checkpoints",  # a run that was resumed ends in the same weights
    "segue.training.device",
    "segue.training.distributed",
    "segue.training.study",
    "segue.training.throughput",
    "segue.training.tracking",
}
# These know every model and are given one.
OF_ALL_MODELS = {"segue.cascade.cascade", "segue.cascade.scorers"}


@pytest.mark.parametrize("name", CONTENDERS)
def test_a_record_knows_every_module_that_its_model_is_made_of(name: str) -> None:
    listed = {f"segue.{module}" for module in CONTENDERS[name].code}
    for module in listed - OF_ALL_MODELS:
        if module.startswith("segue.benchmarking."):  # these fit all models of a kind
            continue
        unknown = {one for one in imported(module) - NOT_OF_A_FIGURE if not is_listed(one, listed)}
        assert not unknown, f"{module} imports {unknown}"


@pytest.mark.parametrize("name", [name for name, each in CONTENDERS.items() if each.generative])
def test_a_generative_model_lists_its_own_module(name: str) -> None:
    assert f"generative.{name}" in CONTENDERS[name].code


@pytest.mark.parametrize("name", ["two_tower", "sasrec_content", "house", "tiger"])
def test_a_model_that_reads_content_lists_what_makes_it(name: str) -> None:
    """It asks the world for it, which no import of its own shows."""
    assert {"tokenizers", "encoders.collaborative"} <= set(CONTENDERS[name].code)


def imported(module: str) -> set[str]:
    """The modules of the deciding packages that ``module``, which may be a package, imports from."""
    place = ROOT.joinpath(*module.split(".")[1:])
    files = list(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    return {
        node.module
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(DECIDING)
    }


def is_listed(module: str, listed: set[str]) -> bool:
    return any(module == one or module.startswith(f"{one}.") for one in listed)
