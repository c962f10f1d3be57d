"""Whole simulations in small: planted truths come out, by the real gates, service, store and watcher; nothing real is touched."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from segue.canonical import sha256_of_file
from segue.errors import ArtifactError, ConfigurationError, StateError
from segue.migration.gates import read_facts
from segue.migration.ledger import Ledger
from segue.migration.policy import lint_policies
from segue.migration.state_machine import StateMachine
from segue.params import load_params
from segue.schema import PathName
from segue.serving.store import Store
from segue.simulation.settings import TruthName, load_settings
from segue.simulation.simulate import ROLLBACK, Simulated, simulate
from segue.simulation.telling import summary, verdict_of
from segue.simulation.workspace import prepare
from segue.workspace import Workspace
from tests.serving.worlds import as_an_earlier_version_wrote
from tests.simulation.conftest import DATASET, in_process

# Few visits and short windows: what is tested is the whole chain, not the power.
FAST = {
    "visits_mean": 0.5,
    "arrivals_per_second": 2000.0,
    "visit_gap_seconds": 0.02,
    "feedback_delay_seconds": 0.02,
}
WINDOWS = {"window_seconds": 1.0, "late_seconds": 1.0, "serving_window_seconds": 0.3}


@pytest.fixture
def fast(workspace: Workspace, declare: Callable[..., None]) -> Workspace:
    overrides = load_settings(workspace.root / "simulation.yaml").overrides
    overrides["migration"]["online"] = WINDOWS
    declare(population=FAST, overrides=overrides, look_every_seconds=0.5, call_seconds=0.5)
    return workspace


def run(workspace: Workspace, truth: TruthName, users: int, lines: list[str] | None = None) -> Simulated:
    told = [] if lines is None else lines
    return simulate(workspace, DATASET, truth, users=users, seed=1, tell=told.append, serve=in_process)


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): sha256_of_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "simulations" not in path.relative_to(folder).parts
    }


def test_a_contender_that_is_planted_worse_is_rolled_back_by_the_watcher_alone(
    fast: Workspace, declare: Callable[..., None]
) -> None:
    declare(truths={"worse": {"attractiveness": -0.9, "expect": "rollback"}})
    lines: list[str] = []
    found = run(fast, TruthName.WORSE, 4000, lines)
    assert (found.outcome, found.as_planted) == (ROLLBACK, True)
    assert found.exposures.lost == 0
    assert found.exposures.counted == found.traffic.visits
    assert verdict_of(found) is None
    # The rollback is the watcher's: on the record as such, dated after the crossing, and served to the client.
    assert found.crossing is not None
    assert found.crossing.decision.outcome.value == "ROLLBACK"
    assert found.to_rollback is not None
    assert found.to_served is not None
    assert 0 <= found.to_rollback <= found.to_served
    kinds = [moment.kind for moment in found.timeline.moments]
    assert kinds.count("rollback") == 1
    assert any("guardrail" in moment.text for moment in found.timeline.moments if moment.kind == "rollback")
    # Another guardrail than the planted one is not as planted, whatever the outcome.
    assert found.broken
    other = replace(found, guardrail="latency_relative")
    assert other.as_planted is ("latency_relative" in found.broken)
    assert "should have ended at rollback by latency_relative" in str(verdict_of(other))
    # Whatever is printed or written says what it is.
    assert all("SIMULATION" in line for line in [*lines, *summary(found)])
    report = json.loads((found.root / "report.json").read_text())
    assert (report["simulation"], report["outcome"], report["exposures"]["lost"]) == (True, ROLLBACK, 0)
    assert "simulation" in report["dataset"]


def test_a_simulation_leaves_everything_real_as_it_was(
    fast: Workspace, declare: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also where the environment names a real store, ledger, document and spool."""
    real_store, real_ledger = tmp_path / "named" / "store.sqlite", tmp_path / "named" / "ledger.db"
    store = Store.at(real_store)
    store.close()
    ledger = Ledger.open(fast, DATASET)
    StateMachine(ledger, load_params(fast, DATASET).migration).bootstrap(
        read_facts(fast.step(DATASET, "incumbent_bundle"))
    )
    ledger.close()
    monkeypatch.setenv("SEGUE_STORE", f"sqlite:///{real_store}")
    monkeypatch.setenv("SEGUE_LEDGER_URL", f"sqlite:///{real_ledger}")
    monkeypatch.setenv("SEGUE_DEPLOYMENT", str(tmp_path / "named" / "current.json"))
    monkeypatch.setenv("SEGUE_SPOOL", str(tmp_path / "named" / "spool"))
    before = contents(tmp_path)
    found = run(fast, TruthName.EQUAL, 60)
    assert found.outcome == "pilot"
    assert found.exposures.lost == 0
    assert contents(tmp_path) == before
    assert os.environ["SEGUE_STORE"] == f"sqlite:///{real_store}"  # and the environment is as it was
    assert Store.at(real_store).counts()["exposures"] == 0


def test_users_of_the_contender_who_are_lost_show_in_the_sample_ratio(
    fast: Workspace, declare: Callable[..., None]
) -> None:
    declare(truths={"skewed": {"attractiveness": 0.0, "lost_users": 0.8, "expect": "pilot"}})
    found = run(fast, TruthName.SKEWED, 1200)
    assert found.outcome == "pilot"
    arms = found.exposures.by_arm
    assert arms["treatment"] < 0.4 * arms["control"]
    assert len(found.traffic.lost_users) + len(found.traffic.users) == 1200
    last = [moment for moment in found.timeline.moments if moment.kind == "look"][-1]
    assert "sample_ratio_deviation of generative" in last.text
    assert "failed" in last.text


def test_the_same_name_again_replaces_the_simulation_and_nothing_else(fast: Workspace) -> None:
    settings = load_settings(fast.root / "simulation.yaml")
    first = prepare(fast, DATASET, settings, TruthName.EQUAL, 0, "mine")
    second = prepare(fast, DATASET, settings, TruthName.EQUAL, 0, "mine")
    assert first.root == second.root
    assert first.dataset != second.dataset  # two runs never share a ledger, wherever it lies
    # A finished one is kept, whatever becomes of the second, unless its end is asked for.
    report = second.root / "report.json"
    report.write_text("{}")
    with pytest.raises(StateError, match="finished simulation: give --again"):
        prepare(fast, DATASET, settings, TruthName.EQUAL, 0, "mine")
    assert report.is_file()
    prepare(fast, DATASET, settings, TruthName.EQUAL, 0, "mine", again=True)
    assert not report.exists()
    own = fast.state(DATASET) / "simulations" / "real-work"
    own.mkdir()
    with pytest.raises(ConfigurationError, match="no simulation's"):
        prepare(fast, DATASET, settings, TruthName.EQUAL, 0, "real-work")


def test_a_simulation_holds_no_events_of_real_users(fast: Workspace) -> None:
    found = run(fast, TruthName.EQUAL, 40)
    assert not list(found.root.rglob("interactions*.parquet"))
    store = Store.at(next(found.root.rglob("online.sqlite")))
    assert store.counts() == {
        "histories": 0,
        "events": 0,
        "feedback": found.traffic.reported,
        "erased": 0,
    } | {"exposures": found.traffic.visits}
    store.close()


@pytest.mark.parametrize("name", ["", "../real", "Capital", "a" * 41])
def test_a_name_that_could_lead_elsewhere_is_refused(fast: Workspace, name: str) -> None:
    settings = load_settings(fast.root / "simulation.yaml")
    if not name:
        assert prepare(fast, DATASET, settings, TruthName.EQUAL, 3, name).name == "equal-3"
        return
    with pytest.raises(ConfigurationError, match="a simulation's name"):
        prepare(fast, DATASET, settings, TruthName.EQUAL, 0, name)


def test_a_graph_that_has_not_run_says_what_to_do(fast: Workspace) -> None:
    (fast.step(DATASET, "bundle") / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match=f"run `segue run --dataset {DATASET}` first"):
        run(fast, TruthName.EQUAL, 10)


def test_an_override_that_params_would_refuse_is_refused(
    fast: Workspace, declare: Callable[..., None]
) -> None:
    declare(overrides={"migration": {"pilot_shar": 0.5}})
    with pytest.raises(ConfigurationError, match="pilot_shar"):
        run(fast, TruthName.EQUAL, 10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"users": 0}, "users: Input should be greater than or equal to 1"),
        ({"population": {"visits": 3}}, "population.visits: Extra inputs"),
        (
            {"truths": {"better": {"attractiveness": -1.5, "expect": "full"}}},
            "attractiveness: Input should be greater",
        ),
    ],
)
def test_wrong_settings_name_the_file_and_the_key(
    workspace: Workspace, declare: Callable[..., None], change: dict[str, object], message: str
) -> None:
    declare(**change)
    with pytest.raises(ConfigurationError, match=r"simulation\.yaml") as refused:
        load_settings(workspace.root / "simulation.yaml")
    assert message in str(refused.value)


def test_what_is_committed_is_sound(repository: Path, workspace: Workspace) -> None:
    """The policies of the committed file can pass and can fail, and every truth is declared."""
    from segue.migration.policy import lint_policies

    settings = load_settings(repository / "simulation.yaml")
    own = prepare(workspace, DATASET, settings, TruthName.BETTER, 0, None)
    assert lint_policies(load_params(own.workspace, own.dataset).migration) == []
    assert set(settings.truths) == set(TruthName)


def test_over_http_with_real_processes_and_an_injected_delay(
    fast: Workspace, declare: Callable[..., None], repository: Path
) -> None:
    """The service is BentoML's, in a process of its own, which is gone at the end."""
    (fast.root / "bento").symlink_to(repository / "bento")
    declare(truths={"slower": {"attractiveness": 0.0, "delay_ms": 200.0, "expect": "pilot"}})
    lines: list[str] = []
    found = simulate(fast, DATASET, TruthName.SLOWER, users=40, seed=1, tell=lines.append)
    assert (found.outcome, found.exposures.lost) == ("pilot", 0)
    assert found.exposures.counted == found.traffic.visits > 40
    store = Store.at(next(found.root.rglob("online.sqlite")))
    latencies = {
        arm: [row["latency_ms"] for row in store.exposures() if row["arm"] == arm]
        for arm in ("control", "treatment")
    }
    store.close()
    assert min(latencies["treatment"]) >= 200  # one request a call: each list's latency is its own
    assert min(latencies["control"]) < 200
    assert "SIMULATION" in found.page.read_text()
    log = (found.root / "server.log").read_text()
    port = int(re.search(r"http://127\.0\.0\.1:(\d+)", log)[1])  # type: ignore[index]
    with socket.socket() as probe, pytest.raises(ConnectionRefusedError):
        probe.connect(("127.0.0.1", port))


def test_nothing_is_simulated_with_a_model_that_cannot_be_loaded(fast: Workspace) -> None:
    """Every contender would be rolled back for its fallbacks, whatever is planted."""
    as_an_earlier_version_wrote(fast.step(DATASET, "bundle") / "model")
    with pytest.raises(ArtifactError, match="train the model again"):
        run(fast, TruthName.BETTER, 10)
    assert not (fast.state(DATASET) / "simulations").exists()


def test_a_pilot_that_is_confined_to_a_scenario_is_not_so_for_simulated_users(fast: Workspace) -> None:
    """They come from nowhere in particular, and the simulation's policies are about its own paths."""
    profile = yaml.safe_load(fast.profile_file(DATASET).read_text())
    confined = {"scenario": "home", "scenarios": ["home"], "pilot_path": "rerank", "hybrid_path": "rerank"}
    profile["migration"] = (profile.get("migration") or {}) | confined
    fast.profile_file(DATASET).write_text(yaml.safe_dump(profile))
    assert load_params(fast, DATASET).migration.scenario == "home"
    settings = load_settings(fast.root / "simulation.yaml")
    own = prepare(fast, DATASET, settings, TruthName.BETTER, 0, None)
    simulated = load_params(own.workspace, own.dataset).migration
    assert (simulated.scenario, simulated.scenarios) == (None, ())
    assert (simulated.pilot_path, simulated.hybrid_path) == (PathName.GENERATIVE, PathName.BLENDED)
    assert lint_policies(simulated) == []
