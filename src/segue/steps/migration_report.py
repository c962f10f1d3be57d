"""The migration page: made anew, and put beside the version of the bundle that serves in MLflow where it changed."""

from __future__ import annotations

from pathlib import Path

from segue.params import Params
from segue.reporting.migration_page import PAGE, write_migration_page
from segue.reporting.migration_view import gather_view
from segue.workspace import Workspace


def report_migration(workspace: Workspace, dataset: str, params: Params) -> Path:
    """Returns the page's path. Raises ArtifactError or StateError where what it reads is damaged."""
    view = gather_view(workspace, dataset, params)
    path = workspace.reports(dataset) / PAGE
    before = path.read_bytes() if path.is_file() else None
    write_migration_page(workspace.reports(dataset), view)
    deployment = view.deployment
    if deployment is not None and path.read_bytes() != before:
        from segue.registry.mlflow_registry import MlflowRegistry  # heavy, and seldom needed

        MlflowRegistry(workspace, dataset).attach(
            deployment.generative_bundle or deployment.champion.bundle, path
        )
    return path
