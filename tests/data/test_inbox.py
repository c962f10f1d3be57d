from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from segue.data.inbox import inbox, inbox_files, take_inbox
from segue.errors import DataError
from segue.params import load_params
from segue.workspace import Workspace

DATASET = "ml-100k"


def drop(workspace: Workspace, name: str, text: str, *, age: float = 60.0) -> Path:
    path = inbox(workspace, DATASET) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def test_items_come_before_events_and_a_growing_file_waits(workspace_root: Path) -> None:
    workspace = Workspace(workspace_root)
    drop(workspace, "events.csv", "x")
    drop(workspace, "items.csv", "x")
    drop(workspace, "events-growing.csv", "x", age=0.0)
    drop(workspace, "notes.txt", "x")
    assert [path.name for path in inbox_files(workspace, DATASET)] == ["items.csv", "events.csv"]


def test_two_days_of_the_same_name_are_both_kept(workspace_root: Path) -> None:
    workspace = Workspace(workspace_root)
    params = load_params(workspace, DATASET)
    for user in ("1", "2"):
        drop(workspace, "events.csv", f"user_id,item_id,timestamp\n{user},50,893286638\n")
        assert len(take_inbox(workspace, DATASET, params)) == 1
    taken = list((inbox(workspace, DATASET) / "taken").iterdir())
    assert len(taken) == 2
    assert len(list((workspace.landing(DATASET) / "interactions").glob("*.parquet"))) == 2


def test_a_file_that_cannot_be_read_stays_where_it_is(workspace_root: Path) -> None:
    workspace = Workspace(workspace_root)
    path = drop(workspace, "events.csv", "nothing\nuseful\n")
    with pytest.raises(DataError, match=r"events\.csv"):
        take_inbox(workspace, DATASET, load_params(workspace, DATASET))
    assert path.is_file()


def test_a_file_that_was_taken_in_before_says_so(workspace_root: Path) -> None:
    workspace = Workspace(workspace_root)
    params = load_params(workspace, DATASET)
    for told in ("1 rows taken in", "already taken in"):
        drop(workspace, "events.csv", "user_id,item_id,timestamp\n1,50,893286638\n")
        assert told in take_inbox(workspace, DATASET, params)[0]
    assert not inbox_files(workspace, DATASET)
