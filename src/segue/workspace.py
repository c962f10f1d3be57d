"""Where things lie: one object that knows every path of a checkout.

params.yaml  profiles/<dataset>.yaml  bases/<dataset>.json     what people write
data/<dataset>/<step>/                                         artifacts (DVC outputs)
state/<dataset>/  state/mlflow.db                              what must survive a rebuild: what was appended, too
reports/<dataset>/                                             pages for people
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from segue.errors import ConfigurationError

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


def check_name(dataset: str) -> str:
    """``dataset``, whose name is part of many paths. Raises ConfigurationError for one that leads elsewhere."""
    if not _NAME.fullmatch(dataset):
        raise ConfigurationError(
            f"{dataset!r} is no name of a dataset: it begins with a letter or digit, and holds letters, digits, - _ . alone"
        )
    return dataset


@dataclass(frozen=True, slots=True)
class Workspace:
    """Paths of one checkout. ``root`` is the folder that holds ``params.yaml``."""

    root: Path

    @classmethod
    def find(cls) -> Workspace:
        """``SEGUE_ROOT``, else the nearest parent folder with a ``params.yaml``.

        Raises ConfigurationError where there is none.
        """
        if configured := os.environ.get("SEGUE_ROOT"):
            return cls(Path(configured).resolve())
        here = Path.cwd().resolve()
        for folder in (here, *here.parents):
            if (folder / "params.yaml").is_file():
                return cls(folder)
        raise ConfigurationError(
            f"no params.yaml in {here} or above it: run segue inside a checkout, or set SEGUE_ROOT to one"
        )

    @property
    def params_file(self) -> Path:
        return self.root / "params.yaml"

    def profile_file(self, dataset: str) -> Path:
        return self.root / "profiles" / f"{dataset}.yaml"

    def base_file(self, dataset: str) -> Path:
        return self.root / "bases" / f"{dataset}.json"

    def data(self, dataset: str) -> Path:
        return self.root / "data" / dataset

    def raw(self, dataset: str) -> Path:
        """Fetched source files, as they came."""
        return self.root / "data" / dataset / "raw"

    def landing(self, dataset: str) -> Path:
        """Appended events and items (``interactions/*.parquet``, ``items/*.parquet``): data that arrived later."""
        return self.state(dataset) / "landing"

    def former_landing(self, dataset: str) -> Path:
        """Where appended data lay at first; it is moved by whoever looks for it next."""
        return self.data(dataset) / "landing"

    def step(self, dataset: str, step: str) -> Path:
        return self.root / "data" / dataset / step

    def state(self, dataset: str) -> Path:
        return self.root / "state" / dataset

    def kept(self, dataset: str) -> Path:
        """Content-addressed store of kept artifacts: ``<step>/<content sha256>/``."""
        return self.state(dataset) / "kept"

    def bundles(self, dataset: str) -> Path:
        """Published bundles: ``<bundle id>/``, immutable."""
        return self.state(dataset) / "bundles"

    def run_record(self, dataset: str, step: str) -> Path:
        """Times, host, MLflow ids of a step's last run; never hashed."""
        return self.state(dataset) / "runs" / f"{step}.json"

    def reports(self, dataset: str) -> Path:
        return self.root / "reports" / dataset

    @property
    def mlflow_uri(self) -> str:
        """``MLFLOW_TRACKING_URI`` where set, else SQLite under ``state/``."""
        return os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{self.root / 'state' / 'mlflow.db'}")

    def study_storage(self, dataset: str, name: str) -> Path | str:
        """``OPTUNA_STORAGE`` (a database's URL, for workers on many machines) where set, else a journal file."""
        return os.environ.get("OPTUNA_STORAGE") or self.state(dataset) / "optuna" / f"{name}.journal"

    @property
    def mlflow_artifacts(self) -> Path:
        return self.root / "state" / "mlflow-artifacts"
