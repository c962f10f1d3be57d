"""The inbox: files dropped into ``inbox/<dataset>/`` are appended by the next day-two run.

``events*`` are interactions, ``items*`` are catalogue rows, each ``.parquet`` or ``.csv``. A file that was taken in
moves to ``inbox/<dataset>/taken/``; one that cannot be read stays where it is, and the error names it.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from segue.canonical import sha256_of_file
from segue.data.append import append, tell
from segue.params import Params
from segue.workspace import Workspace

SUFFIXES = (".parquet", ".csv")
SETTLE_SECONDS = 10.0  # a file that was written to more recently may still be growing


def inbox(workspace: Workspace, dataset: str) -> Path:
    return workspace.root / "inbox" / dataset


def inbox_files(workspace: Workspace, dataset: str) -> list[Path]:
    """What waits, items before events, so that an event never arrives before its item."""
    folder = inbox(workspace, dataset)
    if not folder.is_dir():
        return []
    settled = time.time() - SETTLE_SECONDS
    waiting = [
        path
        for path in folder.iterdir()
        if path.is_file() and path.suffix in SUFFIXES and path.stat().st_mtime < settled
    ]
    items = sorted(path for path in waiting if path.name.startswith("items"))
    events = sorted(path for path in waiting if path.name.startswith("events"))
    return [*items, *events]


def take_inbox(workspace: Workspace, dataset: str, params: Params) -> list[str]:
    """Append every waiting file, one after another; returns a line for each.

    Raises DataError at the first file that cannot be taken in; those before it are in, it and those after it stay.
    """
    told = []
    for path in inbox_files(workspace, dataset):
        items = path.name.startswith("items")
        landed = append(
            workspace, dataset, params, events=None if items else path, items=path if items else None
        )
        taken = path.parent / "taken" / f"{sha256_of_file(path)[:12]}-{path.name}"
        taken.parent.mkdir(exist_ok=True)
        os.replace(path, taken)
        told += [f"{path.name}: {line}" for line in tell(landed)]
    return told
