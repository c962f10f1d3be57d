"""Nothing gets past the gate: whatever lies in the folders, `deployment` alone decides, and by the evidence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa
import yaml

from assets.factory import assets_for
from assets.resources import Graph
from segue.errors import ArtifactError
from segue.migration.decide import DECISION_FILE, Decision, Outcome, Target, write_decision
from segue.migration.evidence import EVIDENCE_FILE, Evidence, evidence_sha256, write_evidence
from segue.migration.gates import gather, policy_of, read_facts
from segue.migration.ledger import Ledger
from segue.migration.policy import policy_sha256
from segue.params import load_params
from segue.registry.mlflow_registry import MlflowRegistry
from segue.schema import Stage
from segue.steps import operations
from segue.steps.registry import EVIDENCE_STEPS
from tests.migration.builders import evidence, serving
from tests.registry.places import DATASET, Place, place_of_an_earlier_version

Body = tuple[list[Evidence], list[Evidence]]  # offline, serving


def materialize(place: Place) -> dg.ExecuteInProcessResult:
    """``deployment`` alone, in a run of its own."""
    chosen = [asset for asset in assets_for(DATASET) if asset.key.path[-1] == "deployment"]
    with dg.DagsterInstance.ephemeral() as instance:
        return dg.materialize(
            chosen,
            instance=instance,
            resources={"graph": Graph(root=str(place.workspace.root))},
            raise_on_error=False,
        )


def forge(place: Place, target: Target) -> None:
    """A decision file that says PROMOTE about whatever evidence lies there, and is whole in itself."""
    facts = read_facts(place.workspace.step(DATASET, "bundle"))
    found = [
        Evidence.model_validate(item)
        for step in EVIDENCE_STEPS
        for item in yaml.safe_load((place.workspace.step(DATASET, step) / EVIDENCE_FILE).read_text())
    ]
    decision = Decision(
        target=target, outcome=Outcome.PROMOTE, reasons=("all is well",), recipe=facts.recipe,
        bundle_id=facts.bundle_id, evidence_sha256=evidence_sha256(found),
        policy_sha256=policy_sha256(policy_of(place.params.migration, target)), as_of=None,
    )  # fmt: skip
    place.put(f"{target}_decision", lambda folder: write_decision(folder / DECISION_FILE, decision))


def lay(place: Place, offline: list[Evidence], served: list[Evidence]) -> None:
    for step, found in (("offline_evaluation", offline), ("serving_check", served)):
        place.put(step, lambda folder, found=found: write_evidence(folder / EVIDENCE_FILE, found))  # type: ignore[misc]


def bodies(place: Place) -> dict[str, Body]:
    """Evidence that must not promote, by what is wrong with it."""
    recipe, bundle = place.manifest.recipe, place.manifest.bundle_id

    def offline(**changes: object) -> Evidence:
        return evidence(**{"recipe_a": recipe, "dataset": DATASET, **changes})

    checked = serving(bundle, dataset=DATASET)
    return {
        "failing": ([offline(estimate=-0.1, low=-0.2, high=-0.05)], [checked]),
        "underpowered": ([offline(estimate=0.0, low=-0.02, high=0.02)], [checked]),
        "missing": ([], [checked]),
        "no number": ([offline(low=float("nan"))], [checked]),
        "of another recipe": ([offline(recipe_a="R9")], [checked]),
        "of another bundle": ([offline()], [serving("another", dataset=DATASET)]),
        "stale": ([offline()], [serving(bundle, dataset=DATASET, measured_at="2020-01-01T00:00:00+00:00")]),
        "of another dataset": ([offline(dataset="movies")], [checked]),
    }


@pytest.fixture
def begun(place: Place) -> Place:
    """Bootstrapped; a week is the age at which a serving check is stale."""
    params = yaml.safe_load(place.workspace.params_file.read_text())
    for name in ("pilot", "shadow"):
        for requirement in params["migration"][name]["requirements"]:
            if requirement["kind"] == "serving":
                requirement["maximum_age_days"] = 7.0
    place.workspace.params_file.write_text(yaml.safe_dump(params))
    place.params = load_params(place.workspace, DATASET)
    place.run("bootstrap")
    place.measured(evidence(recipe_a=place.manifest.recipe, estimate=0.0, low=-0.02, high=0.02))
    return place


def test_the_deployment_alone_promotes_nothing_that_its_evidence_does_not_carry(begun: Place) -> None:
    place = begun
    for what, (offline, served) in bodies(place).items():
        lay(place, offline, served)
        forge(place, Target.PILOT)
        for target in (Target.HYBRID, Target.FULL):
            forge(place, target)
        place.put("refresh_decision", _held(place))
        result = materialize(place)
        assert place.stage is Stage.CASCADE, what
        if what == "of another dataset":
            assert not result.success
            continue
        assert result.success, what
    # The same files with evidence that carries it: the only thing that was wrong with them was the evidence.
    lay(place, [evidence(recipe_a=place.manifest.recipe, dataset=DATASET)], [_fresh(place)])
    forge(place, Target.PILOT)
    for target in (Target.HYBRID, Target.FULL):
        forge(place, target)
    place.put("refresh_decision", _held(place))
    assert materialize(place).success
    assert place.stage is Stage.PILOT


def _fresh(place: Place) -> Evidence:
    from datetime import UTC, datetime

    return serving(place.manifest.bundle_id, dataset=DATASET, measured_at=datetime.now(UTC).isoformat())


def _held(place: Place) -> Callable[[Path], None]:
    """The refresh's HOLD on the evidence that lies there."""
    found = gather_whatever(place)
    facts = read_facts(place.workspace.step(DATASET, "bundle"))
    hold = Decision(
        target=Target.REFRESH_RECIPE, outcome=Outcome.HOLD, reasons=("first run",), recipe=facts.recipe,
        bundle_id=facts.bundle_id, evidence_sha256=evidence_sha256(found),
        policy_sha256=policy_sha256(policy_of(place.params.migration, Target.REFRESH_RECIPE)), as_of=None,
    )  # fmt: skip
    return lambda folder: write_decision(folder / DECISION_FILE, hold)


def gather_whatever(place: Place) -> list[Evidence]:
    folders = [place.workspace.step(DATASET, step) for step in EVIDENCE_STEPS]
    datasets = {
        item["dataset"] for folder in folders for item in yaml.safe_load((folder / EVIDENCE_FILE).read_text())
    }
    return gather(folders, datasets.pop()) if len(datasets) == 1 else []


def test_an_alias_and_a_tampered_ledger_promote_nothing(begun: Place) -> None:
    from mlflow import MlflowClient

    place = begun
    assert materialize(place).success  # the version is registered
    registry = MlflowRegistry(place.workspace, DATASET)
    version = registry.version_of(place.manifest.bundle_id)
    assert version is not None
    client = MlflowClient(tracking_uri=place.workspace.mlflow_uri)
    for alias in ("pilot", "hybrid", "full", "champion"):
        client.set_registered_model_alias(registry.name, alias, version)
    assert materialize(place).success
    assert place.stage is Stage.CASCADE
    assert not {"pilot", "hybrid", "full"} & set(registry.aliases())

    engine = sa.create_engine(f"sqlite:///{place.workspace.state(DATASET) / 'ledger.db'}")
    with engine.begin() as connection:
        connection.exec_driver_sql("update segue_ledger set payload = replace(payload, 'HOLD', 'PROMOTE')")
    engine.dispose()
    place.measured(evidence(recipe_a=place.manifest.recipe))  # evidence that would carry a pilot
    result = materialize(place)
    assert not result.success
    assert any(
        "content was changed after it was written" in str(event.event_specific_data)
        for event in result.filter_events(lambda event: event.is_step_failure)
    )
    assert place.stage is Stage.CASCADE


KILLED = """
import os, signal, sys
from pathlib import Path
from segue.params import load_params
from segue.registry.mlflow_registry import MlflowRegistry
from segue.steps.runner import run_step
from segue.workspace import Workspace
MlflowRegistry.set_alias = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
workspace = Workspace(Path(sys.argv[1]))
run_step(workspace, sys.argv[2], "deployment", load_params(workspace, sys.argv[2]))
"""


def test_a_kill_between_ledger_and_registry_is_reconciled_and_said(place: Place, repository: Path) -> None:
    place.run("bootstrap")
    place.measured(evidence(recipe_a=place.manifest.recipe))
    registry = MlflowRegistry(place.workspace, DATASET)
    before = registry.aliases()
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(place.workspace.root), DATASET],
        cwd=repository,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    ledger = Ledger.open(place.workspace, DATASET)
    assert ledger.verify() > 1
    ledger.close()
    assert place.stage is Stage.PILOT  # what the ledger says serves
    assert registry.aliases() == before
    done = place.run("deployment")
    assert "reconciled: MLflow's aliases had fallen behind the ledger" in done.message
    assert registry.aliases()["pilot"] == place.manifest.bundle_id
    assert registry.aliases()["champion"] == place.manifest.bundle_id
    assert "reconciled" not in place.run("deployment").message
    # Likewise where the document that serving follows was lost.
    (place.workspace.state(DATASET) / "deployment" / "current.json").unlink()
    assert "reconciled: current.json had fallen behind" in place.run("deployment").message
    assert place.stage is Stage.PILOT
    assert operations.status(place.workspace, DATASET)["deployment"]["revision"] == 2


def test_a_bundle_whose_model_cannot_be_loaded_enters_the_pilot_neither_by_its_gate_nor_by_hand(
    workspace_root: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its evidence was measured before an upgrade, so that every gate is still met."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    place = place_of_an_earlier_version(workspace_root, world, tmp_path / "former")
    place.measured(evidence(recipe_a=place.manifest.recipe))
    decision = yaml.safe_load((place.workspace.step(DATASET, "pilot_decision") / DECISION_FILE).read_text())
    assert decision["outcome"] == "PROMOTE"
    outcome = place.run("deployment")
    assert "cannot be loaded" in str(outcome.message)
    assert place.stage is Stage.CASCADE
    with pytest.raises(ArtifactError, match="train the model again"):
        operations.override(place.workspace, DATASET, Target.PILOT, actor="ann", reason="a fair")
    assert place.stage is Stage.CASCADE
