"""``segue bench``: what a user is told before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from segue.cli import app
from segue.errors import ArtifactError, ConfigurationError
from tests.benchmarking import tiny


def said(*arguments: str) -> Exception:
    found = CliRunner().invoke(app, ["bench", "quality", *arguments]).exception
    assert isinstance(found, Exception)
    return found


def test_steps_that_have_not_run_are_named_with_what_to_run(workspace_root: Path) -> None:
    error = said("--data", "ml-100k")
    assert isinstance(error, ArtifactError)
    assert "ml-100k lacks the steps splits, sequences, text_embeddings" in str(error)
    assert "run `segue run --dataset ml-100k`" in str(error)


@pytest.mark.parametrize("given", [True, False])
def test_the_gap_reaches_the_world(
    workspace_root: Path, monkeypatch: pytest.MonkeyPatch, given: bool
) -> None:
    told: dict[str, object] = {}

    def load(*_: object, **named: object) -> None:
        told.update(named)
        raise ArtifactError("far enough")

    monkeypatch.setattr("segue.benchmarking.world.load_world", load)
    said("--validation-users", "5", *(["--validation-gap"] if given else []))
    assert (told["validation_users"], told["validation_gap"]) == (5, given)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-d", "nowhere"], "there is no profile"),
        (["--part", "validation", "--out", "x.json"], "writes no results"),
        (["--settings", "nowhere.yaml"], "nowhere.yaml is missing"),
        (["--set", "splitz.seed=9"], "splitz"),
        (["--set", "splits.seed=9"], "the benchmark takes splits from the steps that ran"),
        (["--set", "rules.filter_seen=false"], "it reads tokenizer, decoding, generative, cascade alone"),
        (["--out", "."], "is a folder: name a file in it"),
        (["--out", "profiles/ml-100k.yaml/x.json"], "cannot be written"),
        (["--out", "params.yaml"], "holds no tables of this benchmark"),
        (["--models", "sasrec,nope"], "there is no contender 'nope'; contenders: popularity"),
    ],
)
def test_a_command_that_cannot_work_says_why(
    workspace_root: Path, arguments: list[str], message: str
) -> None:
    error = said(*arguments)
    assert isinstance(error, ConfigurationError)
    assert message in str(error)


def test_a_gpu_that_is_not_there_is_said_before_anything_is_read(
    workspace_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    error = said("--device", "cuda")
    assert isinstance(error, ConfigurationError)
    assert "torch finds no GPU here" in str(error)


def test_who_stops_it_is_told_how_to_go_on(workspace_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("segue.benchmarking.world.load_world", lambda *_, **__: tiny.world())
    monkeypatch.setattr("segue.benchmarking.quality.Benchmark.records", stopped)
    found = CliRunner().invoke(app, ["bench", "quality"])
    assert found.exit_code == 130
    assert "stopped: the same command goes on where this one was" in found.output


def test_a_file_of_settings_is_read_section_by_section(
    workspace_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*given: object, **_: object) -> None:
        assert given[2].decoding.beam_width == 7  # type: ignore[attr-defined]
        raise ArtifactError("far enough")

    monkeypatch.setattr("segue.benchmarking.world.load_world", load)
    file = tmp_path / "mine.yaml"
    file.write_text("decoding: {beam_width: 7}\n")
    assert "far enough" in str(said("--set", f"@{file}"))
    file.write_text("decoding: {beam_width: 7}\nsplits: {seed: 9}\n")
    assert "takes splits from the steps that ran" in str(said("--set", f"@{file}"))
