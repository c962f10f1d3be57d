"""``segue simulate``: a whole migration under a planted truth, in a workspace of its own, with real processes."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from segue.artifacts import write_json
from segue.errors import StateError
from segue.migration.deployment import Arm
from segue.migration.ledger import Ledger
from segue.migration.policy import Status
from segue.migration.watch import Crossing
from segue.params import Params, load_params
from segue.reporting.migration_page import write_migration_page
from segue.reporting.migration_view import gather_view
from segue.schema import PathName
from segue.serving.faults import DELAY_VARIABLE
from segue.serving.routing import arm_for
from segue.serving.store import Store, open_store
from segue.serving.watching import Watch
from segue.simulation.gatekeeper import Gatekeeper
from segue.simulation.settings import SETTINGS_FILE, SimulationSettings, Truth, TruthName, load_settings
from segue.simulation.timeline import Timeline
from segue.simulation.traffic_loop import Traffic, TrafficLoop
from segue.simulation.users import Histories, draw_crowd
from segue.simulation.workspace import NAMED, REPORT_FILE, SimulationWorkspace, prepare
from segue.traffic.client import Client, HttpClient
from segue.traffic.exposure_count import Comparison
from segue.workspace import Workspace

ROLLBACK: Final = "rollback"

Serve = Callable[[SimulationWorkspace, dict[str, str], bool], AbstractContextManager[Client]]


@dataclass(frozen=True, slots=True)
class Simulated:
    """How a simulation ended. ``outcome``: the last stage, or ``rollback``.

    ``crossing``: of the guardrail that the watcher answered, where it did. ``page``: the migration page of the simulation.
    ``guardrail``: the metric by which it should have been rolled back.
    """

    name: str
    truth: TruthName
    seed: int
    outcome: str
    expected: str
    exposures: Comparison
    traffic: Traffic
    timeline: Timeline
    crossing: Crossing | None
    root: Path
    page: Path
    guardrail: str | None = None

    @property
    def as_planted(self) -> bool:
        if self.outcome != self.expected:
            return False
        return self.guardrail is None or self.guardrail in self.broken

    @property
    def broken(self) -> tuple[str, ...]:
        """The metrics of the guardrails that were broken at the crossing."""
        verdicts = () if self.crossing is None else self.crossing.decision.verdicts
        return tuple(
            one.requirement.metric
            for one in verdicts
            if one.requirement.guardrail and one.status is Status.FAILED
        )

    @property
    def to_rollback(self) -> float | None:
        """Seconds from the crossing (when the user was counted with whom the bound is crossed) to the ledger's row."""
        return None if self.crossing is None else self.crossing.seconds

    @property
    def to_served(self) -> float | None:
        """Seconds from the crossing to the first list that the client got under the restored revision."""
        if self.crossing is None or self.crossing.change.deployment is None:
            return None
        served = self.traffic.first_at.get(self.crossing.change.deployment.revision)
        return None if served is None else served - self.crossing.crossed_at


def simulate(
    workspace: Workspace,
    dataset: str,
    truth: TruthName,
    *,
    users: int | None = None,
    seed: int = 0,
    name: str | None = None,
    again: bool = False,
    tell: Callable[[str], None] = print,
    serve: Serve | None = None,
) -> Simulated:
    """Simulate ``truth`` for ``dataset``; the report lies in the simulation's root.

    Args:
        users: who come at most; default: what ``simulation.yaml`` says.
        again: put this simulation in the place of a finished one of its name.
        serve: gives the client of a service that runs in the simulation's workspace, with this environment, its lists
            asked for one by one where the last argument says so; default: ``bentoml serve`` on a free port.

    Raises ConfigurationError for settings that are wrong, ArtifactError where the dataset's graph has not run, StateError
    where a finished simulation has that name, or the watcher does not answer a crossed guardrail.
    """
    settings = load_settings(workspace.root / SETTINGS_FILE)
    planted = settings.truths[truth]
    own = prepare(workspace, dataset, settings, truth, seed, name, again=again)

    def say(text: str) -> None:
        tell(f"[SIMULATION {own.name}] {text}")

    timeline = Timeline(say)
    with _nothing_real_named():
        params = load_params(own.workspace, own.dataset)
        ledger = Ledger.open(own.workspace, own.dataset)
        stores: list[Store] = []

        def store() -> Store:
            if not stores:
                stores.append(open_store(own.workspace, own.dataset))
            return stores[0]

        try:
            gatekeeper = Gatekeeper(own, params.migration, ledger, store, timeline)
            gatekeeper.begin()
            environment = _environment(own, settings, planted)
            with (
                (serve or bento_server)(own, environment, planted.delay_ms > 0) as client,
                _watching(own) as crossings,
            ):
                loop = _loop(own, client, settings, planted, seed, users, gatekeeper)
                traffic = loop.run(gatekeeper, linger_seconds=_linger(params))
            exposures = traffic.exposures.compare(store())
            current = gatekeeper.current()
            found = Simulated(
                name=own.name,
                truth=truth,
                seed=seed,
                outcome=ROLLBACK if gatekeeper.rolled_back(current) else current.stage.value,
                expected=planted.expect,
                exposures=exposures,
                traffic=traffic,
                timeline=timeline,
                crossing=crossings[0] if crossings else None,
                root=own.root,
                page=_page(own, params),
                guardrail=planted.guardrail,
            )
        finally:
            for opened in stores:
                opened.close()
            ledger.close()
    _write(own, found, planted, settings)
    return found


@contextmanager
def bento_server(own: SimulationWorkspace, environment: dict[str, str], one_by_one: bool) -> Iterator[Client]:
    """The BentoML service in the simulation's workspace, on a free loopback port."""
    from segue.serving.check import server

    if not (own.real.root / "bento" / "service.py").is_file():
        raise StateError(
            f"{own.real.root} holds no bento/service.py: simulate inside a checkout, whose service is what is driven"
        )
    path = os.pathsep.join(filter(None, (str(own.real.root), os.environ.get("PYTHONPATH"))))
    with (
        server(
            "bento.service:Recommender",
            environment=environment | {"PYTHONPATH": path},
            log=own.root / "server.log",
            start_seconds=120,
            folder=own.real.root,
        ) as url,
        HttpClient(url, at_a_time=8 if one_by_one else 0) as client,
    ):
        yield client


def _environment(own: SimulationWorkspace, settings: SimulationSettings, planted: Truth) -> dict[str, str]:
    """Of the service: it follows the simulation's deployment and injects what is planted, and leaves watching to us."""
    found = own.environment() | {
        "SEGUE_WATCH": "",
        "SEGUE_POLL_SECONDS": str(settings.poll_seconds),
        DELAY_VARIABLE: "",
    }
    if planted.delay_ms > 0:
        found[DELAY_VARIABLE] = f"{PathName.GENERATIVE.value}={planted.delay_ms:g}"
    return found


def _loop(
    own: SimulationWorkspace,
    client: Client,
    settings: SimulationSettings,
    planted: Truth,
    seed: int,
    users: int | None,
    gatekeeper: Gatekeeper,
) -> TrafficLoop:
    population = settings.population
    histories = Histories.read(own.real.step(own.source, "splits"), population.history_length)

    def arm_of(user_id: str) -> Arm:
        return arm_for(gatekeeper.current(), user_id)

    return TrafficLoop(
        client,
        draw_crowd(population, users or planted.users or settings.users, histories.items, seed),
        histories,
        settings=settings,
        truth=planted,
        seed=seed,
        arm_of=arm_of,
        prefix=f"simulation:{own.dataset}"[:120],
    )


def _linger(params: Params) -> float:
    """Until the last user's window has closed."""
    online = params.migration.online
    return max(online.window_seconds + online.late_seconds, online.serving_window_seconds) + 1.0


@contextmanager
def _watching(own: SimulationWorkspace) -> Iterator[list[Crossing]]:
    """The watcher of ``segue watch``, in a thread of this process: neither the service nor the gates roll anything back."""
    crossings: list[Crossing] = []
    watch = Watch(own.workspace, own.dataset, told=crossings.append)
    silent = logging.NullHandler()  # what it logs would not say that it is a simulation's; the timeline does
    logging.getLogger("segue.watch").addHandler(silent)
    watch.start()
    try:
        yield crossings
    finally:
        watch.stop()
        logging.getLogger("segue.watch").removeHandler(silent)


def _page(own: SimulationWorkspace, params: Params) -> Path:
    """The migration page, which says that it is a simulation's. It is not put into MLflow, where real versions are."""
    view = gather_view(own.workspace, own.dataset, params)
    return write_migration_page(own.workspace.reports(own.dataset), view)


@contextmanager
def _nothing_real_named() -> Iterator[None]:
    """Within it, this process's environment names no real store, ledger or document."""
    before = {name: os.environ.pop(name) for name in NAMED if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)


def _write(own: SimulationWorkspace, found: Simulated, planted: Truth, settings: SimulationSettings) -> None:
    traffic = found.traffic
    report: dict[str, Any] = {
        "simulation": True,
        "says": "Simulated users of planted behaviour. Nothing in here is evidence about a real public.",
        "of": own.source,
        "dataset": own.dataset,
        "truth": found.truth.value,
        "planted": planted.model_dump(mode="json"),
        "seed": found.seed,
        "population": settings.population.model_dump(mode="json"),
        "outcome": found.outcome,
        "expected": found.expected,
        "guardrail": {"expected": found.guardrail, "broken": list(found.broken)},
        "as_planted": found.as_planted,
        "seconds": {"to_rollback": found.to_rollback, "to_served": found.to_served},
        "exposures": {
            "client": found.exposures.counted,
            "lost": found.exposures.lost,
            "by_arm": found.exposures.by_arm,
        },
        "users": len(traffic.users),
        "lost_users": len(traffic.lost_users),
        "lists": traffic.visits,
        "clicks": {
            "made": traffic.clicks,
            "reported": traffic.reported,
            "never_reported": traffic.unreported,
        },
        "timeline": found.timeline.as_json(),
    }
    write_json(own.root / REPORT_FILE, report)
