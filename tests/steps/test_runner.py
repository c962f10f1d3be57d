from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest

from segue.artifacts import read_manifest
from segue.bases import KEEPABLE, keep, read_base, write_base
from segue.errors import ArtifactError
from segue.params import load_params
from segue.steps import registry, runner
from segue.steps.registry import Step
from segue.steps.runner import StepContext, run_step
from segue.workspace import Workspace

DATASET = "ml-100k"
CALLS: list[str] = []


@pytest.fixture
def graph(workspace_root: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A graph of three steps: ``splits`` -> ``codebook`` (keeps) -> ``deployment`` (an effect)."""
    steps = (
        Step(name="splits", description="", group="g", params=("splits",)),
        Step(name="codebook", description="", group="g", inputs=("splits",), keeps=("codebook",)),
        Step(name="deployment", description="", group="g", inputs=("codebook",), kind="effect", always=True),
    )
    CALLS.clear()

    def splits(context: StepContext) -> None:
        CALLS.append("splits")
        (context.output / "seed.txt").write_text(str(context.params.splits.seed % 10))

    def codebook(context: StepContext) -> None:
        CALLS.append("codebook")
        kept = context.kept("codebook")
        seed = (context.inputs["splits"] / "seed.txt").read_text()
        (context.output / "codebook.txt").write_text((kept / "codebook.txt").read_text() if kept else seed)

    def deployment(context: StepContext) -> None:
        CALLS.append("deployment")
        context.receipt = {"revision": 1}
        context.message = "no change: nothing to do"

    for name, function in {"splits": splits, "codebook": codebook, "deployment": deployment}.items():
        module = types.ModuleType(f"segue.steps.{name}")
        module.run = function  # type: ignore[attr-defined]  # a module made for the test
        monkeypatch.setitem(sys.modules, f"segue.steps.{name}", module)
    monkeypatch.setattr(registry, "BY_NAME", {step.name: step for step in steps})
    return Workspace(workspace_root)


def run(graph: Workspace, name: str, *overrides: str) -> str:
    return run_step(graph, DATASET, name, load_params(graph, DATASET, overrides)).status


def test_what_is_up_to_date_is_not_run_again(graph: Workspace) -> None:
    assert [run(graph, "splits"), run(graph, "splits")] == ["ran", "up_to_date"]
    assert CALLS == ["splits"]


def test_a_parameter_that_it_does_not_read_changes_nothing(graph: Workspace) -> None:
    run(graph, "splits")
    assert run(graph, "splits", "generative.dropout=0.77") == "up_to_date"


def test_equal_output_stops_the_change_from_spreading(graph: Workspace) -> None:
    run(graph, "splits", "splits.seed=1")
    run(graph, "codebook")
    assert run(graph, "splits", "splits.seed=11") == "ran"
    assert run(graph, "codebook") == "up_to_date"
    assert run(graph, "splits", "splits.seed=2") == "ran"
    assert run(graph, "codebook") == "ran"


def test_a_missing_input_says_what_to_run(graph: Workspace) -> None:
    with pytest.raises(ArtifactError, match="segue step splits"):
        run(graph, "codebook")


def test_a_truncated_artifact_is_built_again(graph: Workspace) -> None:
    run(graph, "splits")
    (graph.step(DATASET, "splits") / "seed.txt").write_text("")
    assert run(graph, "splits") == "ran"


def test_what_is_kept_is_not_rebuilt_when_its_inputs_change(graph: Workspace) -> None:
    run(graph, "splits", "splits.seed=1")
    run(graph, "codebook")
    keep(graph, DATASET, ["codebook"])
    run(graph, "splits", "splits.seed=2")
    run(graph, "codebook")
    assert (graph.step(DATASET, "codebook") / "codebook.txt").read_text() == "1"
    write_base(graph, DATASET, dict.fromkeys(KEEPABLE))
    run(graph, "codebook")
    assert (graph.step(DATASET, "codebook") / "codebook.txt").read_text() == "2"


def test_a_base_whose_store_is_gone_is_refused(graph: Workspace) -> None:
    run(graph, "splits")
    write_base(graph, DATASET, {**read_base(graph, DATASET), "codebook": "0" * 64})
    with pytest.raises(ArtifactError, match="segue keep"):
        run(graph, "codebook")


def test_an_effect_always_runs_and_says_no_change(graph: Workspace) -> None:
    run(graph, "splits")
    run(graph, "codebook")
    assert [run(graph, "deployment"), run(graph, "deployment")] == ["no_change", "no_change"]
    assert CALLS.count("deployment") == 2
    assert read_manifest(graph.step(DATASET, "deployment")).files.keys() == {"receipt.json"}


def test_an_effect_never_acts_inside_an_experiment(graph: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    run(graph, "splits")
    run(graph, "codebook")
    monkeypatch.setenv("DVC_EXP_NAME", "curly-fox")
    assert run(graph, "deployment") == "refused"
    assert "deployment" not in CALLS


def test_a_failing_step_leaves_the_former_artifact(graph: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    run(graph, "splits", "splits.seed=1")
    before = read_manifest(graph.step(DATASET, "splits"))

    def fail(context: StepContext) -> None:
        (context.output / "half.txt").write_text("half")
        raise RuntimeError("in the middle")

    monkeypatch.setattr(sys.modules["segue.steps.splits"], "run", fail)
    with pytest.raises(RuntimeError):
        run(graph, "splits", "splits.seed=2")
    assert read_manifest(graph.step(DATASET, "splits")) == before
    assert not list(graph.data(DATASET).glob(".tmp-*"))


def test_code_version_follows_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "segue"
    (package / "part").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "part" / "a.py").write_text("x = 1")
    monkeypatch.setattr(runner.segue, "__file__", str(package / "__init__.py"))
    runner.code_version.cache_clear()
    before = runner.code_version(("part",))
    runner.code_version.cache_clear()
    (package / "part" / "a.py").write_text("x = 2")
    assert runner.code_version(("part",)) != before
    runner.code_version.cache_clear()
