"""What Dagster's page shows of a finished step: figures, plots, links, and where it lies."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from segue.steps.runner import Outcome
from segue.workspace import Workspace

LARGEST_PLOT = 400_000  # bytes; Dagster keeps metadata in its event log


def outcome_metadata(workspace: Workspace, outcome: Outcome, record: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata of one materialization."""
    assert outcome.manifest is not None
    folder = workspace.step(outcome.manifest.dataset, outcome.step)
    metadata: dict[str, Any] = {
        "status": outcome.status,
        "message": outcome.message or outcome.status,
        "seconds": float(record.get("seconds", outcome.seconds)),
        "folder": dg.MetadataValue.path(str(folder)),
        "files": len(outcome.manifest.files),
        "bytes": sum(entry.size for entry in outcome.manifest.files.values()),
        "content_sha256": outcome.manifest.content_sha256,
    }
    for name, value in record.get("metrics", {}).items():
        metadata[name.replace("@", "_at_")] = value
    for plot in record.get("plots", []):
        path = Path(plot)
        if path.suffix == ".png" and path.is_file() and path.stat().st_size <= LARGEST_PLOT:
            encoded = base64.b64encode(path.read_bytes()).decode("ascii")
            metadata[path.stem] = dg.MetadataValue.md(f"![{path.stem}](data:image/png;base64,{encoded})")
        elif path.suffix == ".html" and path.is_file():
            metadata[path.stem] = dg.MetadataValue.path(str(path))
    return metadata
