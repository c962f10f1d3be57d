from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from segue.artifacts import hash_files, read_json, write_json
from segue.bases import KEEPABLE
from segue.errors import ArtifactError
from segue.generative import load_path
from segue.params import load_params
from segue.paths import ListRules, Request
from segue.steps import generative_model, refit, tuning
from segue.steps.registry import get
from segue.steps.runner import StepContext
from segue.tokenizers.item_map import bound_items
from segue.workspace import Workspace

from . import tiny

STEPS = {"tuning": tuning.run, "generative_model": generative_model.run, "refit": refit.run}


class Line:
    """The three steps, run one after the other in a workspace of their own."""

    def __init__(self, root: Path, *overrides: str) -> None:
        self.workspace = Workspace(root)
        self.params = load_params(
            self.workspace,
            "ml-100k",
            [
                "tuning.trials=2",
                "tuning.warmup_epochs=0",
                *(f"generative.{k}={v}" for k, v in _overrides().items()),
                *overrides,
            ],
        )
        folder = self.workspace.data("ml-100k")
        tiny.item_map().save(folder / "item_map")
        tiny.sequences(16).save(folder / "sequences" / "regular")

    def context(self, name: str, *, sequences: str = "s1", kept: Path | None = None) -> StepContext:
        data = self.workspace.data("ml-100k")
        output = data / f"{name}-output"
        output.mkdir(parents=True, exist_ok=True)
        folders = {step: data / step for step in ("splits", "item_map", "sequences")}
        made = {step: data / f"{step}-output" for step in STEPS}
        context = _Context(
            workspace=self.workspace,
            dataset="ml-100k",
            step=get(name),
            params=self.params,
            inputs={**folders, **made},
            input_hashes={"item_map": "m1", "sequences": sequences},
            output=output,
            identity=f"{name}-{sequences}-identity",
            base=dict.fromkeys(KEEPABLE),
        )
        context.kept_folder = kept
        return context

    def run(self, name: str, **changes: object) -> StepContext:
        context = self.context(name, **changes)  # type: ignore[arg-type]
        STEPS[name](context)
        return context


class _Context(StepContext):
    kept_folder: Path | None = None

    def kept(self, step: str) -> Path | None:
        return self.kept_folder


def _overrides() -> dict[str, object]:
    names = ("dimensions", "layers", "heads", "max_length", "batch_events", "epochs", "threads", "precision")
    return {name: getattr(tiny.SETTINGS, name) for name in names}


@pytest.fixture
def line(workspace_root: Path, monkeypatch: pytest.MonkeyPatch) -> Line:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Line(workspace_root)


def test_the_steps_end_in_a_path_and_repeat_themselves(line: Line) -> None:
    contexts = [line.run(name) for name in STEPS]
    assert len(contexts[0].record["mlflow"]["trials"]) == 2
    first = [hash_files(context.output) for context in contexts]
    assert set(first[1]) == {
        "model.safetensors",
        "config.json",
        "fusion.json",
        "trained_on.json",
        "training.json",
    }

    # The very training of the best trial; training again gives the same weights.
    training = read_json(contexts[1].output / "training.json")
    assert isinstance(training, dict)
    assert training["from_trial"] is True
    line.run("generative_model", sequences="s2")  # "other" inputs: nothing is taken over
    again = hash_files(contexts[1].output)
    assert again["model.safetensors"] == first[1]["model.safetensors"]
    assert again["fusion.json"] == first[1]["fusion.json"]

    served, selected = (
        read_json(contexts[2].output / "config.json"),
        read_json(contexts[1].output / "config.json"),
    )
    assert served == selected  # one recipe
    items = bound_items(line.workspace.data("ml-100k") / "item_map")
    path = load_path(contexts[2].output, items, line.params.decoding)
    request = Request(history=np.array([1, 2]), timestamps=np.array([0, 60]))
    assert len(path.recommend([request], 5, ListRules())[0].items) == 5


def test_the_steps_take_a_model_that_has_codes_alone(
    workspace_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    line = Line(workspace_root, "generative.model=tiger", "generative.epochs=1", "tuning.trials=1")
    outputs = [line.run(name).output for name in STEPS]
    training = read_json(outputs[1] / "training.json")
    assert isinstance(training, dict)
    assert training["from_trial"] is True
    assert set(training["validation_ndcg_at_10"]) == {"0"}
    for output in outputs[1:]:
        assert read_json(output / "fusion.json") == {"dense_weight": 0.0}
        config = read_json(output / "config.json")
        assert isinstance(config, dict)
        assert config["model"] == "tiger"
    path = load_path(
        outputs[2], bound_items(line.workspace.data("ml-100k") / "item_map"), line.params.decoding
    )
    found = path.recommend([Request(history=np.array([1]), timestamps=np.array([0]))], 5, ListRules())[0]
    assert len(found.items) == 5


def test_what_is_kept_is_handed_on(line: Line, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "manifest.json").write_text("{}")
    write_json(kept / "settings.json", {"best_epoch": 1})
    trial = {"index": 0, "state": "complete", "value": 0.1, "params": {}, "validation": [0.1]}
    write_json(kept / "trials.json", {"best": 0, "trials": [trial]})
    for name in STEPS:
        output = line.run(name, kept=kept).output
        assert hash_files(output) == hash_files(kept)
        for file in output.iterdir():
            file.unlink()
    assert "1 trials" not in (line.workspace.reports("ml-100k") / "tuning.html").read_text()


def test_another_model_than_the_kept_one_is_not_asked_for_in_silence(
    line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    trial = {"index": 0, "state": "complete", "value": 0.1, "params": {}, "validation": [0.1]}
    write_json(kept / "trials.json", {"best": 0, "trials": [trial]})
    for held, told in (("house", False), ("tiger", True)):
        write_json(kept / "settings.json", {"best_epoch": 1, "settings": {"model": held}})
        line.run("tuning", kept=kept)
        said = "generative.model is house, but the settings that are kept are those of tiger"
        assert (said in capsys.readouterr().err) == told


def test_missing_settings_are_named(line: Line) -> None:
    with pytest.raises(ArtifactError, match=r"settings\.json is missing"):
        line.run("generative_model")
    with pytest.raises(ArtifactError, match=r"config\.json is missing"):
        line.run("refit")
