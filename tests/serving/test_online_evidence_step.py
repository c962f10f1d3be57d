"""The step ``online_evidence`` over real bundles, a ledger and a store, up to the gate that reads it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segue.artifacts import commit, hash_files, read_json
from segue.errors import StateError
from segue.migration.decide import Outcome, Target
from segue.migration.evidence import Evidence, read_evidence
from segue.migration.gates import gate, read_facts
from segue.migration.ledger import Ledger
from segue.migration.state_machine import StateMachine
from segue.params import load_params
from segue.registry.bundle import publish
from segue.serving.store import Store, tables
from segue.steps.runner import Outcome as StepOutcome
from segue.steps.runner import run_step
from segue.workspace import Workspace
from tests.migration.builders import promote
from tests.serving.store.builders import click, exposure

DATASET = "ml-100k"
AT_ONCE = [
    "migration.online={window_seconds: 0.0, late_seconds: 0.0, serving_window_seconds: 0.0}",
    "migration.pilot_share=0.5",
]


@pytest.fixture
def workspace(workspace_root: Path, full: Path, incumbent_only: Path) -> Workspace:
    """The contender's bundle is this run's; the incumbent alone serves."""
    found = Workspace(workspace_root)
    for folder in (full, incumbent_only):
        publish(folder, found.bundles(DATASET))
    made = found.root / "made"
    made.mkdir()
    for path in full.iterdir():
        if path.name != "manifest.json":
            (made / path.name).symlink_to(path)
    found.data(DATASET).mkdir(parents=True)
    commit(
        made, found.step(DATASET, "bundle"), step="bundle", dataset=DATASET, params_sha256="p", inputs={},
        code_version="c",
    )  # fmt: skip
    assert hash_files(found.step(DATASET, "bundle"))
    with_machine(found, lambda machine: machine.bootstrap(read_facts(incumbent_only)))
    return found


def with_machine(workspace: Workspace, event: Callable[[StateMachine], Any]) -> None:
    ledger = Ledger.open(workspace, DATASET)
    event(StateMachine(ledger, load_params(workspace, DATASET, AT_ONCE).migration))
    ledger.close()


def enter_pilot(workspace: Workspace, full: Path) -> None:
    facts = read_facts(full)
    with_machine(workspace, lambda machine: machine.advance(promote(Target.PILOT, facts), facts))


def show(workspace: Workspace, bundle: str, users: int, *, start: int = 0, clicks: dict[str, int]) -> None:
    """``users`` for each arm of revision 2; of the first so many in a hundred each clicks one of two items."""
    store = Store.at(workspace.state(DATASET) / "online.sqlite")
    rows = [
        exposure(
            f"{arm}-{number}", f"{arm} {number}", arm=arm, bundle=bundle, deployment=2, sources=None,
            item_ids=["i001", "i002"], shown_at=time.time() - 1 - number / 1e6,
        )
        for number in range(start, start + users)
        for arm in clicks
    ]  # fmt: skip
    store.log_exposures(rows)
    # Feedback counts that has arrived when the window closes: here, with the list itself.
    with store._database.write() as connection:
        answers = [
            click(f"f-{one.exposure_id}", one.exposure_id)
            for one in rows
            if int(one.exposure_id.split("-")[1]) % 100 < clicks[one.arm or ""]
        ]
        times = {one.exposure_id: one.shown_at for one in rows}
        connection.execute(
            tables.feedback.insert(),
            [
                {
                    "feedback_id": one.feedback_id, "exposure_id": one.exposure_id, "user_hash": None,
                    "item_id": one.item_id, "kind": "click", "value": None,
                    "happened_at": times[str(one.exposure_id)], "received_at": times[str(one.exposure_id)] - 0.001,
                }
                for one in answers
            ],
        )  # fmt: skip
    store.close()


def measure(workspace: Workspace) -> tuple[StepOutcome, list[Evidence]]:
    done = run_step(workspace, DATASET, "online_evidence", load_params(workspace, DATASET, AT_ONCE))
    return done, read_evidence(workspace.step(DATASET, "online_evidence") / "evidence.json")


def test_without_an_experiment_there_is_no_evidence_and_the_gate_holds(
    workspace: Workspace, full: Path
) -> None:
    done, evidence = measure(workspace)
    assert (done.status, evidence) == ("ran", [])
    assert measure(workspace)[0].status == "no_change"
    decision = gate(Target.HYBRID, evidence, read_facts(full), load_params(workspace, DATASET).migration)
    assert decision.outcome is Outcome.HOLD
    assert any("missing; there is no online evidence" in reason for reason in decision.reasons)
    enter_pilot(workspace, full)
    done, evidence = measure(workspace)
    assert evidence == []  # nobody has come yet,
    assert done.status == "no_change"  # so the run after one that promoted has nothing to decide anew


def test_what_users_did_becomes_evidence_once_and_again_when_more_come(
    workspace: Workspace, full: Path
) -> None:
    enter_pilot(workspace, full)
    facts = read_facts(full)
    show(workspace, facts.bundle_id, 700, clicks={"control": 20, "treatment": 30})
    done, evidence = measure(workspace)
    assert done.record["metrics"]["users/treatment"] == 700
    assert {item.recipe_a for item in evidence} == {facts.recipe}
    assert {item.dataset for item in evidence} == {DATASET}
    (ctr,) = [item for item in evidence if item.metric == "ctr" and item.is_difference]
    assert ctr.estimate == pytest.approx((30 - 20) / 100 / 2)
    assert (ctr.n, ctr.path_a, ctr.path_b) == (1400, "generative", "cascade")
    (unknown,) = [
        item
        for item in evidence
        if (item.metric, item.path_a, item.path_b) == ("invalid_rate", "generative", None)
    ]
    assert unknown.estimate == 0.0  # the items are those of the bundle
    told: Any = read_json(workspace.step(DATASET, "online_evidence") / "experiment.json")
    assert told["users"]["treatment"] == {
        "assigned": 700, "counted_by_feedback": 700, "counted_by_serving": 700,
    }  # fmt: skip
    # Whichever engine looks again finds it done; more users are more evidence.
    assert measure(workspace)[0].status == "no_change"
    show(workspace, facts.bundle_id, 100, start=700, clicks={"control": 20, "treatment": 30})
    again, more = measure(workspace)
    assert again.status == "ran"
    assert max(item.n for item in more) == 1600


def test_another_bundles_lists_are_nobodys_evidence(workspace: Workspace, full: Path) -> None:
    """Another dataset's or recipe's lists in one store, under the same revision number."""
    enter_pilot(workspace, full)
    show(workspace, "f" * 64, 600, clicks={"control": 0, "treatment": 100})
    assert measure(workspace)[1] == []


def test_a_ledger_that_was_changed_is_no_source(workspace: Workspace, full: Path) -> None:
    import sqlite3

    enter_pilot(workspace, full)
    with sqlite3.connect(workspace.state(DATASET) / "ledger.db") as connection:
        connection.execute(
            "UPDATE segue_ledger SET payload = replace(payload, 'treatment', 'control') WHERE revision = 2"
        )
    connection.close()
    with pytest.raises(StateError, match="its content was changed"):
        measure(workspace)
