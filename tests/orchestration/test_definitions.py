from __future__ import annotations

import os
import signal
import sys
import types
from pathlib import Path

import dagster as dg
import pytest

from assets.factory import asset_key, assets_for
from assets.resources import HOST_PID, Graph
from orchestration import ui
from orchestration.definitions import definitions_for
from orchestration.events import report_finished
from orchestration.instance import close_dead_runs, open_instance
from orchestration.jobs import _day_two_job as day_two_job
from orchestration.jobs import graph_job_name
from segue.errors import DataError
from segue.params import load_params
from segue.steps import registry
from segue.steps.registry import STEPS
from segue.steps.runner import StepContext, run_step
from segue.workspace import Workspace

DATASET = "ml-100k"


@pytest.fixture(scope="module")
def definitions() -> dg.Definitions:
    return definitions_for([DATASET, "movietweetings"])


def test_every_definition_loads(definitions: dg.Definitions) -> None:
    dg.Definitions.validate_loadable(definitions)


def test_the_graph_is_the_registry(definitions: dg.Definitions) -> None:
    graph = definitions.resolve_asset_graph()
    for dataset in (DATASET, "movietweetings"):
        for step in STEPS:
            node = graph.get(asset_key(dataset, step.name))
            assert node.parent_keys == {asset_key(dataset, name) for name in step.inputs}
            assert node.description == step.description


def test_a_string_selection_is_understood(definitions: dg.Definitions) -> None:
    """The pin of antlr4 4.13 is what keeps this working."""
    chosen = dg.AssetSelection.from_string('key:"ml-100k/splits"+').resolve(definitions.resolve_asset_graph())
    assert asset_key(DATASET, "sequences") in chosen


def test_every_decision_has_a_gate_that_fails_no_run(definitions: dg.Definitions) -> None:
    checks = {spec.asset_key.path[-1]: spec for asset in assets_for(DATASET) for spec in asset.check_specs}
    for name in ("pilot_decision", "hybrid_decision", "full_decision", "refresh_decision"):
        assert not checks[name].blocking
    assert checks["validation"].blocking


def small_step(monkeypatch: pytest.MonkeyPatch, function: object) -> None:
    """Replace ``ingest`` and ``validation`` by what the test gives."""

    def ingest(context: StepContext) -> None:
        (context.output / "x.txt").write_text("x")

    for name, run in {"ingest": ingest, "validation": function}.items():
        module = types.ModuleType(f"segue.steps.{name}")
        module.run = run  # type: ignore[attr-defined]  # a module made for the test
        monkeypatch.setitem(sys.modules, f"segue.steps.{name}", module)


def materialize(root: Path, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    names = {"ingest", "validation", "splits"}
    chosen = [asset for asset in assets_for(DATASET) if asset.key.path[-1] in names]
    return dg.materialize(
        chosen, instance=instance, resources={"graph": Graph(root=str(root))}, raise_on_error=False
    )


def test_a_failing_suite_shows_its_check_and_stops_the_graph(
    workspace_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(context: StepContext) -> None:
        raise DataError("12 of 20 rows have no user_id")

    small_step(monkeypatch, fail)
    with dg.DagsterInstance.ephemeral() as instance:
        result = materialize(workspace_root, instance)
        assert not result.success
        (check,) = result.get_asset_check_evaluations()
        assert not check.passed
        assert "no user_id" in (check.description or "")
        assert not result.asset_materializations_for_node("ml_100k__splits")


def test_what_another_engine_finished_is_reported_once(
    workspace_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def validation(context: StepContext) -> None:
        (context.output / "results.json").write_text('{"expectations": []}')

    small_step(monkeypatch, validation)
    workspace = Workspace(workspace_root)
    params = load_params(workspace, DATASET)
    for name in ("ingest", "validation"):
        run_step(workspace, DATASET, name, params, engine="dvc")
    monkeypatch.setattr(
        "orchestration.events.STEPS", [registry.BY_NAME[name] for name in ("ingest", "validation")]
    )
    with dg.DagsterInstance.ephemeral() as instance:
        assert report_finished(instance, workspace, DATASET) == ["ingest", "validation"]
        assert report_finished(instance, workspace, DATASET) == []


def test_a_run_says_in_which_process_it_runs_whoever_started_it(
    workspace_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def validation(context: StepContext) -> None:
        (context.output / "results.json").write_text('{"expectations": []}')

    small_step(monkeypatch, validation)
    chosen = [asset for asset in assets_for(DATASET) if asset.key.path[-1] == "ingest"]
    job = day_two_job(DATASET)
    with dg.DagsterInstance.ephemeral() as instance:
        graph = {"graph": Graph(root=str(workspace_root))}
        of_assets = dg.materialize(chosen, instance=instance, resources=graph)
        # Nothing is deployed, so this run is refused; by then it has said where it ran.
        of_the_loop = job.execute_in_process(instance=instance, resources=graph, raise_on_error=False)
        assert not of_the_loop.success
        for result in (of_assets, of_the_loop):
            run = instance.get_run_by_id(result.run_id)
            assert run is not None
            assert run.tags[HOST_PID] == str(os.getpid())


def test_a_run_that_a_kill_left_open_is_closed(definitions: dg.Definitions) -> None:
    job = definitions.resolve_job_def(graph_job_name(DATASET))
    with dg.DagsterInstance.ephemeral() as instance:
        dead = instance.create_run_for_job(
            job, status=dg.DagsterRunStatus.STARTED, tags={HOST_PID: "999999999"}
        )
        alive = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, tags={HOST_PID: "1"})
        assert close_dead_runs(instance) == [dead.run_id]
        assert instance.get_run_by_id(alive.run_id).status == dg.DagsterRunStatus.STARTED


def test_the_page_closes_dead_runs_before_it_shows_them(
    definitions: dg.Definitions,
    workspace_root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(workspace_root / "dagster"))
    with open_instance(Workspace(workspace_root)) as instance:
        dead = instance.create_run_for_job(
            definitions.resolve_job_def(graph_job_name(DATASET)),
            status=dg.DagsterRunStatus.STARTED,
            tags={HOST_PID: "999999999"},
        )
    monkeypatch.setattr(ui, "commands", lambda *_: {"server": ["true"]})
    monkeypatch.setattr(sys, "argv", ["ui"])
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert ui.main() == 1  # the server that stands in for all three ends at once
    finally:
        signal.signal(signal.SIGTERM, before)
    assert dead.run_id in capsys.readouterr().err
