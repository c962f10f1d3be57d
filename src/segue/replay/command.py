"""``segue replay``: the running service, its store and a journal put together, and the verdict in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from segue.errors import StateError
from segue.migration.deployment import Deployment
from segue.migration.ledger import Ledger
from segue.params import Params
from segue.replay.events import ReplayEvents
from segue.replay.journal import JOURNAL_FILE, Journal
from segue.replay.run import Replay, Replayed
from segue.replay.verdict import Verdict, verdict
from segue.serving.store import open_store
from segue.traffic.client import Client
from segue.workspace import Workspace


def replay(
    workspace: Workspace,
    dataset: str,
    params: Params,
    client: Client,
    *,
    most: int | None = None,
    batch: int = 128,
    users_per_day: float = 1000.0,
    tell: Callable[[str], None] = print,
) -> tuple[Replayed, Verdict]:
    """Replay what is left of ``dataset``'s held-back users through ``client``; the journal is ``state/<dataset>/replay.jsonl``.

    Args:
        most: the first so many events of each user. users_per_day: for the power calculation.

    Raises StateError where the service follows no deployment of this data set, or was replayed into already.
    """
    scenario = _followed(client, workspace, dataset).scenario
    events = ReplayEvents.read(workspace.step(dataset, "splits"), most=most)
    store = open_store(workspace, dataset)
    try:
        identity = {
            "dataset": dataset,
            "online store": store.user_hash(
                "segue-replay"
            ),  # keyed by the store's secret: another store has another
            "snapshot of the splits": events.snapshot,
        }
        with Journal(workspace.state(dataset) / JOURNAL_FILE, identity) as journal:
            tell(
                f"{events.users} held-back users, {len(events)} events; {len(journal.posted)} were replayed before"
            )
            done = Replay(
                client,
                store,
                events,
                journal,
                dataset=dataset,
                scenario=scenario,
                batch=batch,
                progress=tell,
            ).run()
        found = verdict(workspace, dataset, params, store, users_per_day=users_per_day)
    finally:
        store.close()
    for line in described(done, found):
        tell(line)
    return done, found


def described(done: Replayed, found: Verdict) -> Iterator[str]:
    """For people, a line each."""
    yield f"replayed {done.events} events now, {done.total} in all, of {done.users} real users whom no model has seen"
    if done.scenario is not None:
        yield f"every list was asked for in the scenario {done.scenario!r}, to which the experiment is confined"
    if done.resumed:
        yield f"{done.resumed} lists of an interrupted run were not asked for again"
    for arm, hits in done.arms.items():
        yield (
            f"  {arm}: {hits.users} users, {hits.lists} lists, {hits.hits} held the next real event "
            f"({hits.rate:.1%}; a hit is no click: they saw other pages then)"
        )
    yield str(done.exposures)
    if found.decision is None:
        yield f"VERDICT: HOLD at stage {found.stage}: nothing was decided yet; run the graph"
    else:
        yield f"VERDICT: {found.decision.outcome} at stage {found.stage}, about {found.decision.target}:"
        yield from (f"  {reason}" for reason in found.decision.reasons[:4])
    yield from _power(found)


def _power(found: Verdict) -> Iterator[str]:
    if found.need is None:
        yield f"POWER ({found.policy}): {found.without}"
        return
    need = found.need
    said = (
        "more than a year"
        if need.entered is None
        else f"about {need.entered} users who enter, or {need.days} days"
    )
    yield (
        f"POWER: if the two are equally good, the policy {found.policy!r} takes {said} at {found.users_per_day:g} new users "
        f"a day (each requirement decided with probability {need.power:.0%}):"
    )
    for one in need.requirements:
        users = (
            "not within a year"
            if one.users is None
            else f"{one.users} users counted"
            if one.entered is None
            else f"{one.users} users counted, of {one.entered} who entered"
        )
        yield f"  {one.requirement}: {one.outcome}, {users}; {one.assumes}"


def _followed(client: Client, workspace: Workspace, dataset: str) -> Deployment:
    """The deployment of now. Raises StateError where the service does not follow this data set's deployment, or logs nothing."""
    health = client.health()
    if health.get("mode") != "following":
        raise StateError(
            f"the service follows no deployment: start it with SEGUE_DATASET={dataset} (`make serve`)"
        )
    if health.get("store") is None:
        raise StateError("the service has no online store: nothing it shows could be counted")
    ledger = Ledger.open(workspace, dataset)
    try:
        deployments = [revision.deployment for revision in ledger.revisions()]
    finally:
        ledger.close()
    known = {name for one in deployments for name in one.bundles}
    if foreign := sorted(set(health["bundles"]) - known):
        raise StateError(
            f"the service serves bundle {foreign[0][:12]}, which {dataset} never deployed: it follows another data set"
        )
    if not deployments:
        raise StateError(
            f"nothing is deployed for {dataset} yet: `segue run --dataset {dataset}` comes first"
        )
    return deployments[-1]
