"""What is remembered of a bundle, and the day-two loop that keeps exactly that."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click import unstyle
from typer.testing import CliRunner

from segue import cli
from segue.artifacts import commit, read_json, read_manifest, temporary_folder, write_json
from segue.bases import KEEPABLE, REPLACED_MODEL, kept_path, read_base, write_base
from segue.canonical import sha256_of
from segue.data.inbox import inbox
from segue.errors import ConfigurationError, StateError
from segue.migration.decide import Target
from segue.migration.ledger import Ledger
from segue.migration.state_machine import StateMachine
from segue.params import load_params
from segue.steps import offers, operations
from segue.steps.day_two import INCUMBENT_ALONE, day_two, record_served, served_bundle
from segue.steps.runner import run_step
from segue.workspace import Workspace
from tests.migration.builders import bundle, promote

DATASET = "ml-100k"
A, B = bundle("A", model=None), bundle("B")


class Registry:
    """MLflow's part in it, in memory."""

    def __init__(self, *_: object) -> None:
        self.on: dict[str, str] = {}

    def register(self, bundle_id: str, root: str, metrics: object = None) -> str:
        return "1"

    def aliases(self) -> dict[str, str]:
        return dict(self.on)

    def set_alias(self, alias: str, bundle_id: str) -> None:
        self.on[alias] = bundle_id

    def delete_alias(self, alias: str) -> None:
        del self.on[alias]

    def tag(self, bundle_id: str | None, key: str, value: str) -> None:
        pass


def artifact(
    workspace: Workspace, step: str, content: object = 1, inputs: dict[str, str] | None = None
) -> str:
    """An artifact of ``step``; returns its content hash."""
    folder = workspace.step(DATASET, step)
    with temporary_folder(folder) as temporary:
        write_json(temporary / ("bundle.json" if "bundle" in step else "x.json"), content)
        manifest = commit(
            temporary,
            folder,
            step=step,
            dataset=DATASET,
            params_sha256="p",
            inputs=inputs or {},
            code_version="c",
        )
    return manifest.content_sha256


@pytest.fixture
def workspace(workspace_root: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """After `bootstrap`, with everything that a whole run leaves behind."""
    monkeypatch.setattr("segue.registry.mlflow_registry.MlflowRegistry", Registry)
    monkeypatch.setattr("segue.registry.bundle.publish", lambda folder, root: None)
    monkeypatch.setattr("segue.serving.readable.require_readable", lambda folder: None)
    workspace = Workspace(workspace_root)
    for step in (*KEEPABLE, "validation"):
        artifact(workspace, step, step)
    artifact(workspace, "incumbent_bundle", A.model_dump(mode="json"))
    bootstrap(workspace)
    return workspace


def bootstrap(workspace: Workspace) -> None:
    run_step(workspace, DATASET, "bootstrap", load_params(workspace, DATASET))


def shadow_b(workspace: Workspace) -> None:
    record_served(workspace, DATASET, B.bundle_id)
    ledger = Ledger.open(workspace, DATASET)
    StateMachine(ledger, load_params(workspace, DATASET).migration).shadow(promote(Target.SHADOW, B), B)
    ledger.close()


def run_day_two(workspace: Workspace, verdict: str = "nothing_kept") -> tuple[str, list[str]]:
    ran: list[str] = []

    def run_steps(names: Sequence[str]) -> None:
        ran.extend(names)
        folder = workspace.step(DATASET, "drift")
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "drift.json", {"verdict": verdict, "reasons": ["a test"]})

    params = load_params(workspace, DATASET)
    return day_two(workspace, DATASET, params, run_steps, say=lambda _: None), ran


def served(workspace: Workspace, bundle_id: str) -> dict[str, Any]:
    found = read_json(workspace.kept(DATASET) / "bundles" / f"{bundle_id}.json")
    assert isinstance(found, dict)
    return found


def test_day_two_works_after_a_rollback_to_the_incumbent_alone(workspace: Workspace) -> None:
    shadow_b(workspace)
    operations.rollback(workspace, DATASET, actor="ann", reason="not yet", to=1)
    verdict, ran = run_day_two(workspace)
    assert verdict == "nothing_kept"
    assert "deployment" in ran
    base = read_base(workspace, DATASET)
    # The incumbent goes on as it is; everything generative is made anew.
    assert {name for name, content in base.items() if content is not None} == set(INCUMBENT_ALONE)
    assert served(workspace, "A") == {name: base[name] for name in INCUMBENT_ALONE}


def test_what_is_on_trial_is_not_what_is_kept_and_an_override_concludes_it(workspace: Workspace) -> None:
    stranger = bundle("S", incumbent="incumbent-2")
    artifact(workspace, "bundle", stranger.model_dump(mode="json"))
    record_served(workspace, DATASET, "S")
    ledger = Ledger.open(workspace, DATASET)
    machine = StateMachine(ledger, load_params(workspace, DATASET).migration)
    machine.canary(promote(Target.CANARY_INCUMBENT, stranger), stranger)
    ledger.close()
    assert served_bundle(workspace, DATASET) == "A"
    # A later run has made another bundle meanwhile: it is not the one that was tried.
    artifact(workspace, "bundle", B.model_dump(mode="json"))
    told = operations.override(
        workspace, DATASET, Target.REFRESH_RECIPE, actor="ann", reason="no complaint in two weeks"
    )
    assert "cascade 100% (cascade of S)" in told
    assert served_bundle(workspace, DATASET) == "S"
    assert run_day_two(workspace)[0] == "nothing_kept"


def test_demote_abandon_and_override_at_the_command_line(workspace: Workspace) -> None:
    artifact(workspace, "bundle", B.model_dump(mode="json"))
    runner = CliRunner()

    def segue(*arguments: str) -> tuple[int, str]:
        done = runner.invoke(cli.app, [*arguments, "--dataset", DATASET])
        return done.exit_code, done.output

    who = ("--actor", "ann", "--reason", "a fair")
    assert segue("override", "hybrid", "--reason", "x")[0] == 2  # an override names who
    assert segue("demote")[0] == 2  # and everything by hand says why
    code, told = segue("override", "hybrid", *who)
    assert (code, "stage hybrid" in told) == (0, True)
    assert served_bundle(workspace, DATASET) == "B"
    assert (workspace.kept(DATASET) / "bundles" / "B.json").is_file()
    assert "stage pilot" in segue("demote", *who)[1]
    assert "stage cascade" in segue("abandon", *who)[1]
    assert "restores 1" in segue("rollback", "--to", "1", *who)[1]
    lines = operations.history(workspace, DATASET)
    assert any("override of hybrid by ann: a fair" in line for line in lines)
    for command in ("demote", "abandon", "override", "rollback"):
        assert "--reason" in unstyle(runner.invoke(cli.app, [command, "--help"]).output)


def test_an_override_without_a_bundle_says_how_one_is_made(workspace: Workspace) -> None:
    shutil.rmtree(workspace.step(DATASET, "bundle"), ignore_errors=True)
    with pytest.raises(StateError, match=f"no bundle that could be let in.*segue run --dataset {DATASET}"):
        operations.override(workspace, DATASET, Target.HYBRID, actor="ann", reason="a fair")


@pytest.mark.parametrize(
    ("mistake", "warning"),
    [
        ("migrashun: {}", "warning: profiles/ml-100k.yaml: there is no section 'migrashun'"),
        (
            "since: 2024-02-30",
            "warning: {root}/profiles/ml-100k.yaml is no valid YAML: line 1, '2024-02-30': day",
        ),
    ],
)
def test_a_misspelt_profile_stands_in_the_way_of_no_step_back(
    workspace: Workspace, mistake: str, warning: str
) -> None:
    artifact(workspace, "bundle", B.model_dump(mode="json"))
    runner = CliRunner()
    profile = workspace.profile_file(DATASET)
    good = profile.read_text()
    override = ["override", "hybrid", "--actor", "ann", "--reason", "a fair"]
    for command, told in (
        (["status"], "stage     hybrid: revision 2"),
        (["status", "--json"], '"stage": "hybrid"'),
        (["ledger"], "override of hybrid by ann"),
        (["history"], "override of hybrid by ann"),
        (["rollback"], "rollback, stage cascade"),
        (["demote", "--reason", "x"], "demote, stage pilot"),
        (["abandon", "--reason", "x"], "abandon, stage cascade"),
    ):
        profile.write_text(good)
        assert runner.invoke(cli.app, override).exit_code == 0
        profile.write_text(f"{mistake}\n{good}")
        if command[0] == "abandon":
            assert runner.invoke(cli.app, ["demote", "--reason", "to the pilot"]).exit_code == 0
        done = runner.invoke(cli.app, command)
        assert (done.exit_code, told in done.output) == (0, True), done.output
        assert warning.replace("{root}", str(workspace.root)) in done.output
    refused = runner.invoke(cli.app, override)  # what goes forward needs its settings
    assert isinstance(refused.exception, ConfigurationError)
    unknown = runner.invoke(cli.app, ["rollback", "--dataset", "ml100k"])
    assert "there is no profile" in str(unknown.exception)
    assert not workspace.state("ml100k").exists()


def test_bootstrap_records_what_an_older_version_left_out(workspace: Workspace) -> None:
    record = workspace.kept(DATASET) / "bundles" / "A.json"
    record.unlink()
    bootstrap(workspace)
    assert record.is_file()
    # Another incumbent bundle was not what revision 1 deployed: nothing is known of that one's artifacts.
    record.unlink()
    artifact(workspace, "incumbent_bundle", bundle("A2", model=None).model_dump(mode="json"))
    bootstrap(workspace)
    assert not record.is_file()


def test_the_splits_that_are_kept_are_those_of_the_weights(workspace: Workspace) -> None:
    def day(number: int, *, kept: bool) -> str:
        """Splits of the day, and a model that was trained on them or handed on; the day's splits."""
        splits = artifact(workspace, "splits", number)
        base = {"generative_model": read_base(workspace, DATASET)["generative_model"]}
        assert (base["generative_model"] is not None) == kept
        model = 1 if kept else number
        artifact(workspace, "generative_model", model, {"base": sha256_of(base), "splits": splits})
        bundle_id = f"bundle-{number}"
        record_served(workspace, DATASET, bundle_id)
        write_base(workspace, DATASET, served(workspace, bundle_id))
        return splits

    first = day(1, kept=False)
    assert served(workspace, "bundle-1")["splits"] == first
    day(2, kept=True)
    day(3, kept=True)
    assert served(workspace, "bundle-3")["splits"] == first
    write_base(workspace, DATASET, {**read_base(workspace, DATASET), "generative_model": None})
    fourth = day(4, kept=False)
    assert served(workspace, "bundle-4")["splits"] == fourth
    # Splits that nobody has any more cannot be compared with, and others must not stand in for them.
    shutil.rmtree(workspace.kept(DATASET) / "splits" / fourth)
    kept = {"generative_model": read_base(workspace, DATASET)["generative_model"]}
    splits = artifact(workspace, "splits", 5)
    artifact(workspace, "generative_model", 4, {"base": sha256_of(kept), "splits": splits})
    record_served(workspace, DATASET, "bundle-5")
    assert "splits" not in served(workspace, "bundle-5")


def test_a_retrain_is_measured_beside_the_model_that_it_replaces(workspace: Workspace) -> None:
    shadow_b(workspace)
    assert run_day_two(workspace, "keep")[0] == "keep"
    kept = read_base(workspace, DATASET)
    assert kept["generative_model"] is not None
    assert kept[REPLACED_MODEL] is None
    run_day_two(workspace, "retrain")
    base = read_base(workspace, DATASET)
    assert base[REPLACED_MODEL] == kept["generative_model"]
    assert base["generative_model"] is base["refit"] is None
    folder = kept_path(workspace, DATASET, REPLACED_MODEL, str(base[REPLACED_MODEL]))
    assert read_manifest(folder).step == "generative_model"


def test_a_mixture_of_two_runs_is_never_recorded(workspace: Workspace) -> None:
    old = artifact(workspace, "codebook", "old")
    artifact(workspace, "item_map", 1, {"codebook": old})
    artifact(workspace, "codebook", "new")
    with pytest.raises(StateError, match="the item_map of ml-100k was made from another codebook"):
        record_served(workspace, DATASET, B.bundle_id)
    assert not (workspace.kept(DATASET) / "bundles" / f"{B.bundle_id}.json").exists()


def test_a_retrain_counts_only_beside_the_model_that_serves(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    shadow_b(workspace)
    newest = bundle("C")
    decision = promote(Target.REFRESH_RETRAIN, newest)
    monkeypatch.setattr(offers, "DECISIONS", ("one",))
    monkeypatch.setattr(offers, "read_decision", lambda path: decision)
    told: list[str] = []

    def found() -> set[Target]:
        return set(offers.decisions_in(workspace, DATASET, {"one": workspace.root}, told.append))

    served_model = served(workspace, "B")["generative_model"]
    base = read_base(workspace, DATASET)
    write_base(workspace, DATASET, {**base, REPLACED_MODEL: served_model})
    assert found() == {Target.REFRESH_RETRAIN}
    assert told == []
    write_base(workspace, DATASET, {**base, REPLACED_MODEL: "0" * 64})
    assert found() == set()
    assert "measured beside a model that does not serve" in told[0]
    decision = promote(Target.REFRESH_RETRAIN, B)  # what serves already: it is for the ledger to say so
    assert found() == {Target.REFRESH_RETRAIN}


def test_a_file_leaves_the_inbox_only_for_a_run_that_begins(workspace: Workspace) -> None:
    (workspace.kept(DATASET) / "bundles" / "A.json").unlink()
    dropped = inbox(workspace, DATASET) / "events.csv"
    dropped.parent.mkdir(parents=True)
    dropped.write_text("user_id,item_id,timestamp\n1,50,893286638\n")
    os.utime(dropped, (time.time() - 60, time.time() - 60))
    with pytest.raises(StateError, match="it is not known what the served bundle A was made from"):
        run_day_two(workspace)
    assert dropped.is_file()
    bootstrap(workspace)
    run_day_two(workspace)
    assert not dropped.is_file()
