"""From a profile's ``data`` section to two raw tables, for plain tables and for the data sets with their own
shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import polars as pl

from segue.artifacts import read_json
from segue.data.settings import ContextFeature, DataSettings, TableSource
from segue.data.sources import (
    CATALOGUE_SCHEMA,
    Kind,
    canonicalize,
    describe,
    expand,
    read_file,
    read_table,
    with_order,
)
from segue.errors import ArtifactError, DataError
from segue.schema import Catalogue, Interactions
from segue.workspace import Workspace

_NO_CATEGORIES: Final = ("unknown", "(no genres listed)")

# How the files of the built-in readers name their columns; paths count from the reader's folder.
_INTERACTIONS: Final[dict[str, TableSource]] = {
    "ml-100k": TableSource(
        path="ml-100k.inter",
        format="csv",
        separator="\t",
        columns={
            Interactions.USER: "user_id:token",
            Interactions.ITEM: "item_id:token",
            Interactions.WEIGHT: "rating:float",
            Interactions.TIMESTAMP: "timestamp:float",
        },
    ),
    "movielens": TableSource(
        path="ratings.csv",
        columns={
            Interactions.USER: "userId",
            Interactions.ITEM: "movieId",
            Interactions.WEIGHT: "rating",
            Interactions.TIMESTAMP: "timestamp",
        },
    ),
    "movietweetings": TableSource(
        path="ratings.dat",
        separator="::",
        has_header=False,
        columns={
            Interactions.USER: "1",
            Interactions.ITEM: "2",
            Interactions.WEIGHT: "3",
            Interactions.TIMESTAMP: "4",
        },
    ),
}
_CATALOGUES: Final[dict[str, TableSource]] = {
    "ml-100k": TableSource(
        path="ml-100k.item",
        format="csv",
        separator="\t",
        category_separator=" ",
        columns={
            Catalogue.ITEM: "item_id:token",
            Catalogue.TITLE: "movie_title:token_seq",
            Catalogue.YEAR: "release_year:token",
            Catalogue.CATEGORIES: "class:token_seq",
        },
    ),
    "movielens": TableSource(
        path="movies.csv",
        title_holds_year=True,
        columns={Catalogue.ITEM: "movieId", Catalogue.TITLE: "title", Catalogue.CATEGORIES: "genres"},
    ),
    "movietweetings": TableSource(
        path="movies.dat",
        separator="::",
        has_header=False,
        title_holds_year=True,
        columns={Catalogue.ITEM: "1", Catalogue.TITLE: "2", Catalogue.CATEGORIES: "3"},
    ),
    # The file's `asin` column stays out: its order betrays the order of purchase.
    "amazon-sequences": TableSource(
        path="items.csv", columns={Catalogue.ITEM: "item_id", Catalogue.TEXT: "text"}
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RawTables:
    """A dataset as it came: canonical columns, bad rows included."""

    interactions: pl.DataFrame
    catalogue: pl.DataFrame | None  # None: the dataset has none beyond the items of its interactions
    source: str
    has_timestamps: bool
    ordered: bool  # `order` is the order of time


def read_dataset(settings: DataSettings, workspace: Workspace) -> RawTables:
    """Read the sources of ``settings``. Raises DataError naming what is missing or wrong."""
    source = _describe(settings)
    if settings.reader == "tables":
        assert settings.interactions is not None
        interactions = read_table(settings.interactions, "interactions", workspace.root, settings.context)
        table = settings.catalogue
        catalogue = None if table is None else read_table(table, "catalogue", workspace.root)
    else:
        folder = data_folder(settings, workspace)
        interactions = _read_interactions(settings, folder)
        catalogue = _read_catalogue(settings.reader, folder)
    return RawTables(
        interactions=interactions,
        catalogue=catalogue,
        source=source,
        has_timestamps=interactions[Interactions.TIMESTAMP].null_count() < interactions.height,
        ordered=is_ordered(settings),
    )


def is_ordered(settings: DataSettings) -> bool:
    """Whether the rows of a user stand in order of time in the source."""
    return settings.ordered or settings.reader == "amazon-sequences"


def data_folder(settings: DataSettings, workspace: Workspace) -> Path:
    """The folder of a built-in reader, from which its image paths count too.

    Raises DataError where it does not exist, saying what to set.
    """
    if settings.folder is None:
        folder, remedy = workspace.raw(settings.reader), f"run `segue data fetch {settings.reader}`"
    else:
        folder = workspace.root / expand(settings.folder, workspace.root)
        remedy = "set SEGUE_DATA, or `data.folder` of the profile, to where the files are"
    if not folder.is_dir():
        raise DataError(f"the data folder {folder} does not exist: {remedy}")
    return folder


def source_of(settings: DataSettings, kind: Kind) -> TableSource | None:
    """The names and formats of the dataset's own files of this kind; None where it has no table of it."""
    if settings.reader == "tables":
        return settings.interactions if kind == "interactions" else settings.catalogue
    return (_INTERACTIONS if kind == "interactions" else _CATALOGUES).get(settings.reader)


def _describe(settings: DataSettings) -> str:
    if settings.reader == "ml-100k":
        return "MovieLens 100K as shipped in the wheel recbole 1.2.1"
    if settings.reader != "tables":
        return f"{settings.folder} ({settings.reader})"
    tables = (settings.interactions, settings.catalogue)
    return "; ".join(describe(table) for table in tables if table is not None)


def _file(folder: Path, name: str) -> str:
    path = folder / name
    if not path.is_file():
        raise DataError(f"{path} does not exist, and this reader needs it")
    return str(path)


def _read(
    source: TableSource,
    kind: Kind,
    folder: Path,
    context: Mapping[str, ContextFeature] | None = None,
    users: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """``users``: a table with the interactions' user column, whose other columns context features may name, too."""
    assert source.path is not None
    where = _file(folder, source.path)
    frame = read_file(where, source)
    if kind == "catalogue" and Catalogue.YEAR in source.columns:
        # A few of ML-100K's years are words (its own conversion faults): no year is what they mean.
        year = source.columns[Catalogue.YEAR]
        if year in frame.columns:
            frame = frame.with_columns(pl.col(year).str.extract(r"^(\d{4})$"))
    if users is not None:
        frame = frame.join(users, on=source.columns[Interactions.USER], how="left", maintain_order="left")
    table = canonicalize(frame, source, kind, where, context)
    if table.is_empty():
        raise DataError(f"{where} holds no rows")
    return table


def _read_interactions(settings: DataSettings, folder: Path) -> pl.DataFrame:
    if settings.reader == "amazon-sequences":
        return _read_sequences(folder, settings.context)
    users = None
    if settings.context and settings.reader == "ml-100k":
        where = _file(folder, "ml-100k.user")
        users = read_file(where, TableSource(path=where, format="csv", separator="\t"))
        # RecBole's columns carry their types: "occupation:token" is the occupation.
        users = users.rename({name: name.split(":")[0] for name in users.columns[1:]})
    source = _INTERACTIONS[settings.reader]
    return with_order(_read(source, "interactions", folder, settings.context, users))


def _read_sequences(folder: Path, context: Mapping[str, ContextFeature]) -> pl.DataFrame:
    """``sequences.txt``: a user and their items, oldest first, a line."""
    where = _file(folder, "sequences.txt")
    text = Path(where).read_text(encoding="utf-8")
    fields = pl.Series([line for line in text.splitlines() if line.strip()], dtype=pl.String).str.split(" ")
    if bool((short := fields.list.len() < 2).any()):
        raise DataError(f"{where}, sequence {(short.arg_max() or 0) + 1}: a user without items")
    events = pl.DataFrame(
        {Interactions.USER: fields.list.first(), Interactions.ITEM: fields.list.slice(1)}
    ).explode(Interactions.ITEM)
    return with_order(canonicalize(events, TableSource(path=where), "interactions", where, context))


def _read_catalogue(reader: str, folder: Path) -> pl.DataFrame:
    table = _read(_CATALOGUES[reader], "catalogue", folder)
    if reader == "movielens":
        table = _add_plots(table, folder)
    if reader == "amazon-sequences":
        table = _add_attributes(table, folder)
    element = pl.element()
    return table.with_columns(
        pl.col(Catalogue.CATEGORIES).list.eval(element.filter(~element.is_in(_NO_CATEGORIES)))
    ).select(list(CATALOGUE_SCHEMA))


def _add_plots(table: pl.DataFrame, folder: Path) -> pl.DataFrame:
    if not (folder / "plots.csv").is_file():
        return table
    source = TableSource(path="plots.csv", columns={Catalogue.ITEM: "movieId", Catalogue.TEXT: "plot"})
    plots = _read(source, "catalogue", folder).select(Catalogue.ITEM, Catalogue.TEXT)
    return table.drop(Catalogue.TEXT).join(
        plots.unique(Catalogue.ITEM, keep="first", maintain_order=True),
        on=Catalogue.ITEM,
        how="left",
        maintain_order="left",
    )


def _add_attributes(table: pl.DataFrame, folder: Path) -> pl.DataFrame:
    where = _file(folder, "item_attributes.json")
    try:
        attributes: Any = read_json(Path(where))
    except ArtifactError as error:
        raise DataError(str(error)) from error
    if not isinstance(attributes, dict) or not all(isinstance(value, list) for value in attributes.values()):
        raise DataError(f"{where} must map item ids to lists of attribute ids")
    listed = pl.DataFrame(
        {
            Catalogue.ITEM: list(attributes),
            Catalogue.CATEGORIES: [[str(value) for value in values] for values in attributes.values()],
        },
        schema={Catalogue.ITEM: pl.String, Catalogue.CATEGORIES: pl.List(pl.String)},
    )
    return table.drop(Catalogue.CATEGORIES).join(listed, on=Catalogue.ITEM, how="left", maintain_order="left")
