"""Tables as users have them: CSV, Parquet or SQL in, canonical columns out.

Everything is read as it stands. A cell that cannot be what its column is said to be (a word for a weight) is
the user's to mend and raises; a cell that is merely bad (no id, a weight that is NaN) stays, for validation
to set aside.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import fsspec
import polars as pl
from fsspec.core import url_to_fs

from segue.data.context import pack
from segue.data.csv_shape import find_fault, fitting, named
from segue.data.settings import ContextFeature, TableSource
from segue.errors import DataError
from segue.schema import Catalogue, Interactions

Kind = Literal["interactions", "catalogue"]
Type = Literal["id", "text", "number", "integer", "time", "categories"]

INTERACTIONS_SCHEMA: Final[dict[str, pl.DataType]] = {
    Interactions.USER: pl.String(),
    Interactions.ITEM: pl.String(),
    Interactions.TIMESTAMP: pl.Int64(),
    Interactions.ORDER: pl.Int64(),
    Interactions.ACTION: pl.String(),
    Interactions.WEIGHT: pl.Float64(),
}
CATALOGUE_SCHEMA: Final[dict[str, pl.DataType]] = {
    Catalogue.ITEM: pl.String(),
    Catalogue.TITLE: pl.String(),
    Catalogue.TEXT: pl.String(),
    Catalogue.CATEGORIES: pl.List(pl.String()),
    Catalogue.YEAR: pl.Int32(),
    Catalogue.PRICE: pl.Float64(),
    Catalogue.CREATED_AT: pl.Int64(),
    Catalogue.IMAGE: pl.String(),
}
_TYPES: Final[dict[Kind, dict[str, Type]]] = {
    "interactions": {
        Interactions.USER: "id",
        Interactions.ITEM: "id",
        Interactions.TIMESTAMP: "time",
        Interactions.ACTION: "text",
        Interactions.WEIGHT: "number",
    },
    "catalogue": {
        Catalogue.ITEM: "id",
        Catalogue.TITLE: "text",
        Catalogue.TEXT: "text",
        Catalogue.CATEGORIES: "categories",
        Catalogue.YEAR: "integer",
        Catalogue.PRICE: "number",
        Catalogue.CREATED_AT: "time",
        Catalogue.IMAGE: "text",
    },
}
REQUIRED: Final[dict[Kind, tuple[str, ...]]] = {
    "interactions": (Interactions.USER, Interactions.ITEM),
    "catalogue": (Catalogue.ITEM,),
}
_PARQUET: Final = b"PAR1"  # with which every Parquet file begins
# The year that ends a film's title: "Heat (1995)", "Babylon 5 (1993-1998)".
_TITLE_AND_YEAR: Final = r"^(?<title>.*?)\s*\((?<year>\d{4})(?:[-–]\d{0,4})?\)\s*$"
_UNITS: Final = {"s": 1, "ms": 1_000, "us": 1_000_000}
_ENDINGS: Final = {
    "parquet": (".parquet", ".pq"),
    "csv": (".csv", ".tsv", ".txt", ".dat", ".csv.gz", ".tsv.gz", ".txt.gz", ".dat.gz"),
}
_ISO_FORMATS: Final = ("%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d")
_ISO_WITH_ZONE: Final = "%Y-%m-%dT%H:%M:%S%.f%z"


def read_table(
    source: TableSource, kind: Kind, root: Path, context: Mapping[str, ContextFeature] | None = None
) -> pl.DataFrame:
    """The table of ``source`` in canonical columns and types, rows as they came.

    Of ``context`` features interactions get the column ``context``.

    Ids are strings, never stripped; timestamps int64 seconds; columns that the source lacks are null.
    ``interactions`` get ``order``, the row number.

    Raises DataError naming the file, row and column where it is missing, empty, unreadable or wrongly typed.
    """
    if source.sql is not None:
        parts = [
            canonicalize(_read_sql(source, source.sql, kind), source, kind, f"the query of {kind}", context)
        ]
    else:
        names = list_files(source, kind, root)
        parts = [canonicalize(read_file(name, source), source, kind, name, context) for name in names]
    table = pl.concat(parts)
    if table.is_empty():
        raise DataError(f"{kind}: {describe(source)} holds no rows: check that it is the right one")
    return with_order(table) if kind == "interactions" else table


def with_order(table: pl.DataFrame) -> pl.DataFrame:
    """``table`` with its row numbers as ``order``, in the schema of interactions."""
    columns = list(INTERACTIONS_SCHEMA)
    if Interactions.CONTEXT in table.columns:
        columns.append(Interactions.CONTEXT)
    return table.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias(Interactions.ORDER)).select(
        columns
    )


def describe(source: TableSource) -> str:
    """The source in words, as the profile says it, without a password."""
    if source.path is not None:
        return source.path
    assert source.sql is not None
    if source.sql.startswith("env:"):
        return f"the database of {source.sql}"
    return f"the database {_hide_password(source.sql)}"


def expand(path: str, root: Path) -> str:
    """``path`` with its environment variables and ``~`` expanded.

    ``SEGUE_DATA`` defaults to ``../shared/data`` beside the checkout ``root``, where that exists. Raises
    DataError naming a variable that is not set.
    """
    beside = root.parent / "shared" / "data"

    def value(match: re.Match[str]) -> str:
        name = match.group(1) or match.group(2)
        if (set_to := os.environ.get(name)) is not None:
            return set_to
        if name == "SEGUE_DATA" and beside.is_dir():
            return str(beside)
        raise DataError(
            f"{path!r} needs the environment variable {name}, which is not set: "
            f"set {name} to the folder that holds the data"
        )

    return os.path.expanduser(re.sub(r"\$(?:\{(\w+)\}|(\w+))", value, path))


def read_file(name: str, source: TableSource) -> pl.DataFrame:
    """One file as it stands; CSV as strings. ``name`` is a path or URL. Raises DataError."""
    content = _read_bytes(name)
    starts_as_parquet = content.startswith(_PARQUET)
    if is_parquet(name, source) or (source.format == "auto" and starts_as_parquet):
        if content and not starts_as_parquet:
            raise DataError(
                f"{name} is no Parquet file: give it the ending of what it is (.csv), or write it again"
            )
        return _parse_parquet(content, name)
    if starts_as_parquet:
        raise DataError(f"{name} is a Parquet file: say `format: parquet` in the profile")
    return _parse_csv(content, name, source)


def first_lines(name: str, source: TableSource) -> list[str]:
    """The first lines of a CSV that are not blank, as text; none of a Parquet file. Raises DataError."""
    content = _read_bytes(name)
    if content.startswith(_PARQUET) or is_parquet(name, source):
        return []
    lines = _decode(content, name, source.encoding)[:1_000_000].splitlines()
    return [line for line in lines[:200] if line.strip()]


def _read_bytes(name: str) -> bytes:
    try:
        with fsspec.open(name, "rb", compression="infer") as file:
            content: bytes = file.read()
    except FileNotFoundError as error:
        raise DataError(f"{name} does not exist") from error
    except (OSError, EOFError, ValueError, ImportError) as error:
        raise DataError(f"{name} cannot be read: {error}") from error
    return content


def canonicalize(
    frame: pl.DataFrame,
    source: TableSource,
    kind: Kind,
    where: str,
    context: Mapping[str, ContextFeature] | None = None,
    mend: str | None = None,
) -> pl.DataFrame:
    """``frame`` in the columns and types of ``kind`` (interactions still without ``order``), with ``context`` features
    as the column ``context``.

    A mapped column, and an unmapped one that bears our name, is found exactly or, failing that, by its only
    spelling in other case. Raises DataError for a missing column, naming those that exist and the ``mend`` (None: to
    map another column), and for a value of the wrong type.
    """
    types = _TYPES[kind]
    if unknown := sorted(set(source.columns) - set(types)):
        raise DataError(
            f"`columns` of {kind} maps {unknown[0]!r}, which is no column of ours; "
            f"ours are {', '.join(types)}"
        )
    schema = INTERACTIONS_SCHEMA if kind == "interactions" else CATALOGUE_SCHEMA
    columns: list[pl.Series] = []
    for ours, type_ in types.items():
        theirs = _find_column(frame, source.columns.get(ours, ours))
        if theirs is None:
            if ours in source.columns or ours in REQUIRED[kind]:
                raise DataError(
                    _cut_otherwise(frame, source, where)
                    or f"{where}: no column {source.columns.get(ours, ours)!r} for {ours}; it has "
                    f"{', '.join(repr(name) for name in frame.columns)}: "
                    + (mend or f"name the right one under `columns: {{{ours}: …}}` of {kind}")
                )
            columns.append(pl.Series(ours, [None] * frame.height, dtype=schema[ours]))
        else:
            columns.append(_cast(frame[theirs], type_, source, f"{where}: column {theirs!r}").alias(ours))
    table = pl.DataFrame(columns).cast({name: schema[name] for name in types})
    if kind == "interactions" and context:
        table = table.with_columns(pack(frame, context, where))
    if kind == "catalogue" and source.title_holds_year:
        found = split_title(table[Catalogue.TITLE])
        # A year of its own column is the better one.
        table = table.with_columns(
            found[Catalogue.TITLE], table[Catalogue.YEAR].fill_null(found[Catalogue.YEAR])
        )
    return table


def split_title(titles: pl.Series) -> pl.DataFrame:
    """``titles`` that may end in a year, as columns title and year (int32, null where there is none)."""
    found = titles.str.extract_groups(_TITLE_AND_YEAR).struct.unnest()
    return pl.DataFrame(
        {
            Catalogue.TITLE: found["title"].fill_null(titles),
            Catalogue.YEAR: found["year"].cast(pl.Int32),
        }
    )


def find_mapping(columns: list[str], mapping: Mapping[str, str], kind: Kind) -> bool:
    """Whether a file with ``columns`` answers to ``mapping``: all that is required, under the mapped
    names."""
    lowered = {name.lower() for name in columns}
    return all(mapping.get(name, name).lower() in lowered for name in REQUIRED[kind])


def _cut_otherwise(frame: pl.DataFrame, source: TableSource, where: str) -> str | None:
    """What to say of a CSV that its separator does not cut at all while another would."""
    if frame.width != 1 or source.path is None or is_parquet(source.path, source):
        return None
    lines = [str(value) for value in frame.to_series().drop_nulls().head(200).to_list()]
    other = fitting([*frame.columns, *lines] if source.has_header else lines, source.separator)
    if other is None:
        return None
    return (
        f"{where} has one column when cut at {named(source.separator)}; {named(other)} fits: "
        f"set `separator: {other!r}`"
    )


def _find_column(frame: pl.DataFrame, name: str) -> str | None:
    if name in frame.columns:
        return name
    similar = [column for column in frame.columns if column.lower() == name.lower()]
    return similar[0] if len(similar) == 1 else None


def is_parquet(name: str, source: TableSource) -> bool:
    """Whether ``name`` is to be read as Parquet, by what the profile says or by its ending."""
    return source.format == "parquet" or (
        source.format == "auto" and name.lower().endswith(_ENDINGS["parquet"])
    )


def list_files(source: TableSource, kind: Kind, root: Path) -> list[str]:
    """The files of ``source.path`` (a file, folder, glob or URL), by name. Raises DataError where there is none."""
    assert source.path is not None
    path = expand(source.path, root)
    if "://" not in path:
        path = str(root / path)
    try:
        filesystem, inner = url_to_fs(path)
        if any(character in inner for character in "*?["):
            found = [name for name in filesystem.glob(inner) if filesystem.isfile(name)]
        elif filesystem.isdir(inner):
            endings = tuple(
                ending
                for format_, some in _ENDINGS.items()
                if source.format in ("auto", format_)
                for ending in some
            )
            found = [name for name in filesystem.find(inner) if name.lower().endswith(endings)]
        elif filesystem.exists(inner):
            return [path]
        else:
            raise DataError(f"{kind}: {path} does not exist")
    except (ImportError, ValueError, OSError) as error:
        raise DataError(f"{kind}: {path} cannot be listed: {error}") from error
    # Hidden and underscored names are what engines leave beside their parts (_SUCCESS, .part-0.crc).
    names = sorted(name for name in map(str, found) if not name.rsplit("/", 1)[-1].startswith((".", "_")))
    if not names:
        raise DataError(f"{kind}: no CSV or Parquet file under {path}")
    return [filesystem.unstrip_protocol(name) if "://" in path else name for name in names]


def _parse_parquet(content: bytes, name: str) -> pl.DataFrame:
    try:
        return pl.read_parquet(io.BytesIO(content))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(
            f"{name} is no whole Parquet file, it may be truncated: "
            f"copy or write it again ({_first_line(error)})"
        ) from error


def _parse_csv(content: bytes, name: str, source: TableSource) -> pl.DataFrame:
    text = _decode(content, name, source.encoding)
    if not text.strip():
        raise DataError(f"{name} is empty: was it written to the end?")
    if len(source.separator) > 1:
        return _split_lines(text, name, source)
    try:
        frame = pl.read_csv(
            text.encode("utf-8"), separator=source.separator, has_header=source.has_header, infer_schema=False
        )
    except pl.exceptions.PolarsError as error:
        broken = find_fault(text, source.separator) or _first_line(error)
        raise DataError(
            f"{name}, {broken}: mend it there, or name the right `separator` in the profile"
        ) from error
    # polars fills a row that is too short with nulls. Such a row ends in a null, so the costly look is seldom needed.
    if frame.width > 1 and frame.to_series(-1).null_count() and (fault := find_fault(text, source.separator)):
        raise DataError(f"{name}, {fault}: mend it there")
    if not source.has_header:
        frame.columns = [str(number) for number in range(1, frame.width + 1)]
    return frame


def _decode(content: bytes, name: str, encoding: str) -> str:
    try:
        return content.decode("utf-8-sig" if encoding.lower() in ("utf8", "utf-8") else encoding)
    except LookupError as error:
        raise DataError(f"`encoding: {encoding}` is none that Python knows; try utf8 or latin-1") from error
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(
            f"{name}, line {line}: byte 0x{content[error.start]:02x} is not {encoding}: if the file is "
            "older or from Windows, say `encoding: latin-1` in the profile"
        ) from error


def _split_lines(text: str, name: str, source: TableSource) -> pl.DataFrame:
    if (fault := find_fault(text, source.separator)) is not None:
        raise DataError(f"{name}, {fault}: mend it there, or name the right `separator` in the profile")
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    rows = [line.split(source.separator) for line in lines if line]
    width = len(rows[0])
    header = rows.pop(0) if source.has_header else [str(number) for number in range(1, width + 1)]
    if len(set(header)) != width:
        raise DataError(f"{name}: two columns have the same name in {', '.join(header)}")
    return pl.DataFrame(
        {column: [fields[index] or None for fields in rows] for index, column in enumerate(header)},
        schema=dict.fromkeys(header, pl.String),
    )


def _read_sql(source: TableSource, url: str, kind: Kind) -> pl.DataFrame:
    import sqlalchemy
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    assert source.query is not None
    if url.startswith("env:"):
        name = url.removeprefix("env:")
        if name not in os.environ:
            raise DataError(f"{kind}: the environment variable {name} holds no database URL: set it")
        url = os.environ[name]
    try:
        engine = sqlalchemy.create_engine(url)
    except (ArgumentError, SQLAlchemyError, ImportError) as error:
        # The URL's own text stays out of the message and of its chain: it may hold a password.
        raise DataError(
            f"{kind}: {describe(source)} cannot be opened ({type(error).__name__}): check the URL, "
            "and that the database's driver is installed"
        ) from None
    if (
        engine.dialect.name == "sqlite"
        and (file := engine.url.database)
        and not file.startswith(("file:", ":"))
    ):
        place = Path(file).resolve()  # SQLite would make an empty database there
        if not place.is_file():
            raise DataError(
                f"{kind}: {describe(source)}: {place} is missing; a relative path counts from the folder of the command: "
                "`sqlite:////` and the whole path means the same everywhere"
            )
    try:
        with engine.connect() as connection:
            return pl.read_database(source.query, connection, infer_schema_length=None)
    except SQLAlchemyError as error:
        raise DataError(f"{kind}: {describe(source)} refused the query: {_first_line(error)}") from error
    except pl.exceptions.PolarsError as error:
        raise DataError(
            f"{kind}: the answer of {describe(source)} is no table: {_first_line(error)}"
        ) from error
    finally:
        engine.dispose()


def _hide_password(url: str) -> str:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return "of `sql` (which is no SQLAlchemy URL)"


def _cast(column: pl.Series, type_: Type, source: TableSource, where: str) -> pl.Series:
    match type_:
        case "id" | "text":
            return _as_text(column, where)
        case "number":
            return _as_number(column, where, "no number")
        case "integer":
            numbers = _as_number(column, where, "no whole number").fill_nan(None)
            whole = numbers.cast(pl.Int32, strict=False)
            _refuse(
                column,
                numbers.is_not_null() & (whole.is_null() | (whole != numbers)),
                where,
                "no whole number",
            )
            return whole
        case "time":
            return _as_seconds(column, source.timestamp_unit, where)
        case "categories":
            return _as_categories(column, source.category_separator, where)


def _as_text(column: pl.Series, where: str) -> pl.Series:
    if column.dtype.is_float():
        # An integer column with a gap, as pandas writes it: 17.0 means the id 17.
        whole = column.drop_nulls()
        if bool((whole.is_finite() & (whole == whole.round())).all()):
            column = column.cast(pl.Int64)
    if column.dtype.is_nested() or column.dtype == pl.Binary:
        raise DataError(f"{where} holds {column.dtype}, which is no text")
    return column.cast(pl.String)


def _as_number(column: pl.Series, where: str, complaint: str) -> pl.Series:
    if column.dtype == pl.String:
        numbers = column.str.strip_chars().replace("", None).cast(pl.Float64, strict=False)
        _refuse(column, numbers.is_null() & (column.str.strip_chars() != ""), where, complaint)
        return numbers
    if not (column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.Null)):
        raise DataError(f"{where} holds {column.dtype}, which is {complaint}")
    return column.cast(pl.Float64)


def _as_seconds(column: pl.Series, unit: str, where: str) -> pl.Series:
    if isinstance(column.dtype, pl.Datetime):
        return column.dt.epoch("us") // 1_000_000
    if column.dtype == pl.Date:
        return column.cast(pl.Datetime("us")).dt.epoch("us") // 1_000_000
    if unit == "iso":
        if column.dtype == pl.Null:
            return column.cast(pl.Int64)
        if column.dtype != pl.String:
            raise DataError(
                f"{where} holds {column.dtype}, no ISO 8601 times: write times of a date-and-time type or as ISO text, "
                "or set `timestamp_unit` to s, ms or us"
            )
        return _parse_iso(column, where)
    complaint = f"no time in {unit} since 1970 (see `timestamp_unit`)"
    whole = column.str.strip_chars().cast(pl.Int64, strict=False) if column.dtype == pl.String else column
    if whole.dtype.is_integer() and whole.null_count() == column.null_count():
        _refuse(column, whole.cast(pl.Int64, strict=False).is_null() & column.is_not_null(), where, complaint)
        return whole.cast(pl.Int64) // _UNITS[unit]
    numbers = _as_number(column, where, complaint)
    seconds = (numbers / _UNITS[unit]).floor().cast(pl.Int64, strict=False)
    _refuse(column, numbers.is_not_null() & numbers.is_not_nan() & seconds.is_null(), where, complaint)
    return seconds


def _parse_iso(column: pl.Series, where: str) -> pl.Series:
    text = (
        column.str.strip_chars()
        .replace("", None)
        .str.replace(r"^(\d{4}-\d{2}-\d{2}) +", "${1}T")
        .str.replace("[zZ]$", "+00:00")
    )
    frame = text.alias("text").to_frame()
    times = frame.select(
        pl.coalesce(
            *(
                pl.col("text").str.to_datetime(format_, strict=False, time_unit="us").dt.epoch("us")
                for format_ in _ISO_FORMATS
            ),
            pl.col("text").str.to_datetime(_ISO_WITH_ZONE, strict=False, time_unit="us").dt.epoch("us"),
        )
    ).to_series()
    _refuse(column, text.is_not_null() & times.is_null(), where, "no ISO 8601 time")
    return times // 1_000_000


def _as_categories(column: pl.Series, separator: str, where: str) -> pl.Series:
    if isinstance(column.dtype, pl.List):
        names = column.cast(pl.List(pl.String))
    else:
        names = _as_text(column, where).str.split(separator)
    element = pl.element().str.strip_chars()
    return names.list.eval(element.filter(element != ""))


def _refuse(column: pl.Series, bad: pl.Series, where: str, complaint: str) -> None:
    """Raise for the first row where ``bad`` is true."""
    row = bad.fill_null(False).arg_max() if bool(bad.fill_null(False).any()) else None
    if row is not None:
        value: Any = column[row]
        raise DataError(
            f"{where}, data row {row + 1}: {value!r} is {complaint}: mend the row, or map another column"
        )


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0]
