"""A ledger's changes reach a running service within a second, whole or not at all."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from segue.migration.decide import Target
from segue.migration.deployment import CURRENT_FILE, Deployment
from segue.migration.gates import read_facts
from segue.migration.ledger import Ledger
from segue.migration.settings import MigrationSettings
from segue.migration.state_machine import StateMachine
from segue.registry.bundle import publish
from segue.schema import PathName
from segue.serving.requests import Answer, RecommendRequest
from segue.serving.service import Service
from segue.workspace import Workspace
from tests.migration.builders import SETTINGS, promote
from tests.serving.worlds import USERS

NAMES = [f"u{number:02d}" for number in range(USERS)]
# Half of the users are treated, so that most batches hold several arms.
RULES = MigrationSettings.model_validate(
    {
        **SETTINGS.model_dump(),
        "pilot_share": 0.5,
        "hybrid_share": 0.7,
        "interleaved_share": 0.2,
        "hybrid_path": "generative",
        "holdback_share": 0.25,
    }
)


@pytest.fixture
def workspace(tmp_path: Path, world: Path, full: Path, incumbent_only: Path) -> Workspace:
    found = Workspace(tmp_path)
    for bundle in (full, incumbent_only):
        publish(bundle, found.bundles("tiny"))
    found.data("tiny").mkdir(parents=True)
    found.step("tiny", "splits").symlink_to(world / "splits")
    return found


@pytest.fixture
def moves(workspace: Workspace, incumbent_only: Path) -> Iterator[StateMachine]:
    ledger = Ledger.open(workspace, "tiny")
    made = StateMachine(ledger, RULES)
    made.bootstrap(read_facts(incumbent_only))
    assert (workspace.state("tiny") / "deployment" / CURRENT_FILE).is_file()
    yield made
    ledger.close()


@pytest.fixture
def service(workspace: Workspace, moves: StateMachine) -> Iterator[Service]:
    made = Service.following(workspace, "tiny", poll_seconds=0.1)
    yield made
    made.close()


class Callers:
    """Threads that ask for batches as fast as they can, and keep every answer's origin."""

    def __init__(self, service: Service, number: int = 2) -> None:
        self.service = service
        self.batches: list[list[list[Answer]]] = [[] for _ in range(number)]
        self.failures: list[BaseException] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(one,)) for one in self.batches]

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=60)

    def _call(self, kept: list[list[Answer]]) -> None:
        requests = [RecommendRequest(user_id=user, k=3) for user in NAMES[:16]]
        try:
            while not self._stop.wait(0.005):
                kept.append(self.service.recommend_batch(requests, expose=False))
        except BaseException as error:  # noqa: BLE001  # told to the test, which has another thread
            self.failures.append(error)


def until_served(service: Service, revision: int) -> float:
    """Seconds until the service answers at ``revision``."""
    began = time.perf_counter()
    while service.recommend(RecommendRequest(user_id="u00", k=1, path="popularity")).deployment != revision:
        assert time.perf_counter() - began < 30, f"revision {revision} was never served"
        time.sleep(0.005)
    return time.perf_counter() - began


def test_every_change_is_served_within_a_second_and_never_in_part(
    service: Service, moves: StateMachine, full: Path, incumbent_only: Path
) -> None:
    contender = read_facts(full)
    # The tiny bundles were made apart; to the state machine their incumbents are one.
    contender = contender.model_copy(update={"incumbent_id": read_facts(incumbent_only).incumbent_id})
    waits = []

    def changed(change: object) -> None:
        document = getattr(change, "deployment", None)
        assert isinstance(document, Deployment)
        waits.append(until_served(service, document.revision))

    with Callers(service) as callers:
        changed(moves.advance(promote(Target.PILOT, contender), contender))  # loads the bundle
        waits.clear()
        for round_ in range(3):
            changed(moves.rollback(actor="ann", reason="worse", to=1))
            changed(moves.override(contender, Target.PILOT, actor="ann", reason=f"again {round_}"))
            changed(moves.override(contender, Target.HYBRID, actor="ann", reason=f"{round_}"))
    assert callers.failures == []
    # Nine changes, looked at every 0.1 s. The median, because other work shares the machine.
    assert statistics.median(waits) < 1.0

    documents = {one.deployment.revision: one.deployment for one in moves.state.revisions}
    seen = set()
    for batches in callers.batches:
        newest = 0
        for batch in batches:
            (revision,) = {answer.deployment for answer in batch}  # a batch keeps what it began with
            assert revision is not None
            assert revision >= newest  # and nobody goes back behind a rollback
            newest = revision
            seen.add(revision)
            arms = {arm.name: arm for arm in documents[revision].arms}
            for answer in batch:
                arm = arms[str(answer.arm)]
                assert answer.bundle == arm.bundle
                assert answer.fallback is not None or answer.path == arm.path.value
    assert len(seen) > 5
    assert {"holdback", "interleaved", "control", "treatment"} <= {
        answer.arm for batches in callers.batches for batch in batches for answer in batch
    }


def test_a_pilot_of_one_scenario_is_served_to_its_requests_alone(
    workspace: Workspace, moves: StateMachine, service: Service, full: Path, incumbent_only: Path
) -> None:
    confined = {
        "pilot_share": 0.9,
        "interleaved_share": 0.0,
        "holdback_share": 0.0,
        "scenarios": ["basket"],
        "scenario": "basket",
    }
    rules = MigrationSettings.model_validate({**RULES.model_dump(), **confined})
    contender = read_facts(full).model_copy(update={"incumbent_id": read_facts(incumbent_only).incumbent_id})
    change = StateMachine(moves.ledger, rules).advance(promote(Target.PILOT, contender), contender)
    assert change.deployment is not None
    until_served(service, change.deployment.revision)

    def served(context: dict[str, str]) -> set[tuple[str | None, str]]:
        requests = [RecommendRequest(user_id=user, k=3, context=context) for user in NAMES]
        return {(answer.arm, answer.path) for answer in service.recommend_batch(requests)}

    treated = ("treatment", PathName.GENERATIVE.value)
    assert treated in served({"scenario": "basket"})
    assert served({"scenario": "homepage"}) == served({}) == {("outside", PathName.CASCADE.value)}
    store = service._store
    assert store is not None
    assert store.store is not None
    logged = {row["arm"] for row in store.store.exposures()}
    assert logged == {"control", "treatment", "outside"}  # logged, and in no arm's figures
