"""Which datasets this code location shows: the list of params.yaml, and one more that a command line asks for."""

from __future__ import annotations

import os

from segue.params import active_datasets
from segue.workspace import Workspace

ONE_MORE = "SEGUE_DATASET"


def datasets() -> list[str]:
    """Names of the datasets, the active ones first."""
    names = list(active_datasets(Workspace.find()))
    if (asked := os.environ.get(ONE_MORE)) and asked not in names:
        names.append(asked)
    return names


def identifier(dataset: str) -> str:
    """The dataset's name as Dagster allows it in job, schedule and sensor names."""
    return dataset.replace("-", "_")
