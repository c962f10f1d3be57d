from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def segue(*arguments: str, root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "segue.cli", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "SEGUE_ROOT": str(root)},
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["step", "nonsense"], "there is no step 'nonsense'"),
        (["step", "splits", "--dataset", "nobody"], "there is no profile"),
        (["step", "splits"], "segue step validation"),
        (["step", "splits", "--set", "splits.sed=1"], "splits.sed"),
        (
            ["keep"],
            "nothing is deployed for ml-100k yet: bootstrap comes first (`segue run --dataset ml-100k`)",
        ),
        (
            ["rollback"],
            "nothing is deployed for ml-100k yet: bootstrap comes first (`segue run --dataset ml-100k`)",
        ),
        (["day-two"], "nothing is deployed"),
        (["status", "--dataset", "nobody"], "there is no profile"),
        (["keep", "--nothing", "--dataset", "nobody"], "there is no profile"),
        (["summary"], "segue run"),
        (["recommend", "--users", "u.csv", "--out", "o.parquet"], "nothing is deployed"),
        (["explain", "--user", "1", "--item", "2"], "nothing is deployed"),
        (["tokens", "drift"], "segue run"),
        (["policy", "power", "hybrid", "--users-per-day", "500"], "--sd ctr=VALUE"),
        (["advise"], "answers are missing: monthly_users"),
        (["policy", "lint", "--set", "@absent.yaml"], "absent.yaml is missing"),
        (["policy", "lint", "--set", "@/"], "/ cannot be read: Is a directory"),
        (["status", "-d", "../params"], "'../params' is no name of a dataset"),
        (["keep", "--nothing", "-d", ""], "'' is no name of a dataset"),
        (["keep", "--nothing", "--retrain"], "give one of them"),
        (
            ["run", "--set", "generative.model=nope"],
            "generative.model is 'nope', which nothing provides (models: house",
        ),
        (["run", "--set", "tokenizer.name=nope"], "there is no tokenizer 'nope'"),
        (
            ["run", "--set", "tokenizer.modality_weights={colaborative: 2}"],
            "there is no modality 'colaborative'",
        ),
        (["run", "--set", "tuning.seed=2024-02-30"], "'2024-02-30' is no value in YAML"),
        (["run", "--set", "encoders.text_model=nope"], "there is no text encoder 'nope'"),
        (["run", "--set", "encoders.image_model=nope"], "there is no image encoder 'nope'"),
        (["step", "ingest", "--nproc", "2"], "ingest runs in one process"),
        (["step", "refit", "--nproc", "2", "--set", "generative.dropout=7"], "generative.dropout"),
        (["init", "gone/away.csv", "--separator", ""], "--separator is empty"),
        (["recommend", "--users", "/", "--out", "o.parquet"], "nothing is deployed"),
        (["store", "erase", ""], "the user_id is empty"),
        (
            ["policy", "lint", "--set", "cascade.sasrec.heads=5"],
            "dimensions 64 must be a multiple of the heads (5)",
        ),
        (["policy", "lint", "--set", "drift.max_new_item_share=-1"], "drift.max_new_item_share"),
        (["policy", "lint", "--set", "validation={min_weight: 9, max_weight: 5}"], "not of the form"),
        (["policy", "lint", "--set", "decoding.beam_width=0"], "decoding.beam_width"),
        (["policy", "power", "full", "--users-per-day", "500", "--sd", "ctr"], "metric=number"),
        (["policy", "power", "hybrid", "--users-per-day", "500", "--expect", "bogus=3"], "--expect bogus"),
    ],
)
def test_a_mistake_is_one_line_that_says_the_mend(
    workspace_root: Path, arguments: list[str], told: str
) -> None:
    finished = segue(*arguments, root=workspace_root)
    assert finished.returncode == 1
    assert told in finished.stderr
    assert "Traceback" not in finished.stderr
    assert finished.stderr.count("\n") == 1


def test_the_power_calculator_tells_users_and_days(workspace_root: Path) -> None:
    options = ("--users-per-day", "50000", "--sd", "ctr=0.2", "--expect", "fallback_rate=0.005")
    finished = segue("policy", "power", "hybrid", *options, root=workspace_root)
    assert finished.returncode == 0, finished.stderr
    told = json.loads(finished.stdout)
    assert told["days"] == max(one["days"] for one in told["requirements"])
    assert {one["outcome"] for one in told["requirements"]} == {"met"}


def test_status_before_any_deployment_is_one_line(workspace_root: Path) -> None:
    finished = segue("status", root=workspace_root)
    assert finished.returncode == 0
    assert finished.stdout.count("\n") == 1
    assert "nothing is deployed for ml-100k yet: bootstrap comes first" in finished.stdout


def test_status_before_any_deployment_is_json_where_json_is_asked_for(workspace_root: Path) -> None:
    finished = segue("status", "--json", root=workspace_root)
    assert finished.returncode == 0
    assert json.loads(finished.stdout)["deployment"] is None


def test_an_empty_ledger_says_so(workspace_root: Path) -> None:
    finished = segue("ledger", root=workspace_root)
    assert (finished.returncode, finished.stdout) == (0, "")
    assert "the ledger of ml-100k has no entry yet" in finished.stderr


def test_arguments_are_explained(workspace_root: Path) -> None:
    assert (
        "A step of the graph; `segue steps` lists them" in segue("step", "--help", root=workspace_root).stdout
    )


def test_files_that_are_no_text_and_sections_that_are_missing_are_named(workspace_root: Path) -> None:
    profile = workspace_root / "profiles" / "mine.yaml"
    profile.write_bytes('data: {title: "Café"}\n'.encode("latin-1"))
    assert (
        "mine.yaml is no UTF-8 text: save it as UTF-8"
        in segue("steps", "-d", "mine", root=workspace_root).stderr
    )
    profile.write_text("data: {}\nvalidation: {}\n")
    told = segue("steps", "-d", "mine", root=workspace_root).stderr
    assert "lacks the sections splits, encoders, " in told
    assert told.count("`splits: {}`") == told.count("`serving: {}`") == 1


def test_keep_nothing_writes_an_empty_base(workspace_root: Path) -> None:
    (workspace_root / "bases" / "ml-100k.json").unlink()
    assert segue("keep", "--nothing", root=workspace_root).returncode == 0
    assert "null" in (workspace_root / "bases" / "ml-100k.json").read_text()
