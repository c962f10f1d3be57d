"""The migration page, made anew: the present evidence is kept as a look for later ones, and a page that changed is put beside
the version of the bundle that serves in MLflow."""

from __future__ import annotations

from pathlib import Path

from segue.migration.looks import append_looks
from segue.params import Params
from segue.reporting.migration_page import PAGE, write_migration_page
from segue.reporting.migration_view import gather_view, looks_file
from segue.workspace import Workspace


def report_migration(workspace: Workspace, dataset: str, params: Params) -> Path:
    """Returns the page's path. Raises ArtifactError or StateError where what it reads is damaged."""
    view = gather_view(workspace, dataset, params)
    append_looks(looks_file(workspace, dataset), view.evidence)
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
