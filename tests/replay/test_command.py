"""The verdict of a replay, and what is refused before it begins. The service, store and ledger are real."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from segue.errors import StateError
from segue.migration.decide import Outcome, Target
from segue.migration.gates import gate, gather, read_facts
from segue.migration.ledger import Ledger
from segue.migration.online_experiment import running_experiment
from segue.migration.state import State
from segue.migration.state_machine import StateMachine
from segue.params import Params, load_params
from segue.registry.bundle import publish
from segue.replay.command import described, replay
from segue.replay.verdict import needed, observed
from segue.serving.service import Service
from segue.serving.store import open_store
from segue.serving.watching import StoreReader
from segue.traffic.client import ServiceClient
from segue.workspace import Workspace
from tests.serving.conftest import full, full_id, incumbent_only, world
from tests.serving.worlds import EVENTS
from tests.simulation.conftest import DATASET
from tests.simulation.conftest import workspace as deployed_workspace

__all__ = ["deployed_workspace", "full", "full_id", "incumbent_only", "world"]

PILOT = (
    "migration.pilot={requirements: [{metric: invalid_rate, kind: serving, direction: at_most, margin: 0.0}]}"
)

# One requirement, so that its power is soon calculated; the linter is not asked here.
HYBRID = "migration.hybrid={requirements: [{metric: ctr, kind: online, against: cascade, direction: at_least, margin: -0.005}]}"


SCENARIO = ["migration.scenarios=[homepage, basket]", "migration.scenario=basket"]


@pytest.fixture
def params(deployed_workspace: Workspace, request: pytest.FixtureRequest) -> Params:
    further = getattr(request, "param", [])
    return load_params(deployed_workspace, DATASET, [PILOT, HYBRID, "migration.pilot_share=0.5", *further])


@pytest.fixture
def pilot(deployed_workspace: Workspace, params: Params) -> Iterator[Service]:
    """A service that follows a pilot which its own gate admitted."""
    found = deployed_workspace
    for step in ("incumbent_bundle", "bundle"):
        publish(found.step(DATASET, step), found.bundles(DATASET))
    ledger = Ledger.open(found, DATASET)
    machine = StateMachine(ledger, params.migration)
    machine.bootstrap(read_facts(found.step(DATASET, "incumbent_bundle")))
    facts = read_facts(found.step(DATASET, "bundle"))
    evidence = gather([found.step(DATASET, "serving_check")], DATASET)
    decision = gate(Target.PILOT, evidence, facts, params.migration)
    assert machine.advance(decision, facts).changed
    ledger.close()
    service = Service.following(found, DATASET, environment={}, poll_seconds=0.05)
    yield service
    service.close()


def test_three_users_decide_nothing_and_the_verdict_says_what_would(
    deployed_workspace: Workspace, params: Params, pilot: Service
) -> None:
    lines: list[str] = []
    before = len(_rows(deployed_workspace))
    done, found = replay(deployed_workspace, DATASET, params, ServiceClient(pilot), tell=lines.append)
    assert done.total == 3 * EVENTS
    assert found.decision is not None
    assert (found.stage, found.decision.target, found.decision.outcome) == (
        "pilot",
        Target.HYBRID,
        Outcome.HOLD,
    )
    assert found.need is not None
    assert found.need.entered is not None
    assert found.need.entered > 3
    text = "\n".join(lines)
    assert "VERDICT: HOLD at stage pilot, about hybrid" in text
    assert f"about {found.need.entered} users" in text
    assert "0 lost exposures" in text
    assert "SIMULATION" not in text
    assert len(_rows(deployed_workspace)) == before  # a verdict is words: nothing is recorded or applied


@pytest.mark.parametrize("params", [SCENARIO], indirect=True)
def test_a_pilot_of_one_scenario_is_replayed_in_it(
    deployed_workspace: Workspace, params: Params, pilot: Service
) -> None:
    lines: list[str] = []
    done, _ = replay(
        deployed_workspace,
        DATASET,
        params,
        ServiceClient(pilot),
        most=2,
        users_per_day=1e5,
        tell=lines.append,
    )
    assert done.arms
    assert "outside" not in done.arms
    assert "every list was asked for in the scenario 'basket'" in "\n".join(lines)


def test_replayed_users_are_no_evidence_on_the_running_experiment(
    deployed_workspace: Workspace, params: Params, pilot: Service
) -> None:
    replay(deployed_workspace, DATASET, params, ServiceClient(pilot), tell=lambda _: None)
    ledger, store = Ledger.open(deployed_workspace, DATASET), open_store(deployed_workspace, DATASET)
    experiment = running_experiment(State.of(DATASET, ledger.rows()))
    assert experiment is not None
    online, later = params.migration.online, time.time() + 1e7
    # What the step and the sensors read, what the watcher reads, and what the replay's own verdict reads.
    for found in (
        store.online_users(experiment, online, now=later),
        StoreReader(store, experiment, online).users(later),
    ):
        assert (found.feedback.height, found.serving.height, dict(found.assigned)) == (0, 0, {})
        assert (found.feedback_rows, found.last_exposed_at) == (0, None)
    own = store.online_users(experiment, online, now=later, replayed=True)
    assert (own.feedback.height, sum(own.assigned.values())) == (3, 3)
    store.close()
    ledger.close()


def test_a_service_of_another_data_set_is_refused(
    deployed_workspace: Workspace, params: Params, pilot: Service
) -> None:
    class Foreign(ServiceClient):
        def health(self) -> dict[str, Any]:
            return super().health() | {"bundles": {"f" * 64: ["cascade"]}}

    with pytest.raises(StateError, match="follows another data set"):
        replay(deployed_workspace, DATASET, params, Foreign(pilot), tell=lambda _: None)


@pytest.mark.parametrize(
    ("health", "message"),
    [({"mode": "baked"}, "follows no deployment"), ({"store": None}, "no online store")],
)
def test_a_service_that_cannot_be_counted_is_refused(
    deployed_workspace: Workspace, params: Params, pilot: Service, health: dict[str, Any], message: str
) -> None:
    class Lacking(ServiceClient):
        def health(self) -> dict[str, Any]:
            return super().health() | health

    with pytest.raises(StateError, match=message):
        replay(deployed_workspace, DATASET, params, Lacking(pilot), tell=lambda _: None)


def test_power_without_a_single_click_says_so(params: Params) -> None:
    policy = params.migration.hybrid
    assert needed(policy, params.migration, Target.HYBRID, 100.0, {}, {"fallback_rate": 0.0}) == (
        None,
        "nobody clicked, so how much one user's CTR varies is not known",
    )
    assert needed(params.migration.pilot, params.migration, Target.PILOT, 100.0, {}, {})[0] is None


def test_the_spread_of_one_user_is_what_the_store_s_users_show(
    deployed_workspace: Workspace, params: Params, pilot: Service
) -> None:
    """Against the sum over users, written out."""
    done, found = replay(deployed_workspace, DATASET, params, ServiceClient(pilot), tell=lambda _: None)
    store = open_store(deployed_workspace, DATASET)
    rows = store.user_sums(replayed=True).table.to_dicts()
    sd, expected = observed(store)
    store.close()
    clicks, shown = (sum(row[name] for row in rows) for name in ("clicks", "impressions"))
    rate, mean = clicks / shown, shown / len(rows)
    each = [(row["clicks"] - rate * row["impressions"]) / mean for row in rows]
    assert sd["ctr"] == pytest.approx((sum(one**2 for one in each) / (len(rows) - 1)) ** 0.5)
    assert expected == {"fallback_rate": 0.0}
    assert list(described(done, found))
    assert found.need is not None
    lines = list(described(done, found))
    for one in found.need.requirements:  # who is counted is fewer than who enters, and both are said
        if one.users is not None and one.entered is not None:
            assert any(f"{one.users} users counted, of {one.entered} who entered" in line for line in lines)
    if found.need.entered is not None:
        assert any(f"about {found.need.entered} users who enter" in line for line in lines)
    assert any(one.entered is not None for one in found.need.requirements)


def _rows(workspace: Workspace) -> list[Any]:
    ledger = Ledger.open(workspace, DATASET)
    try:
        return list(ledger.rows())
    finally:
        ledger.close()


def test_without_splits_the_step_is_named(
    deployed_workspace: Workspace, params: Params, pilot: Service
) -> None:
    from segue.errors import ArtifactError

    shutil.rmtree(deployed_workspace.step(DATASET, "splits"))
    with pytest.raises(ArtifactError, match="run the step splits first"):
        replay(deployed_workspace, DATASET, params, ServiceClient(pilot), tell=lambda _: None)


def test_the_journal_lies_in_the_data_set_s_state(
    deployed_workspace: Workspace, params: Params, pilot: Service, tmp_path: Path
) -> None:
    replay(deployed_workspace, DATASET, params, ServiceClient(pilot), most=1, tell=lambda _: None)
    text = (deployed_workspace.state(DATASET) / "replay.jsonl").read_text()
    assert not any(f'"{user}"' in text for user in ("u27", "u28", "u29"))  # users stand in it by their hash


def test_users_who_are_held_back_lengthen_the_verdict_s_wait(params: Params) -> None:
    """The verdict's POWER goes by the deployment's arms, not by treatment and control alone."""

    def entered(holdback: float) -> int:
        settings = params.migration.model_copy(update={"holdback_share": holdback})
        need, why = needed(settings.hybrid, settings, Target.HYBRID, 1e5, {"ctr": 0.1}, {})
        assert need is not None, why
        assert need.entered is not None
        return need.entered

    assert entered(0.4) == pytest.approx(entered(0.0) / 0.6, rel=0.08)
