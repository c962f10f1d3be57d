"""Bootstrap, decisions, deployment and a person in MLflow: the steps on a real bundle and registry."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from segue import cli
from segue.artifacts import read_json
from segue.errors import ArtifactError
from segue.migration.evidence import write_evidence
from segue.migration.gates import read_facts
from segue.migration.ledger import Ledger
from segue.migration.state_machine import StateMachine
from segue.params import load_params
from segue.registry.bundle import read_bundle
from segue.registry.mlflow_registry import MlflowRegistry, model_name
from segue.schema import Stage
from segue.steps import operations
from segue.steps.migration_report import report_migration
from tests.migration.builders import evidence
from tests.registry.places import DATASET, Place


def test_from_the_bootstrap_to_a_person_who_moves_aliases(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    recipe = place.manifest.recipe
    bundle = place.manifest.bundle_id
    unsure = evidence(recipe_a=recipe, estimate=0.0, low=-0.02, high=0.02)

    # The incumbent serves at once; a second time nothing happens.
    assert place.run("bootstrap").status == "ran"
    assert place.run("bootstrap").status == "no_change"
    first = read_bundle(place.workspace.step(DATASET, "incumbent_bundle")).bundle_id
    registry = MlflowRegistry(place.workspace, DATASET)
    assert registry.aliases() == {"champion": first}
    _load_as_a_person(place, monkeypatch)

    # The contender is on HOLD: it runs in shadow, and every decision says why.
    place.measured(unsure)
    reasons = read_json(place.workspace.step(DATASET, "pilot_decision") / "decision.json")
    assert isinstance(reasons, dict)
    assert reasons["outcome"] == "HOLD"
    assert "straddles the margin" in reasons["reasons"][0]
    refresh = read_json(place.workspace.step(DATASET, "refresh_decision") / "decision.json")
    assert isinstance(refresh, dict)
    assert "nothing is kept" in refresh["reasons"][0]
    assert place.run("deployment").status == "ran"
    assert place.run("deployment").status == "no_change"
    assert registry.aliases() == {"champion": first, "challenger": bundle}

    # Somebody moves the pilot's alias: put back, with the reason.
    client = MlflowClient(tracking_uri=place.workspace.mlflow_uri)
    name = model_name(DATASET)
    version = registry.version_of(bundle)
    assert version is not None
    client.set_registered_model_alias(name, "pilot", version)
    done = place.run("deployment")
    assert "alias pilot: no change: offline ndcg@10" in done.message
    assert "pilot" not in registry.aliases()
    assert "straddles" in client.get_model_version(name, version).tags["segue.refused.pilot"]

    # Past a passing gate the deployment follows.
    place.measured(evidence(recipe_a=recipe))
    client.set_registered_model_alias(name, "pilot", version)
    done = place.run("deployment")
    assert place.stage is Stage.PILOT
    assert "alias pilot: revision 3: advance" in done.message
    assert registry.aliases() == {"champion": bundle, "previous_champion": first, "pilot": bundle}

    # A rollback by hand: no later run undoes it, and MLflow's lag is no request.
    assert "restores 2" in operations.rollback(place.workspace, DATASET, actor="ann", reason="worse")
    again = place.run("deployment")
    assert again.status == "no_change"
    assert "was revoked by revision 4" in again.message
    assert place.stage is Stage.CASCADE
    assert "pilot" not in registry.aliases()
    lines = operations.history(place.workspace, DATASET)
    assert any("revision 4 (rollback), stage cascade" in line and "by ann: worse" in line for line in lines)
    assert operations.status(place.workspace, DATASET)["deployment"]["revision"] == 4

    # The migration page lies beside the version of what serves or runs in shadow.
    page = report_migration(place.workspace, DATASET, place.params)
    assert "Rolled back: stage cascade" in page.read_text(encoding="utf-8")
    run_id = client.get_model_version(name, version).run_id
    assert [one.path for one in client.list_artifacts(run_id, "reports")] == ["reports/migration.html"]
    assert not registry.attach("nobody", page)


def test_a_promote_waits_for_a_second_person_at_the_command_line(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = yaml.safe_load(place.workspace.params_file.read_text())
    params["migration"]["approval"] = "second_person"
    place.workspace.params_file.write_text(yaml.safe_dump(params))
    place.params = load_params(place.workspace, DATASET)
    monkeypatch.setenv("LOGNAME", "ann")  # who runs the graph
    place.run("bootstrap")
    place.measured(evidence(recipe_a=place.manifest.recipe))
    assert "waits for a second person" in place.run("deployment").message
    assert place.stage is Stage.CASCADE
    (waiting,) = operations.status(place.workspace, DATASET)["waiting"]
    assert waiting.startswith("decision ")
    assert "proposed by ann" in waiting

    def approve(*words: str) -> Result:
        return CliRunner().invoke(cli.app, ["approve", "--dataset", DATASET, *words])

    for words, message in (
        (["--actor", "ann", "--latest"], "somebody else must approve of it"),
        (["--actor", "bob", "--decision", "f00"], "no proposal named 'f00' waits"),
        (["--actor", "bob"], "--decision with its first characters, or --latest"),
    ):
        refused = approve(*words)
        assert refused.exit_code == 1
        assert message in str(refused.exception)
    assert place.stage is Stage.CASCADE
    done = approve("--actor", "bob", "--decision", waiting.split()[1].rstrip(":"))
    assert done.exit_code == 0, done.output
    assert "advance, stage pilot" in done.output
    assert place.stage is Stage.PILOT
    assert operations.status(place.workspace, DATASET)["waiting"] == []
    assert any("bob approves of" in line for line in operations.history(place.workspace, DATASET))
    again = approve("--actor", "bob", "--decision", waiting.split()[1].rstrip(":"))
    assert "was applied by revision 3" in str(again.exception)
    assert place.run("deployment").status == "no_change"


def _load_as_a_person(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow
    import pandas as pd

    with monkeypatch.context() as scope:
        scope.setenv("MLFLOW_TRACKING_URI", place.workspace.mlflow_uri)
        model = mlflow.pyfunc.load_model(f"models:/{model_name(DATASET)}@champion")
        [answer] = model.predict(pd.DataFrame({"history": [["i001", "i004"]]}), params={"k": 3})
    assert len(answer["items"]) == 3
    assert answer["path"] == "cascade"
    assert not {"i001", "i004"} & set(answer["items"])
    saved = [path for path in place.workspace.mlflow_artifacts.rglob("*") if path.is_file()]
    assert {"MLmodel", "pyfunc_model.py"} <= {path.name for path in saved}
    assert not any(path.suffix in (".pkl", ".pickle", ".pt") for path in saved)


def test_nothing_is_deployed_on_decisions_of_other_evidence(place: Place) -> None:
    ledger = Ledger.open(place.workspace, DATASET)
    incumbent = read_facts(place.workspace.step(DATASET, "incumbent_bundle"))
    StateMachine(ledger, place.params.migration).bootstrap(incumbent)
    place.put("bootstrap", lambda folder: (folder / "receipt.json").write_text("{}"))
    place.measured(evidence(recipe_a=place.manifest.recipe))
    shutil.rmtree(place.workspace.step(DATASET, "offline_evaluation"))
    place.put("offline_evaluation", lambda folder: write_evidence(folder / "evidence.json", []))
    with pytest.raises(ArtifactError, match="run the decision's step again"):
        place.run("deployment")
    assert place.stage is Stage.CASCADE


def test_a_contender_that_saw_newer_events_than_the_incumbent_enters_no_pilot(place: Place) -> None:
    fair = evidence(recipe_a=place.manifest.recipe)
    place.measured(fair)
    decided = place.workspace.step(DATASET, "pilot_decision") / "decision.json"
    assert json.loads(decided.read_text())["outcome"] == "PROMOTE"
    place.contender_saw = "newer"
    place.measured(fair)
    held = json.loads(decided.read_text())
    assert held["outcome"] == "HOLD"
    assert "not trained on the same events" in held["reasons"][0]
