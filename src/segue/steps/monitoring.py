"""What a sensor asks: has the running experiment something new to show, and has anything drifted?"""

from __future__ import annotations

import time
from dataclasses import dataclass

from segue.artifacts import read_json, read_manifest
from segue.bases import read_base
from segue.errors import ArtifactError
from segue.migration.gates import WEIGHTS
from segue.migration.ledger import Ledger
from segue.migration.online_drift import newest_period, of_champion, performance_drift, served_since
from segue.migration.online_experiment import running_experiment
from segue.migration.state import State
from segue.params import load_params
from segue.serving.store import open_store, store_exists
from segue.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Traffic:
    """The revision that the running experiment was entered by; exposures and feedback that the store has ever taken.

    ``rows`` counts by sequence numbers: pruning does not lower it, unless nothing is left. On Postgres repeated rows count too.
    """

    entry: int
    rows: int


@dataclass(frozen=True, slots=True)
class Drift:
    """``key`` names what asks for a retrain, the same for the same reason; None: nothing does. ``told`` says why, or why not."""

    key: str | None
    told: str


def traffic(workspace: Workspace, dataset: str) -> Traffic | None:
    """None where no experiment runs or nothing was logged yet."""
    experiment = running_experiment(_state(workspace, dataset))
    if experiment is None or not store_exists(workspace, dataset):
        return None
    store = open_store(workspace, dataset)
    try:
        rows = store.newest_sequence("exposures") + store.newest_sequence("feedback")
    finally:
        store.close()
    return Traffic(experiment.entry, rows) if rows else None


def drift_found(workspace: Workspace, dataset: str, *, now: float | None = None) -> Drift:
    """The drift report's word on data, embeddings and codebook, then what the users say of the path that serves."""
    reported = _reported(workspace, dataset)
    if reported.key is not None:
        return reported
    performance = _performance(workspace, dataset, time.time() if now is None else now)
    if performance.key is not None:
        return performance
    return Drift(None, f"{reported.told}; {performance.told}")


def _reported(workspace: Workspace, dataset: str) -> Drift:
    folder = workspace.step(dataset, "drift")
    try:
        manifest = read_manifest(folder)
    except ArtifactError:
        return Drift(None, "there is no drift report yet")
    report = read_json(folder / "drift.json")
    assert isinstance(report, dict)
    told = f"the drift report says {report['verdict']} ({'; '.join(report['reasons'])})"
    if report["verdict"] != "retrain":  # a new codebook is another recipe, which a person adopts
        return Drift(None, told)
    if read_base(workspace, dataset)[WEIGHTS] is None:
        return Drift(None, f"{told}, and new weights were learned for it already")
    return Drift(f"drift-{manifest.content_sha256}", told)


def _performance(workspace: Workspace, dataset: str, now: float) -> Drift:
    settings = load_params(workspace, dataset).migration.online
    since = served_since(_state(workspace, dataset))
    period = None if since is None else newest_period(since, settings, now)
    if since is None or period is None or not store_exists(workspace, dataset):
        return Drift(None, "what serves is too new to be compared with its own past")
    store = open_store(workspace, dataset)
    try:
        deployments = {revision for revision, _ in since.served}
        reference, recent = (
            of_champion(store.user_sums(since=first, until=last, deployments=deployments).table, since)
            for first, last in (period.reference, period.recent)
        )
    finally:
        store.close()
    found = performance_drift(reference, recent, period, settings)
    return Drift(f"performance-{since.model}" if found.drifted else None, found.told)


def _state(workspace: Workspace, dataset: str) -> State:
    ledger = Ledger.open(workspace, dataset)
    try:
        return State.of(dataset, ledger.rows())
    finally:
        ledger.close()
