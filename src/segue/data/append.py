"""Data that arrives later: checked whole, landed once, and merged into the dataset at its next ingestion.

``state/<dataset>/landing/{interactions,items}/<sha16>.parquet`` hold what was appended, in canonical columns; the name is the
hash of the rows, so that the same rows land once, whatever file brought them. ``landing/arrivals.json`` keeps
their order.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import polars as pl

from segue.artifacts import read_json, replace_folder, temporary_file, temporary_folder, write_json
from segue.data.context import pack
from segue.data.csv_shape import best_separator, named, split
from segue.data.erasure import Erasures
from segue.data.readers import is_ordered, source_of
from segue.data.settings import DataSettings, TableSource
from segue.data.sources import (
    CATALOGUE_SCHEMA,
    Kind,
    canonicalize,
    find_mapping,
    first_lines,
    is_parquet,
    list_files,
    read_file,
    with_order,
)
from segue.errors import DataError
from segue.lock import dataset_lock
from segue.params import Params
from segue.schema import Catalogue, Interactions
from segue.workspace import Workspace

ARRIVALS: Final = "arrivals.json"
_FOLDERS: Final[dict[Kind, str]] = {"interactions": "interactions", "catalogue": "items"}


def append(
    workspace: Workspace, dataset: str, params: Params, events: Path | None, items: Path | None
) -> dict[str, Any]:
    """Land the files ``events`` and ``items``.

    They are CSV or Parquet (a file, or a folder of them), in our column names or in those of the dataset's own
    source. Both are read and checked before anything is written. Returns, for ``interactions`` and ``items``, None or
    {rows, file, new, bad}; ``new`` is false where the same rows had landed before, and then nothing is added; ``bad`` are
    the numbers of rows by the reason why validation will set them aside (items that the catalogue lacks not among them).
    Raises DataError as ingestion does, and where neither file is given.
    """
    if events is None and items is None:
        raise DataError("nothing to append: give --events, --items or both")
    tables: dict[Kind, pl.DataFrame] = {}
    if events is not None:
        tables["interactions"] = _read_events(events, params.data)
    if items is not None:
        tables["catalogue"] = _read_appended(items, "catalogue", params.data)
    with dataset_lock(workspace.state(dataset), purpose=f"append to {dataset}"):
        landing = _landing(workspace, dataset)
        landed = {
            kind: {**_land(landing, kind, table), "bad": _bad_rows(kind, table, params)}
            for kind, table in tables.items()
        }
    return {folder: landed.get(kind) for kind, folder in _FOLDERS.items()}


def tell(landed: Mapping[str, Any]) -> list[str]:
    """What :func:`append` did, a line for each table, and what of it will not do."""
    told = []
    for kind, one in landed.items():
        if one is None:
            continue
        if one["new"]:
            told.append(f"{kind}: {one['rows']} rows taken in as {one['file']}")
        else:
            told.append(
                f"{kind}: already taken in ({one['file']} holds the same {one['rows']} rows), so nothing was done"
            )
        told += [
            f"{kind}: {count} of {one['rows']} rows will be set aside: {reason}"
            for reason, count in one["bad"].items()
        ]
    return told


def _bad_rows(kind: Kind, table: pl.DataFrame, params: Params) -> dict[str, int]:
    from segue.data.expectations import catalogue_rules, interaction_rules  # heavy: validation's library

    settings, now = params.validation, int(time.time())
    if kind == "catalogue":
        # A later row of an item updates it, and is not set aside.
        rules = [rule for rule in catalogue_rules(settings, now=now) if rule.name != "item_is_new"]
    else:
        rules = interaction_rules(
            settings, now=now, has_timestamps=not is_ordered(params.data), known_items=None
        )
    counts = table.select(
        rule.bad.fill_null(False).sum().alias(rule.reason) for rule in rules if not rule.empties
    ).row(0, named=True)
    return {reason: int(count) for reason, count in counts.items() if count}


def read_landed(workspace: Workspace, dataset: str, kind: Kind) -> list[pl.DataFrame]:
    """Everything of ``kind`` that was appended, in order of arrival.

    A file that somebody else put there comes after those, by name. Raises DataError for one that is damaged
    or does not have our columns.
    """
    landing = _landing(workspace, dataset)
    folder = landing / _FOLDERS[kind]
    names = {path.stem: path for path in sorted(folder.glob("*.parquet")) if not path.name.startswith(".")}
    arrived = [name for name in _arrivals(landing)[_FOLDERS[kind]] if name in names]
    tables = []
    for name in (*arrived, *(name for name in names if name not in set(arrived))):
        source = TableSource(path=str(names[name]), format="parquet")
        frame = read_file(str(names[name]), source)
        table = canonicalize(frame, source, kind, str(names[name]))
        if kind == "interactions" and Interactions.CONTEXT in frame.columns:
            table = table.with_columns(frame[Interactions.CONTEXT].cast(pl.String))
        tables.append(with_order(table) if kind == "interactions" else table)
    return tables


def drop_landed(workspace: Workspace, dataset: str, erased: Erasures) -> int:
    """Remove the erased users' events from what was appended; the number of rows.

    A file keeps its name, the hash of what it held first: the same rows do not land again.
    """
    removed = 0
    for path in sorted((_landing(workspace, dataset) / _FOLDERS["interactions"]).glob("*.parquet")):
        table = pl.read_parquet(path)
        if path.name.startswith(".") or Interactions.USER not in table.columns:
            continue  # half written, or put there by somebody in other columns: reading it says so
        left = erased.drop_from(table)
        if left.height < table.height:
            with temporary_file(path) as temporary:
                left.write_parquet(temporary)
            removed += table.height - left.height
    return removed


def add_events(base: pl.DataFrame, appended: Sequence[pl.DataFrame], *, has_timestamps: bool) -> pl.DataFrame:
    """``base`` and everything appended to it, in order of arrival, ``order`` counted through.

    Where the base carries order instead of time, so does what is appended; where no context is declared any more, what
    was appended loses its own.
    """
    kept = [table.select(name for name in table.columns if name in base.columns) for table in appended]
    events = with_order(pl.concat([base, *kept], how="diagonal").drop(Interactions.ORDER))
    if has_timestamps:
        return events
    return events.with_columns(pl.lit(None, dtype=pl.Int64).alias(Interactions.TIMESTAMP))


def add_items(base: pl.DataFrame, appended: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """``base`` with the appended items: a known item_id is updated in place, a new one added at the end.

    The last one wins, field by field: a field that the later row leaves empty keeps its former value. Rows of
    ``base`` that repeat an id, and rows without one, stay as they are, for validation to judge.
    """
    if not appended:
        return base
    fields = [name for name in CATALOGUE_SCHEMA if name != Catalogue.ITEM]
    everything = pl.concat(appended)
    # A repeated id in the base is a fault, for validation to name; among the appends it is history.
    latest = (
        everything.filter(pl.col(Catalogue.ITEM).is_not_null())
        .group_by(Catalogue.ITEM, maintain_order=True)
        .agg(pl.col(name).drop_nulls().last() for name in fields)
    )
    updated = base.join(
        latest, on=Catalogue.ITEM, how="left", suffix="_appended", maintain_order="left"
    ).select(pl.col(Catalogue.ITEM), *(pl.coalesce(f"{name}_appended", name).alias(name) for name in fields))
    added = latest.join(base, on=Catalogue.ITEM, how="anti", maintain_order="left")
    nameless = everything.filter(pl.col(Catalogue.ITEM).is_null())
    columns = list(CATALOGUE_SCHEMA)
    return pl.concat([updated.select(columns), added.select(columns), nameless.select(columns)])


def _landing(workspace: Workspace, dataset: str) -> Path:
    """Where appended data lies; what an older version put under data/ is moved there, once, and that is said.

    Raises DataError where both places hold something: which one is right, nobody but its owner can know.
    """
    landing, former = workspace.landing(dataset), workspace.former_landing(dataset)
    if not former.is_dir():
        return landing
    if landing.exists():
        raise DataError(
            f"appended data lies in {former} and in {landing}: move the former's files into the latter and remove it"
        )
    landing.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.rename(former, landing)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with temporary_folder(
            landing
        ) as temporary:  # another file system: whole there before it is removed here
            shutil.copytree(former, temporary, dirs_exist_ok=True)
            replace_folder(temporary, landing)
        shutil.rmtree(former)
    print(f"{dataset}: moved what was appended from {former} to {landing}", file=sys.stderr, flush=True)
    return landing


def _read_events(path: Path, settings: DataSettings) -> pl.DataFrame:
    table = _read_appended(path, "interactions", settings)
    if table[Interactions.TIMESTAMP].null_count() == table.height and not is_ordered(settings):
        raise DataError(f"{path}: no event has a timestamp, and this dataset is not one of ordered sequences")
    return table


def _read_appended(path: Path, kind: Kind, settings: DataSettings) -> pl.DataFrame:
    whole = path.expanduser().absolute()
    if not whole.is_dir():
        return _read_one(str(whole), kind, settings)
    parts = list_files(TableSource(path=str(whole)), kind, whole.parent)
    return pl.concat([_read_one(part, kind, settings) for part in parts])


def _read_one(name: str, kind: Kind, settings: DataSettings) -> pl.DataFrame:
    source = source_of(settings, kind)
    ours = TableSource(path=name, title_holds_year=source is not None and source.title_holds_year)
    theirs = None if source is None else _renamed(source, name)
    # A headerless source matches anything, so there our names are tried first.
    candidates = [ours] if theirs is None else [theirs, ours] if theirs.has_header else [ours, theirs]
    found: list[str] = []
    faults: dict[bool, DataError] = {}  # by whether they are of the dataset's own format
    for candidate in candidates:
        try:
            frame = read_file(name, candidate)
        except DataError as error:
            faults[candidate is theirs] = error
            continue
        if len(frame.columns) > len(found):
            found = frame.columns
        if candidate is theirs and _is_in_our_names(frame.columns, candidate):
            continue
        if find_mapping(frame.columns, candidate.columns, kind):
            if kind == "interactions" and (candidate is ours or not _is_csv(source)):
                candidate = _guess_unit(frame, candidate)
            # The profile's columns are right, since other files of the dataset have them.
            table = canonicalize(
                frame, candidate, kind, name, mend="add it, empty where there is nothing to say"
            )
            if kind == "interactions" and settings.context:
                table = table.with_columns(pack(frame, settings.context, name, lenient=True))
            if table.is_empty():
                raise DataError(f"{name} holds no rows")
            return table
    if told := _other_separator(name, candidates, kind):
        raise DataError(told)
    if faults:
        raise faults[max(faults)]
    needed = ["user_id and item_id" if kind == "interactions" else "item_id"]
    if source is not None and source.columns:
        mapped = (source.columns.get(column) for column in (Interactions.USER, Interactions.ITEM))
        needed.append(" and ".join(repr(column) for column in mapped if column))
    raise DataError(f"{name} has the columns {', '.join(map(repr, found))}; it needs {', or '.join(needed)}")


def _is_in_our_names(columns: Sequence[str], source: TableSource) -> bool:
    """Whether a column that ``source`` calls otherwise is there under our name only: where the source's ids bear our
    names, they do not tell its files from files in our names."""
    lowered = {name.lower() for name in columns}
    return any(name in lowered and called.lower() not in lowered for name, called in source.columns.items())


def _other_separator(name: str, candidates: Sequence[TableSource], kind: Kind) -> str | None:
    """What to say of a file that has the right columns between the wrong separators."""
    lines = first_lines(name, candidates[0])
    if len(lines) < 2 or (separator := best_separator(lines)) is None:
        return None
    header = split(lines[:1], separator)[0]
    for candidate in candidates:
        columns = header if candidate.has_header else [str(number) for number in range(1, len(header) + 1)]
        if separator != candidate.separator and find_mapping(columns, candidate.columns, kind):
            return (
                f"{name} is cut at {named(separator)}, expected is {named(candidate.separator)} for the columns "
                f"{', '.join(map(repr, columns))}: write it with {named(candidate.separator)}"
            )
    return None


def _is_csv(source: TableSource | None) -> bool:
    """Whether the profile's timestamp unit was said of texts; Parquet and SQL have types of their own."""
    return (
        source is None
        or source.format == "csv"
        or (source.path is not None and not is_parquet(source.path, source))
    )


def _renamed(source: TableSource, path: str) -> TableSource:
    """``source``'s names and formats for another file, whose own ending says whether it is CSV or Parquet."""
    return source.model_copy(update={"path": path, "sql": None, "query": None, "format": "auto"})


def _guess_unit(frame: pl.DataFrame, source: TableSource) -> TableSource:
    """Where the profile says nothing of it, a timestamp is seconds, or ISO 8601 where it is no number."""
    column = source.columns.get(Interactions.TIMESTAMP, Interactions.TIMESTAMP)
    if column in frame.columns and frame[column].dtype == pl.String:
        values = frame[column].drop_nulls()
        if not values.is_empty() and values.head(1).cast(pl.Float64, strict=False).null_count():
            return source.model_copy(update={"timestamp_unit": "iso"})
    return source


def _land(landing: Path, kind: Kind, table: pl.DataFrame) -> dict[str, Any]:
    folder = landing / _FOLDERS[kind]
    name = _hash_rows(table)
    path = folder / f"{name}.parquet"
    arrivals = _arrivals(landing)
    new = not path.is_file()
    if new:
        with temporary_file(path) as temporary:
            (with_order(table) if kind == "interactions" else table).write_parquet(temporary)
    if name not in arrivals[_FOLDERS[kind]]:
        arrivals[_FOLDERS[kind]].append(name)
        write_json(landing / ARRIVALS, arrivals)
    return {"rows": table.height, "file": path.name, "new": new}


def _hash_rows(table: pl.DataFrame) -> str:
    return hashlib.sha256(table.write_ndjson().encode("utf-8")).hexdigest()[:16]


def _arrivals(landing: Path) -> dict[str, list[str]]:
    path = landing / ARRIVALS
    if not path.is_file():
        return {folder: [] for folder in _FOLDERS.values()}
    value: Any = read_json(path)
    return {folder: [str(name) for name in value.get(folder, [])] for folder in _FOLDERS.values()}
