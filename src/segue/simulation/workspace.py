"""A workspace of a simulation's own: ledger, store, deployment document, bundles, spool, parameters.

It lies in ``state/<dataset>/simulations/<name>/`` and is a checkout's shape in small, so that every command works there with
``SEGUE_ROOT``. Its dataset has another name than the real one (``<dataset>-simulation-<name>-<token>``), which stands in every
row of its ledger and names its schema where the database is a Postgres that the real one shares. It holds no user's
events: simulated users bring their histories with each request.
"""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from segue.artifacts import read_json, write_json, write_text
from segue.errors import ArtifactError, ConfigurationError, StateError
from segue.params import lay_over, load_params
from segue.serving.readable import require_readable
from segue.simulation.settings import SimulationSettings, TruthName
from segue.workspace import Workspace

MARK: Final = (
    "simulation.json"  # in state/<dataset>/: whoever reads that state must say that it is a simulation's
)
REPORT_FILE: Final = "report.json"  # written last: where it lies, the simulation is finished
# Variables that name a real store, ledger, document or spool: a simulation's processes must not inherit them.
NAMED: Final = ("SEGUE_STORE", "SEGUE_LEDGER_URL", "SEGUE_DEPLOYMENT", "SEGUE_SPOOL")
# What a simulated migration rests on: the two bundles, and what was measured before anybody was served.
STEPS: Final = ("bundle", "incumbent_bundle", "offline_evaluation", "refit_check", "serving_check")
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,39}")


@dataclass(frozen=True, slots=True)
class SimulationWorkspace:
    """``workspace`` and ``dataset`` are the simulation's own; ``real`` and ``source`` are where its bundles came from."""

    workspace: Workspace
    dataset: str
    real: Workspace
    source: str
    name: str

    @property
    def root(self) -> Path:
        return self.workspace.root

    @property
    def state(self) -> Path:
        return self.workspace.state(self.dataset)

    def environment(self) -> dict[str, str]:
        """What its processes get on top of the caller's: its own root and dataset, and nothing real by name."""
        return {
            **dict.fromkeys(NAMED, ""),
            "SEGUE_ROOT": str(self.root),
            "SEGUE_DATASET": self.dataset,
        }


def prepare(
    real: Workspace,
    dataset: str,
    settings: SimulationSettings,
    truth: TruthName,
    seed: int,
    name: str | None,
    *,
    again: bool = False,
) -> SimulationWorkspace:
    """Make the workspace anew. What an interrupted simulation of that name left is removed, a finished one only ``again``.

    Raises StateError where a finished one is in the way; ConfigurationError for a bad name, an override that ``params.yaml``
    would refuse, or a folder in the way that is no simulation's; ArtifactError where the real dataset lacks an artifact, or
    its model cannot be loaded: every contender would be rolled back for its fallbacks, whatever is planted.
    """
    name = name or f"{truth.value}-{seed}"
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"a simulation's name is of small letters, digits, dots and dashes, at most 40; not {name!r}"
        )
    for step in STEPS:
        if not (real.step(dataset, step) / "manifest.json").is_file():
            raise ArtifactError(
                f"{real.step(dataset, step)} is missing, and a simulation serves its bundles: "
                f"run `segue run --dataset {dataset}` first"
            )
    require_readable(real.step(dataset, "bundle"))
    root = real.state(dataset) / "simulations" / name
    _remove_former(root, again=again)
    own = SimulationWorkspace(
        workspace=Workspace(root),
        dataset=f"{dataset}-simulation-{name}-{secrets.token_hex(3)}",
        real=real,
        source=dataset,
        name=name,
    )
    root.mkdir(parents=True)
    write_json(
        root / MARK,
        {"simulation": True, "dataset": own.dataset, "of": dataset, "truth": truth.value, "seed": seed},
    )
    _write_parameters(own, settings.overrides)
    for step in STEPS:
        shutil.copytree(real.step(dataset, step), own.workspace.step(own.dataset, step))
    write_json(own.state / MARK, {"truth": truth.value, "seed": seed, "of": dataset})
    load_params(own.workspace, own.dataset)  # whatever an override got wrong is said now
    return own


def _remove_former(root: Path, *, again: bool) -> None:
    if not root.exists():
        return
    mark = root / MARK
    if not mark.is_file() or not isinstance(read_json(mark), dict):
        raise ConfigurationError(
            f"{root} is no simulation's ({MARK} is missing): move it away, or give --name"
        )
    if (root / REPORT_FILE).is_file() and not again:
        raise StateError(
            f"{root} holds a finished simulation: give --again to put another in its place, or --name to keep both"
        )
    shutil.rmtree(root)


def _write_parameters(own: SimulationWorkspace, overrides: Mapping[str, Any]) -> None:
    """The real parameters, with the declared overrides laid over the profile, where people can read them."""
    shutil.copyfile(own.real.params_file, own.workspace.params_file)
    profile = yaml.safe_load(own.real.profile_file(own.source).read_text(encoding="utf-8"))
    if not isinstance(profile, dict):
        raise ConfigurationError(f"{own.real.profile_file(own.source)} must be a mapping of sections")
    merged = {
        section: lay_over(values or {}, overrides.get(section) or {}) for section, values in profile.items()
    }
    merged |= {section: values for section, values in overrides.items() if section not in merged}
    text = "# SIMULATION: the profile, with the overrides of simulation.yaml. No real traffic is judged by this.\n"
    own.workspace.profile_file(own.dataset).parent.mkdir(parents=True)
    write_text(
        own.workspace.profile_file(own.dataset), text + yaml.safe_dump(merged, sort_keys=False, width=110)
    )
