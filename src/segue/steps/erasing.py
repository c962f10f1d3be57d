"""Erasing a user everywhere: the online store, what was appended, the kept splits, and every later ingestion.

The store's own list of erased users is the truth, and is written first. From it follows, again at the beginning of
every ingestion, all the rest; so a kill in between, or an erasure made on another machine, is caught up there.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from segue.artifacts import commit, read_json, read_manifest, temporary_folder, write_json
from segue.bases import read_base, write_base
from segue.data.append import drop_landed
from segue.data.erasure import Erasures, read_erasures, write_erasures
from segue.errors import LockedError, UnavailableError
from segue.lock import dataset_lock
from segue.serving.store import Store, open_store, store_exists
from segue.workspace import Workspace

SPLITS = "splits"
EVENTS_FILE = "interactions.parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """What was removed from the files: rows of appended events, copies of kept splits that held the user."""

    appended_rows: int
    kept_splits: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Erased:
    """What was removed: rows of the store by table, and files (None: a run holds the dataset, the next one sweeps)."""

    rows: dict[str, int]
    swept: Swept | None


def erase_user(workspace: Workspace, dataset: str, user_id: str) -> Erased:
    """Erase a user. Repeating it is harmless. Raises UnavailableError, before anything is done, without the store."""
    store = open_store(workspace, dataset)
    try:
        rows = store.erase_user(user_id)
        erased = write_erasures(workspace, dataset, store.salt, store.erased())
    finally:
        store.close()
    try:
        with dataset_lock(workspace.state(dataset), wait_seconds=0, purpose=f"erasure from {dataset}"):
            return Erased(rows=rows, swept=_sweep(workspace, dataset, erased))
    except LockedError:
        return Erased(rows=rows, swept=None)


def readmit_user(workspace: Workspace, dataset: str, user_id: str) -> bool:
    """Keep what an erased user does from now on, and what the sources say of them; whether they had been erased."""
    store = open_store(workspace, dataset)
    try:
        found = store.readmit_user(user_id)
        write_erasures(workspace, dataset, store.salt, store.erased())
    finally:
        store.close()
    return found


def follow_erasures(workspace: Workspace, dataset: str) -> Erasures:
    """Take over whom the store has erased, and sweep the files; called under the dataset's lock.

    Raises UnavailableError where there is a store and it cannot be asked: a user that was erased must not come back
    because a database was away.
    """
    erased = read_erasures(workspace, dataset)
    if store_exists(workspace, dataset):
        store: Store | None = None
        try:
            store = open_store(workspace, dataset)
            erased = write_erasures(workspace, dataset, store.salt, store.erased())
        except UnavailableError as error:
            raise UnavailableError(
                f"who was erased cannot be asked, so nothing is ingested: {error}"
            ) from error
        finally:
            if store is not None:
                store.close()
    if erased:
        _sweep(workspace, dataset, erased)
    return erased


def _sweep(workspace: Workspace, dataset: str, erased: Erasures) -> Swept:
    rows = drop_landed(workspace, dataset, erased)
    replaced: dict[str, str] = {}
    kept = workspace.kept(dataset) / SPLITS
    for folder in sorted(kept.iterdir()) if kept.is_dir() else ():
        if not folder.name.startswith(".") and (left := _without(folder, erased)) is not None:
            replaced[folder.name] = _keep_instead(folder, left)
    if replaced:
        _rename_in_records(workspace, dataset, replaced)
        for name in replaced:
            shutil.rmtree(kept / name)
    return Swept(appended_rows=rows, kept_splits=len(replaced))


def _without(folder: Path, erased: Erasures) -> pl.DataFrame | None:
    """The events of kept splits without the erased users; None where they hold none of them."""
    table = pl.read_parquet(folder / EVENTS_FILE)
    left = erased.drop_from(table)
    return None if left.height == table.height else left


def _keep_instead(folder: Path, events: pl.DataFrame) -> str:
    """A copy of a kept artifact with other events, under the hash of its own content, which is returned."""
    manifest = read_manifest(folder)
    with temporary_folder(folder) as temporary:
        shutil.copytree(folder, temporary, dirs_exist_ok=True)
        events.write_parquet(temporary / EVENTS_FILE)
        sealed = temporary.with_name(f"{temporary.name}-sealed")
        made = commit(
            temporary,
            sealed,
            step=manifest.step,
            dataset=manifest.dataset,
            params_sha256=manifest.params_sha256,
            inputs=manifest.inputs,
            code_version=manifest.code_version,
        )
        target = folder.with_name(made.content_sha256)
        if target.exists():  # a kill came between this and the records
            shutil.rmtree(sealed)
        else:
            sealed.rename(target)
    return made.content_sha256


def _rename_in_records(workspace: Workspace, dataset: str, replaced: dict[str, str]) -> None:
    for path in sorted((workspace.kept(dataset) / "bundles").glob("*.json")):
        made_from = read_json(path)
        assert isinstance(made_from, dict)
        if made_from.get(SPLITS) in replaced:
            write_json(path, {**made_from, SPLITS: replaced[made_from[SPLITS]]})
    if workspace.base_file(dataset).is_file():
        base = read_base(workspace, dataset)
        if (held := base[SPLITS]) in replaced and held is not None:
            write_base(workspace, dataset, {**base, SPLITS: replaced[held]})
