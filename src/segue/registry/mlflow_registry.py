"""Bundles in MLflow's model registry: ``segue-<dataset>``, one version a bundle, tagged with the bundle's id.

An explicit client with explicit run ids; no global tracking state is set, so that a caller's own MLflow
session is left alone. The entry that a version points at is models-from-code
(``segue/pyfunc_model.py``): no pickle.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import segue
from segue.errors import StateError
from segue.registry.projection import ALIASES
from segue.workspace import Workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

BUNDLE_TAG: Final = "segue.bundle"
EXPERIMENT: Final = "segue/{dataset}/bundles"


def model_name(dataset: str) -> str:
    """The registered model of ``dataset``."""
    return f"segue-{dataset}"


class MlflowRegistry:
    """The registered model of one dataset. Implements :class:`segue.registry.projection.AliasRegistry`."""

    def __init__(self, workspace: Workspace, dataset: str) -> None:
        from mlflow import MlflowClient

        (workspace.root / "state").mkdir(parents=True, exist_ok=True)
        self.dataset = dataset
        self.name = model_name(dataset)
        self._artifacts = workspace.mlflow_artifacts
        self._client: MlflowClient = MlflowClient(
            tracking_uri=workspace.mlflow_uri, registry_uri=workspace.mlflow_uri
        )

    def register(
        self,
        bundle: str,
        bundles_root: str,
        *,
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """The version that stands for ``bundle``, registered once; ``metrics`` go to its run.

        The bundle must be published under ``bundles_root``.
        """
        if (known := self._versions().get(bundle)) is not None:
            return known
        if not self._client.search_registered_models(filter_string=f"name = '{self.name}'"):
            self._client.create_registered_model(
                self.name,
                description="Bundles of segue. Aliases follow the deployment; a moved one is a request.",
            )
        run = self._client.create_run(
            self._experiment(), run_name=f"bundle {bundle[:12]}", tags={BUNDLE_TAG: bundle}
        )
        run_id = run.info.run_id
        with tempfile.TemporaryDirectory() as folder:
            model = Path(folder) / "model"
            self._save(model, bundle, bundles_root)
            self._client.log_artifacts(run_id, str(model), "model")
        self._log_metrics(run_id, metrics or {})
        self._client.set_terminated(run_id)
        version = self._client.create_model_version(
            self.name,
            source=f"{run.info.artifact_uri}/model",
            run_id=run_id,
            tags={BUNDLE_TAG: bundle, **(tags or {})},
            description=f"Bundle {bundle}",
        )
        return str(version.version)

    def version_of(self, bundle: str) -> str | None:
        """The version that carries ``bundle``."""
        return self._versions().get(bundle)

    def attach(self, bundle: str, page: Path) -> bool:
        """Put ``page`` beside the version that carries ``bundle``, under ``reports/``, in place of an earlier one.

        Returns whether there is such a version.
        """
        version = self.version_of(bundle)
        if version is None:
            return False
        run_id = self._client.get_model_version(self.name, version).run_id
        assert run_id is not None, "every version here was registered with its run"
        self._client.log_artifact(run_id, str(page), "reports")
        return True

    def aliases(self) -> dict[str, str]:
        found = self._client.search_registered_models(filter_string=f"name = '{self.name}'")
        if not found:
            return {}
        bundle_of = {version: bundle for bundle, version in self._versions().items()}
        model = self._client.get_registered_model(self.name)
        return {
            alias: bundle_of.get(str(version), f"version {version}")
            for alias, version in model.aliases.items()
            if alias in ALIASES
        }

    def set_alias(self, alias: str, bundle: str) -> None:
        self._client.set_registered_model_alias(self.name, alias, self._require(bundle))

    def delete_alias(self, alias: str) -> None:
        self._client.delete_registered_model_alias(self.name, alias)

    def tag(self, bundle: str | None, key: str, value: str) -> None:
        text = value[:4000]  # MLflow allows 5000 characters
        if bundle is None:
            self._client.set_registered_model_tag(self.name, key, text)
        elif bundle.startswith("version "):
            self._client.set_model_version_tag(self.name, bundle.removeprefix("version "), key, text)
        else:
            self._client.set_model_version_tag(self.name, self._require(bundle), key, text)

    def _versions(self) -> dict[str, str]:
        """bundle -> version."""
        found: dict[str, str] = {}
        token = None
        while True:
            page = self._client.search_model_versions(f"name = '{self.name}'", page_token=token)
            for version in page:
                if (bundle := version.tags.get(BUNDLE_TAG)) is not None:
                    found.setdefault(bundle, str(version.version))
            token = page.token
            if not token:
                return found

    def _require(self, bundle: str) -> str:
        version = self.version_of(bundle)
        if version is None:
            raise StateError(
                f"bundle {bundle[:12]} has no version of {self.name} in MLflow: run the step deployment"
            )
        return version

    def _experiment(self) -> str:
        name = EXPERIMENT.format(dataset=self.dataset)
        existing = self._client.get_experiment_by_name(name)
        if existing is not None:
            return str(existing.experiment_id)
        location = None if os.environ.get("MLFLOW_TRACKING_URI") else self._artifacts.resolve().as_uri()
        return str(self._client.create_experiment(name, artifact_location=location))

    def _log_metrics(self, run_id: str, metrics: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        # One call whatever the number; MLflow's names allow no "@".
        entries = [Metric(name.replace("@", "_at_"), value, 0, 0) for name, value in sorted(metrics.items())]
        if entries:
            self._client.log_batch(run_id, metrics=entries)

    @staticmethod
    def _save(folder: Path, bundle: str, bundles_root: str) -> None:
        import mlflow.pyfunc
        from mlflow.models import ModelSignature
        from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
        from mlflow.types.schema import AnyType, Array

        config: dict[str, Any] = {"bundle": bundle, "bundles_root": bundles_root}
        mlflow.pyfunc.save_model(
            path=str(folder),
            python_model=str(Path(segue.__file__).with_name("pyfunc_model.py")),
            model_config=config,
            signature=ModelSignature(
                inputs=Schema([ColSpec(Array(DataType.string), "history")]),
                outputs=Schema([ColSpec(AnyType(), "answer")]),  # type: ignore[no-untyped-call]
                params=ParamSchema([
                    ParamSpec("k", DataType.integer, 10),
                    ParamSpec("path", DataType.string, ""),
                ]),
            ),
            pip_requirements=["segue"],
        )  # fmt: skip
