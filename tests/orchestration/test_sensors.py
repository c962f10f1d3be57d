"""What the sensors ask for, on a real ledger and store."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets.factory import asset_key
from orchestration.definitions import definitions_for
from orchestration.jobs import EVALUATION, evaluation_job_name, retrain_job_name
from orchestration.sensors import sensors_for
from segue.artifacts import commit, write_json
from segue.bases import KEEPABLE, write_base
from segue.migration.decide import Target
from segue.migration.ledger import Ledger
from segue.migration.state_machine import StateMachine
from segue.serving.store import Retention, Store
from segue.steps.monitoring import drift_found
from segue.workspace import Workspace
from tests.migration.builders import SETTINGS, promote
from tests.migration.experiments import CONTENDER, INCUMBENT_ALONE
from tests.serving.store.builders import click, exposure

DATASET = "ml-100k"
DAY = 86_400.0


@pytest.fixture
def workspace(workspace_root: Path) -> Workspace:
    return Workspace(workspace_root)


@pytest.fixture
def store(workspace: Workspace) -> Store:
    path = workspace.state(DATASET) / "online.sqlite"
    return Store.at(path)


def begin(workspace: Workspace, *, pilot: bool = True, at: str = "2026-01-01T00:00:00+00:00") -> None:
    ledger = Ledger.open(workspace, DATASET)
    machine = StateMachine(ledger, SETTINGS, clock=lambda: at)
    machine.bootstrap(INCUMBENT_ALONE)
    if pilot:
        machine.advance(promote(Target.PILOT, CONTENDER), CONTENDER)
    ledger.close()


def asked(name: str, cursor: str | None = None) -> tuple[Any, str | None]:
    """What a sensor answers, and its cursor afterwards."""
    (sensor,) = [one for one in sensors_for(DATASET) if one.name == f"ml_100k__{name}"]
    with (
        dg.DagsterInstance.ephemeral() as instance,
        dg.build_sensor_context(instance, cursor=cursor) as context,
    ):
        answer = sensor(context)
        return answer, context.cursor


def test_an_experiment_is_evaluated_when_enough_was_shown(workspace: Workspace, store: Store) -> None:
    begin(workspace, pilot=False)
    store.log_exposures([exposure(f"e{number}") for number in range(100)])
    assert isinstance(asked("experiment")[0], dg.SkipReason)  # no experiment runs
    ledger = Ledger.open(workspace, DATASET)
    StateMachine(ledger, SETTINGS).advance(promote(Target.PILOT, CONTENDER), CONTENDER)
    ledger.close()
    first, cursor = asked("experiment")
    assert isinstance(first, dg.RunRequest)
    again, cursor = asked("experiment", cursor)
    assert isinstance(again, dg.SkipReason)
    store.log_exposures([exposure("one more")])
    assert isinstance(asked("experiment", cursor)[0], dg.SkipReason)  # 1 %, and a moment ago
    old = json.dumps(json.loads(cursor or "") | {"at": time.time() - 3601})
    assert isinstance(asked("experiment", old)[0], dg.RunRequest)  # but an hour is long enough
    store.post_feedback([click(f"f{number}", f"e{number}") for number in range(10)])
    more, _ = asked("experiment", cursor)
    assert isinstance(more, dg.RunRequest)
    assert more.run_key != first.run_key


def test_what_was_pruned_hides_nothing_that_is_new(workspace: Workspace, store: Store) -> None:
    begin(workspace)
    now = time.time()
    store.log_exposures([exposure(f"old {number}", shown_at=now - 9 * DAY) for number in range(90)])
    store.log_exposures([exposure(f"e{number}", shown_at=now) for number in range(10)])
    _, cursor = asked("experiment")
    store.prune(Retention(exposures=7.0))
    pruned, cursor = asked("experiment", cursor)
    assert isinstance(pruned, dg.SkipReason)
    store.log_exposures([exposure(f"new {number}", shown_at=now) for number in range(80)])
    answer, cursor = asked("experiment", cursor)
    assert isinstance(answer, dg.RunRequest)
    store.prune(Retention(exposures=0.0), now=now + 1)  # all: SQLite counts from 1 again
    store.log_exposures([exposure(f"newer {number}", shown_at=now) for number in range(5)])
    assert isinstance(asked("experiment", cursor)[0], dg.RunRequest)


def test_the_evaluation_measures_decides_and_applies() -> None:
    definitions = definitions_for([DATASET])
    job = definitions.resolve_job_def(evaluation_job_name(DATASET))
    assert set(job.asset_layer.executable_asset_keys) == {asset_key(DATASET, name) for name in EVALUATION}
    assert definitions.resolve_job_def(retrain_job_name(DATASET))


def drift_report(workspace: Workspace, verdict: str) -> None:
    folder = workspace.root / "made"
    folder.mkdir()
    write_json(folder / "drift.json", {"verdict": verdict, "reasons": ["items have changed"]})
    commit(
        folder, workspace.step(DATASET, "drift"), step="drift", dataset=DATASET, params_sha256="p", inputs={},
        code_version="c",
    )  # fmt: skip


@pytest.mark.parametrize("verdict", ["retrain", "keep", "new_codebook"])
def test_the_drift_report_asks_for_weights_that_were_kept(workspace: Workspace, verdict: str) -> None:
    begin(workspace)
    drift_report(workspace, verdict)
    write_base(workspace, DATASET, dict.fromkeys(KEEPABLE, "0" * 64))
    answer, _ = asked("drift")
    assert isinstance(answer, dg.RunRequest if verdict == "retrain" else dg.SkipReason)
    write_base(workspace, DATASET, dict.fromkeys(KEEPABLE))  # new weights were learned since
    assert isinstance(asked("drift")[0], dg.SkipReason)


def test_what_earns_less_than_it_did_asks_for_new_weights(workspace: Workspace, store: Store) -> None:
    began = 1_767_225_600.0  # 2026-01-01
    begin(workspace, pilot=False)
    for week, clicks in ((0, 5), (1, 2)):
        rows = [
            exposure(
                f"{week}-{number}", f"user {number}", arm="cascade", path="cascade", bundle="A", deployment=1,
                item_ids=[f"i{item}" for item in range(10)], sources=None, shown_at=began + (7 * week + 1) * DAY,
            )
            for number in range(1200)
        ]  # fmt: skip
        store.log_exposures(rows)
        store.post_feedback(
            [
                click(f"{one.exposure_id}-{item}", one.exposure_id, item_id=f"i{item}")
                for number, one in enumerate(rows)
                for item in range((number + week) % clicks)
            ]
        )
    early = drift_found(workspace, DATASET, now=began + 9 * DAY)
    assert early.key is None
    assert "too new to be compared" in early.told
    found = drift_found(workspace, DATASET, now=began + 15 * DAY)
    assert found.key == "performance-incumbent-1"
    assert "changed by -" in found.told
    answer, _ = asked("drift")
    assert isinstance(answer, dg.SkipReason)  # by today's clock the newest week is without anybody
