from __future__ import annotations

from pathlib import Path

import yaml

from segue.steps.dvc import render
from segue.steps.registry import STEPS


def test_the_committed_file_is_the_rendered_one(repository: Path) -> None:
    assert (repository / "dvc.yaml").read_text() == render(), "run `segue render-dvc`"


def test_stages_are_the_steps_and_depend_on_their_inputs() -> None:
    stages = yaml.safe_load(render())["stages"]
    assert list(stages) == [step.name for step in STEPS]
    for step in STEPS:
        deps = stages[step.name]["deps"]
        for name in step.inputs:
            assert f"data/${{item.dataset}}/{name}" in deps
        assert ("bases/${item.dataset}.json" in deps) == bool(step.keeps)


def test_nothing_measured_and_no_receipt_is_cached() -> None:
    stages = yaml.safe_load(render())["stages"]
    for step in STEPS:
        (output,) = stages[step.name]["outs"][0].values()
        assert output["persist"]
        assert output.get("cache", True) == (step.kind == "deterministic")
