"""``make migrate-demo``: the real service and an honest replay, then simulations of planted truths, and the pages."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from segue.artifacts import read_manifest
from segue.errors import StateError
from segue.migration.ledger import Ledger
from segue.params import load_params
from segue.replay.command import replay
from segue.serving.check import server
from segue.serving.readable import require_readable
from segue.simulation.settings import TruthName
from segue.simulation.signals import ended_by_sigterm
from segue.simulation.simulate import Simulated, simulate
from segue.simulation.telling import summary, verdict_of
from segue.simulation.workspace import STEPS
from segue.steps.migration_report import report_migration
from segue.traffic.client import HttpClient
from segue.workspace import Workspace


def migrate_demo(
    workspace: Workspace,
    dataset: str,
    truths: Sequence[TruthName],
    *,
    events: int,
    seed: int = 0,
    tell: Callable[[str], None] = print,
) -> list[str]:
    """Run all of it; what went otherwise than it must, in words. Every process that it starts ends with it, also on
    SIGINT and SIGTERM.

    Raises StateError or ArtifactError, before anything is started, where nothing is deployed, an artifact that the demo reads
    is missing, or the model cannot be loaded.
    """
    _require_run(workspace, dataset)
    started = time.monotonic()
    failures: list[str] = []
    with ended_by_sigterm():
        tell(f"== {dataset}: the service as it is deployed, and its held-back users' real events ==")
        failures += _replayed(workspace, dataset, events, tell)
        found = []
        for truth in truths:
            tell("")
            tell(f"== SIMULATION: the contender is {truth} (planted; says nothing about a real public) ==")
            one = simulate(workspace, dataset, truth, seed=seed, again=True, tell=tell)
            for line in summary(one):
                tell(line)
            found.append(one)
            if (wrong := verdict_of(one)) is not None:
                failures.append(wrong)
        tell("")
        for line in _table(found):
            tell(line)
        for page in _pages(workspace, dataset, found):
            tell(page)
    tell(f"{time.monotonic() - started:.0f} s in all")
    return failures


def _require_run(workspace: Workspace, dataset: str) -> None:
    ledger = Ledger.open(workspace, dataset)
    try:
        deployed = ledger.current() is not None
    finally:
        ledger.close()
    if not deployed:
        raise StateError(
            f"nothing is deployed for {dataset} yet: `segue run --dataset {dataset}` comes first"
        )
    for step in (*STEPS, "splits"):
        read_manifest(workspace.step(dataset, step), remedy=f"run `segue run --dataset {dataset}`")
    require_readable(workspace.step(dataset, "bundle"))


def _replayed(workspace: Workspace, dataset: str, events: int, tell: Callable[[str], None]) -> list[str]:
    params = load_params(workspace, dataset)
    log = workspace.reports(dataset) / "migrate-demo.log"
    with (
        server(
            "bento.service:Recommender",
            environment={"SEGUE_ROOT": str(workspace.root), "SEGUE_DATASET": dataset},
            log=log,
            start_seconds=params.serving.check_start_seconds,
            folder=workspace.root,
        ) as url,
        HttpClient(url) as client,
    ):
        tell(f"serving at {url}")
        done, _ = replay(workspace, dataset, params, client, most=events, tell=tell)
    return [f"replay: {done.exposures.lost} exposures were lost"] if done.exposures.lost else []


def _table(found: Sequence[Simulated]) -> Iterator[str]:
    yield "SIMULATION   planted   ended at   as planted   lists    lost   crossing to ledger   to the first restored list"
    for one in found:
        to_ledger = "-" if one.to_rollback is None else f"{one.to_rollback:.2f} s"
        to_served = "-" if one.to_served is None else f"{one.to_served:.2f} s"
        yield (
            f"SIMULATION   {one.truth:8}  {one.outcome:9}  {'yes' if one.as_planted else 'NO':11}"
            f"  {one.traffic.visits:6d}  {one.exposures.lost:5d}   {to_ledger:18}   {to_served}"
        )


def _pages(workspace: Workspace, dataset: str, found: Sequence[Simulated]) -> Iterator[str]:
    yield f"page       {report_migration(workspace, dataset, load_params(workspace, dataset))}"
    for one in found:
        yield f"SIMULATION {one.page}"
