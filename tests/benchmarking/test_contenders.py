from __future__ import annotations

import ast
from pathlib import Path

import pytest

import segue
from segue.benchmarking.contenders import CONTENDERS

ROOT = Path(segue.__file__).parent
BY_NAME = {"segue.generative.registry"}  # finds the model that was asked for, and imports no other


@pytest.mark.parametrize("name", [name for name, each in CONTENDERS.items() if each.generative])
def test_a_record_knows_every_module_that_its_model_is_made_of(name: str) -> None:
    """What a module of :mod:`segue.generative` that is listed imports of that package is listed, too."""
    listed = {f"segue.{module}" for module in CONTENDERS[name].code}
    assert f"segue.generative.{name}" in listed
    for module in listed:
        if module.startswith("segue.generative."):
            assert imported(module) <= listed | BY_NAME, module


def imported(module: str) -> set[str]:
    """The modules of :mod:`segue.generative` that ``module`` imports from."""
    source = ROOT.joinpath(*module.split(".")[1:]).with_suffix(".py").read_text()
    return {
        node.module
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("segue.generative.")
    }
