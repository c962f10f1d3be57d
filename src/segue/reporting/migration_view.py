"""Everything that the migration page shows, read from where it lies: ledger, decisions, evidence, looks, online store.

Nothing of it need be there: before the first run, without a server, or after a rollback the page says what will appear.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from segue.artifacts import read_json
from segue.errors import ArtifactError
from segue.migration.decide import DECISION_FILE, Decision, read_decision
from segue.migration.deployment import Deployment
from segue.migration.evidence import EVIDENCE_FILE, Evidence, read_evidence
from segue.migration.ledger import Ledger, Revision, Row
from segue.migration.looks import LOOKS_FILE, Look, read_looks
from segue.migration.settings import MigrationSettings
from segue.migration.state import State
from segue.params import Params
from segue.reporting.online_traffic import OnlineTraffic, read_traffic
from segue.schema import Stage
from segue.serving.store import open_store, store_exists
from segue.workspace import Workspace

SIMULATION_FILE: Final = "simulation.json"
GATES: Final = ("pilot", "hybrid", "full", "refresh")
_BEGINS: Final = ("canary", "override_pilot")


@dataclass(frozen=True, slots=True)
class Experiment:
    """The newest experiment: from the revision that began it to the one that ended it, if any."""

    begun: Revision
    ended: Revision | None


@dataclass(frozen=True, kw_only=True)
class MigrationView:
    """``check``: of the serving check; ``simulation``: set where the workspace is a simulation's."""

    dataset: str
    title: str
    settings: MigrationSettings
    state: State
    rows: Sequence[Row] = ()
    decisions: Mapping[str, Decision] = field(default_factory=dict)
    evidence: Sequence[Evidence] = ()
    looks: Sequence[Look] = ()
    traffic: OnlineTraffic | None = None
    check: Mapping[str, Any] | None = None
    simulation: Mapping[str, Any] | None = None

    @property
    def deployment(self) -> Deployment | None:
        return self.state.current

    @property
    def experiment(self) -> Experiment | None:
        return newest_experiment(self.state.revisions)

    def online(self) -> list[Evidence]:
        return [item for item in self.evidence if item.kind == "online"]


def gather_view(workspace: Workspace, dataset: str, params: Params) -> MigrationView:
    """Raises ArtifactError where a file is damaged, StateError where the ledger was tampered with."""
    data, state_folder = workspace.data(dataset), workspace.state(dataset)
    ledger = Ledger.open(workspace, dataset)
    try:
        ledger.verify()
        rows = ledger.rows()
    finally:
        ledger.close()
    state = State.of(dataset, rows)
    check_file = data / "serving_check" / "check.json"
    experiment = newest_experiment(state.revisions)
    return MigrationView(
        dataset=dataset,
        title=params.data.title or dataset,
        settings=params.migration,
        rows=rows,
        state=state,
        decisions=_decisions(data, state),
        evidence=[
            item
            for step in ("offline_evaluation", "refit_check", "serving_check", "online_evidence")
            if (data / step / EVIDENCE_FILE).is_file()
            for item in read_evidence(data / step / EVIDENCE_FILE)
        ],
        looks=read_looks(looks_file(workspace, dataset)),
        traffic=_traffic(workspace, dataset, experiment),
        check=_mapping(check_file) if check_file.is_file() else None,
        simulation=(
            _mapping(state_folder / SIMULATION_FILE) if (state_folder / SIMULATION_FILE).is_file() else None
        ),
    )


def looks_file(workspace: Workspace, dataset: str) -> Path:
    """Where earlier looks at the online evidence are kept."""
    return workspace.state(dataset) / "online" / LOOKS_FILE


def newest_experiment(revisions: Sequence[Revision]) -> Experiment | None:
    """The experiment that runs, or the one that ran last; None where there never was one.

    It begins where the cascade ceases to serve everybody, or with a canary, and ends where the stage is the cascade's again
    (for a canary: where its arm is gone).
    """
    begun: Revision | None = None
    ended: Revision | None = None
    canary = False
    before = Stage.CASCADE
    for revision in revisions:
        document = revision.deployment
        starts = (
            before is Stage.CASCADE and document.stage is not Stage.CASCADE
        ) or revision.event in _BEGINS
        if starts:
            begun, ended, canary = revision, None, document.canary is not None
        elif begun is not None and ended is None:
            over = document.canary is None if canary else document.stage is Stage.CASCADE
            ended = revision if over else None
        before = document.stage
    return None if begun is None else Experiment(begun, ended)


def _decisions(data: Path, state: State) -> dict[str, Decision]:
    """By target, the newer of the decision's step and the ledger, which also knows what a watcher decided."""
    found: dict[str, Decision] = {}
    for decision in state.decisions.values():
        found[decision.target.value] = decision
    for gate in GATES:
        path = data / f"{gate}_decision" / DECISION_FILE
        if not path.is_file():
            continue
        decision = read_decision(path)
        recorded = found.get(decision.target.value)
        if recorded is None or (decision.as_of or "") >= (recorded.as_of or ""):
            found[decision.target.value] = decision
    return found


def _traffic(workspace: Workspace, dataset: str, experiment: Experiment | None) -> OnlineTraffic | None:
    if not store_exists(workspace, dataset):
        return None
    since = None if experiment is None else datetime.fromisoformat(experiment.begun.deployment.at)
    store = open_store(workspace, dataset)
    try:
        return read_traffic(store, since=since) or read_traffic(store)
    finally:
        store.close()


def _mapping(path: Path) -> dict[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict):
        raise ArtifactError(f"{path} must hold a JSON object")
    return value
