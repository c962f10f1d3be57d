"""A workspace with finished artifacts up to the decisions, for tests of what the steps do with them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import yaml

from segue.artifacts import commit, temporary_folder
from segue.migration.deployment import read_current
from segue.migration.evidence import Evidence, write_evidence
from segue.params import Params, load_params
from segue.registry.bundle import read_bundle
from segue.schema import Stage
from segue.steps.offers import DECISIONS
from segue.steps.runner import Outcome, run_step
from segue.workspace import Workspace
from tests.migration.builders import SETTINGS, serving
from tests.serving.worlds import as_an_earlier_version_wrote, full_bundle, incumbent_bundle

DATASET = "ml-100k"


class Place:
    """A workspace with finished artifacts up to the decisions."""

    contender_saw = "s"  # the sequences that it was trained on; the incumbent saw "s"

    def __init__(self, root: Path, world: Path) -> None:
        self.workspace = Workspace(root)
        params = yaml.safe_load((root / "params.yaml").read_text())
        params["migration"] = SETTINGS.model_dump(mode="json")
        (root / "params.yaml").write_text(yaml.safe_dump(params))
        self.params: Params = load_params(self.workspace, DATASET)
        for step in ("validation", "splits", "bento"):
            self.put(step, lambda folder: (folder / "about.json").write_text("{}"))
        self.put("drift", lambda folder: (folder / "drift.json").write_text(json.dumps({"verdict": "keep"})))
        self.put("incumbent_bundle", lambda folder: incumbent_bundle(world, folder))
        self.put("bundle", lambda folder: full_bundle(world, folder))
        self.manifest = read_bundle(self.workspace.step(DATASET, "bundle"))

    def put(self, step: str, write: object) -> None:
        final = self.workspace.step(DATASET, step)
        with temporary_folder(final) as folder:
            write(folder)  # type: ignore[operator]
            commit(folder, final, step=step, dataset=DATASET, params_sha256="p", inputs={}, code_version="c")

    def measured(self, *offline: Evidence) -> None:
        """Write the evidence and make the decisions anew."""

        def evaluated(folder: Path) -> None:
            own = [item.model_copy(update={"dataset": DATASET}) for item in offline]
            write_evidence(folder / "evidence.json", own)
            trained_on = {"incumbent": "s", "generative_model": self.contender_saw}
            (folder / "protocol.json").write_text(json.dumps({"trained_on": trained_on}))

        self.put("offline_evaluation", evaluated)
        checked = serving(self.manifest.bundle_id, dataset=DATASET)
        self.put("refit_check", lambda folder: write_evidence(folder / "evidence.json", []))
        self.put("online_evidence", lambda folder: write_evidence(folder / "evidence.json", []))
        self.put("serving_check", lambda folder: write_evidence(folder / "evidence.json", [checked]))
        for step in DECISIONS:
            self.run(step)

    def run(self, step: str) -> Outcome:
        return run_step(self.workspace, DATASET, step, self.params)

    @property
    def stage(self) -> Stage:
        return read_current(self.workspace.state(DATASET) / "deployment" / "current.json").deployment.stage


def place_of_an_earlier_version(workspace_root: Path, world: Path, folder: Path) -> Place:
    """Bootstrapped on a copy in ``folder`` of the bundle ``world``, whose model this version cannot load."""
    shutil.copytree(world, folder)
    as_an_earlier_version_wrote(folder / "model")
    place = Place(workspace_root, folder)
    place.run("bootstrap")
    return place
