"""``segue init``: look at the user's own files, guess what is what, and write a commented profile."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import fsspec
import polars as pl

from segue.artifacts import write_text
from segue.bases import KEEPABLE, write_base
from segue.data.settings import TableSource
from segue.data.sources import canonicalize, read_file
from segue.errors import ConfigurationError, DataError
from segue.params import SECTIONS
from segue.schema import Catalogue, Interactions
from segue.workspace import Workspace

_NAME: Final = re.compile(r"[a-z0-9-]+")
_SAMPLE: Final = 2000  # rows that are looked at
_NOTHING: Final = "none"  # `--timestamp-column none`

# The names under which columns go, lower case and without punctuation; an earlier tier beats a later one.
_Tiers = tuple[tuple[str, ...], ...]
_INTERACTION_NAMES: Final[Mapping[str, _Tiers]] = {
    Interactions.USER: (
        ("userid", "user", "useridtoken"),
        (
            "customerid",
            "customer",
            "visitorid",
            "reviewerid",
            "accountid",
            "memberid",
            "clientid",
            "uid",
            "username",
        ),
        ("sessionid",),
    ),
    Interactions.ITEM: (
        ("itemid", "item", "itemidtoken"),
        ("movieid", "productid", "articleid", "trackid", "songid", "bookid", "gameid", "videoid", "newsid"),
        (
            "contentid",
            "businessid",
            "imdbid",
            "asin",
            "parentasin",
            "sku",
            "isbn",
            "product",
            "article",
            "iid",
        ),
    ),
    Interactions.TIMESTAMP: (
        ("timestamp", "timestampfloat"),
        ("ts", "time", "datetime", "eventtime", "unixreviewtime", "unixtime"),
        ("date", "createdat", "tdat", "reviewtime"),
    ),
    Interactions.WEIGHT: (("weight",), ("rating", "ratingfloat", "score", "stars", "overall")),
    Interactions.ACTION: (("action", "actiontype"), ("event", "eventtype", "behavior", "interactiontype")),
}
_CATALOGUE_NAMES: Final[Mapping[str, _Tiers]] = {
    Catalogue.ITEM: (*_INTERACTION_NAMES[Interactions.ITEM], ("id",)),
    Catalogue.TITLE: (("title",), ("name", "movietitle", "productname", "itemname", "prodname", "headline")),
    Catalogue.TEXT: (
        ("text", "description"),
        ("plot", "overview", "summary", "abstract", "synopsis", "body", "detaildesc"),
    ),
    Catalogue.CATEGORIES: (("categories", "genres"), ("category", "genre", "class", "tags", "producttype")),
    Catalogue.YEAR: (("year",), ("releaseyear", "publicationyear")),
    Catalogue.PRICE: (("price",),),
    Catalogue.CREATED_AT: (("createdat",), ("created", "publishedat", "releasedate")),
    Catalogue.IMAGE: (("imagepath",), ("image", "poster", "picture")),
}
_OPTIONS: Final = {
    Interactions.USER: "--user-column",
    Interactions.ITEM: "--item-column",
    Interactions.TIMESTAMP: "--timestamp-column",
}
# Seconds between 1980 and 2096: numbers of other columns (ids, ratings) seldom all fall in here.
_EARLIEST, _LATEST = 315_532_800, 4_000_000_000


@dataclass(frozen=True, slots=True)
class _Look:
    """What was seen of one file."""

    source: TableSource  # with the guessed columns
    sample: pl.DataFrame
    doubts: tuple[str, ...]  # comments for the profile: optional columns that could be several


def init_profile(
    workspace: Workspace,
    interactions: str | Path,
    catalogue: str | Path | None = None,
    name: str | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    activate: bool = True,
) -> list[Path]:
    """Write ``profiles/<name>.yaml`` and ``bases/<name>.json`` for the user's file or files; return both
    paths.

    ``columns`` maps our names (user_id, item_id, timestamp) to the file's where guessing them fails; "none"
    as timestamp says that there is none and the rows of a user stand in order of time. ``activate`` adds the
    dataset to ``datasets`` of params.yaml.

    Raises DataError where a file cannot be read, or a column that is needed could be none or several of the
    file's; the message names them and the option to pass. Raises ConfigurationError for a bad or taken name.
    """
    chosen_name = _check_name(workspace, name, str(interactions))
    given = dict(columns or {})
    if unknown := sorted(set(given) - set(_OPTIONS)):
        raise ConfigurationError(f"columns may name {', '.join(_OPTIONS)}, not {unknown[0]!r}")
    items = None if catalogue is None else _sniff(str(catalogue))
    events = _look_at_interactions(_sniff(str(interactions)), given, items)
    described = None if items is None else _look_at_catalogue(items, events)
    ordered = Interactions.TIMESTAMP not in events.source.columns
    profile = workspace.profile_file(chosen_name)
    write_text(profile, _render(workspace, chosen_name, events, described, ordered=ordered))
    write_base(workspace, chosen_name, dict.fromkeys(KEEPABLE))
    if activate:
        _activate(workspace, chosen_name)
    return [profile, workspace.base_file(chosen_name)]


def _check_name(workspace: Workspace, name: str | None, path: str) -> str:
    if name is None:
        stem = path.rstrip("/").rsplit("/", 1)[-1].split(".", 1)[0]
        name = re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"{name!r} is no name for a dataset: use a-z, 0-9 and hyphens, such as `--name my-shop`"
        )
    if workspace.profile_file(name).exists():
        raise ConfigurationError(
            f"{workspace.profile_file(name)} exists already: remove it, or give the dataset another `--name`"
        )
    return name


def _sniff(path: str) -> tuple[TableSource, pl.DataFrame]:
    """How the file is written, and all of it as strings (CSV) or as typed (Parquet)."""
    if path.lower().endswith((".parquet", ".pq")):
        source = TableSource(path=path, format="parquet")
        return source, read_file(path, source)
    try:
        with fsspec.open(path, "rb", compression="infer") as file:
            content: bytes = file.read()
    except (OSError, ValueError, ImportError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    encoding = "utf8"
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        encoding, text = "latin-1", content.decode("latin-1")
    lines = [line for line in text[:1_000_000].splitlines()[:200] if line.strip()]
    if len(lines) < 2:
        raise DataError(f"{path} has fewer than two rows, so its shape cannot be guessed")
    separator = _guess_separator(lines, path)
    rows = _split(lines, separator)
    source = TableSource(
        path=path, format="csv", separator=separator, encoding=encoding, has_header=_looks_like_header(rows)
    )
    return source, read_file(path, source)


def _split(lines: Sequence[str], separator: str) -> list[list[str]]:
    if len(separator) > 1:
        return [line.split(separator) for line in lines]
    return list(csv.reader(lines, delimiter=separator))


def _guess_separator(lines: Sequence[str], path: str) -> str:
    """The separator that cuts most lines into the same number of fields, and into the most fields."""
    best: tuple[float, int, str] | None = None
    for separator in ("::", "\t", ",", ";", "|"):
        widths = [len(row) for row in _split(lines, separator)]
        width = max(set(widths), key=lambda value: (widths.count(value), value))
        share = widths.count(width) / len(widths)
        if width > 1 and share >= 0.9 and (best is None or (share, width) > best[:2]):
            best = (share, width, separator)
    if best is None:
        raise DataError(f"{path}: neither '::', tab, comma, semicolon nor | cuts its lines into equal fields")
    return best[2]


def _looks_like_header(rows: Sequence[Sequence[str]]) -> bool:
    first, second = rows[0], rows[1]
    known = {
        name
        for names in (_INTERACTION_NAMES, _CATALOGUE_NAMES)
        for tiers in names.values()
        for tier in tiers
        for name in tier
    }
    if any(_plain(cell) in known for cell in first):
        return True
    return not any(map(_is_number, first)) and any(map(_is_number, second))


def _is_number(cell: str) -> bool:
    return re.fullmatch(r"\s*-?\d+(\.\d*)?\s*", cell) is not None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _by_name(columns: Iterable[str], tiers: _Tiers) -> list[str]:
    """The columns of the first tier that has any."""
    for tier in tiers:
        if found := [column for column in columns if _plain(column) in tier]:
            return found
    return []


def _look_at_interactions(
    sniffed: tuple[TableSource, pl.DataFrame],
    given: Mapping[str, str],
    items: tuple[TableSource, pl.DataFrame] | None,
) -> _Look:
    source, frame = sniffed
    path = str(source.path)
    sample = frame.head(_SAMPLE)
    found = {
        name: _check_given(name, column, frame, path) for name, column in given.items() if column != _NOTHING
    }
    doubts: list[str] = []
    for name, tiers in _INTERACTION_NAMES.items():
        if name in given or not source.has_header:
            continue
        candidates = [column for column in _by_name(frame.columns, tiers) if column not in found.values()]
        if len(candidates) == 1:
            found[name] = candidates[0]
        elif len(candidates) > 1 and name in _OPTIONS:
            _refuse(path, name, candidates)
        elif candidates:
            doubts.append(f"{name} could be {' or '.join(candidates)}: add it to `columns` of interactions")
    if Interactions.TIMESTAMP not in found and given.get(Interactions.TIMESTAMP) != _NOTHING:
        times = [
            column for column in frame.columns if column not in found.values() and _unit_of(sample[column])
        ]
        if len(times) != 1:
            _refuse(path, Interactions.TIMESTAMP, times or frame.columns)
        found[Interactions.TIMESTAMP] = times[0]
    if not source.has_header:
        _place_headerless(sample, found, path, items)
    for name in (Interactions.USER, Interactions.ITEM):
        if name not in found:
            _refuse(path, name, [column for column in frame.columns if column not in found.values()])
    unit = _unit_of(sample[found[Interactions.TIMESTAMP]]) if Interactions.TIMESTAMP in found else "s"
    return _checked(source, found, unit or "s", "|", sample, doubts, "interactions")


def _check_given(name: str, column: str, frame: pl.DataFrame, path: str) -> str:
    if column not in frame.columns:
        raise DataError(
            f"{path} has no column {column!r} ({_OPTIONS[name]}); "
            f"it has {', '.join(map(repr, frame.columns))}"
        )
    return column


def _refuse(path: str, name: str, candidates: Sequence[str]) -> None:
    none = (
        " (or `none`, if the rows of a user stand in order of time)" if name == Interactions.TIMESTAMP else ""
    )
    raise DataError(
        f"{path}: cannot tell which column is {name}; "
        f"it could be {', '.join(map(repr, candidates)) or 'none'}: pass {_OPTIONS[name]}{none}"
    )


def _place_headerless(
    sample: pl.DataFrame, found: dict[str, str], path: str, items: tuple[TableSource, pl.DataFrame] | None
) -> None:
    """Without names: a small set of small numbers from the third column on is the weight; user comes before
    item, unless the catalogue knows the ids of the first."""
    rest = [column for column in sample.columns if column not in found.values()]
    weights = [column for column in rest if sample.columns.index(column) >= 2 and _is_weight(sample[column])]
    if weights:
        found[Interactions.WEIGHT] = weights[0]
        rest.remove(weights[0])
    missing = [name for name in (Interactions.USER, Interactions.ITEM) if name not in found]
    if len(missing) == 1 and len(rest) == 1:
        found[missing[0]] = rest[0]
    elif len(missing) == 2:
        if len(rest) != 2:
            _refuse(path, Interactions.USER, rest)
        user, item = rest
        if items is not None and _overlap(sample[user], items[1]) > _overlap(sample[item], items[1]):
            user, item = item, user
        found[Interactions.USER], found[Interactions.ITEM] = user, item


def _overlap(ids: pl.Series, catalogue: pl.DataFrame) -> float:
    """The largest share of ``ids`` that one column of the catalogue knows."""
    wanted = set(ids.cast(pl.String).drop_nulls())
    columns = (column for column in catalogue.get_columns() if not column.dtype.is_nested())
    return max(
        (len(wanted & set(column.cast(pl.String))) / max(1, len(wanted)) for column in columns), default=0
    )


def _numbers(column: pl.Series) -> pl.Series | None:
    """The column's values as numbers, or None where one is no number or there is none."""
    if column.dtype.is_nested() or column.dtype.is_temporal():
        return None
    numbers = column.cast(pl.Float64, strict=False)
    whole = numbers.null_count() == column.null_count() < column.len()
    return numbers.drop_nulls() if whole else None


def _unit_of(column: pl.Series) -> str | None:
    """The timestamp unit that makes every value a time between 1980 and 2096; None where there is none."""
    if column.dtype.is_temporal():
        return "s"
    if (numbers := _numbers(column)) is not None:
        for unit, factor in (("s", 1), ("ms", 1e3), ("us", 1e6)):
            if bool(((numbers >= _EARLIEST * factor) & (numbers <= _LATEST * factor)).all()):
                return unit
        return None
    if column.dtype != pl.String or column.null_count() == column.len():
        return None
    return "iso" if bool(column.drop_nulls().str.contains(r"^\s*\d{4}-\d{2}-\d{2}").all()) else None


def _is_weight(column: pl.Series) -> bool:
    numbers = _numbers(column)
    return numbers is not None and numbers.n_unique() <= 101 and bool((numbers.abs() <= 100).all())


def _look_at_catalogue(sniffed: tuple[TableSource, pl.DataFrame], events: _Look) -> _Look:
    source, frame = sniffed
    path = str(source.path)
    sample = frame.head(_SAMPLE)
    found: dict[str, str] = {}
    doubts: list[str] = []
    ids = events.sample[events.source.columns[Interactions.ITEM]].cast(pl.String).drop_nulls().unique()
    for name, tiers in _CATALOGUE_NAMES.items() if source.has_header else ():
        candidates = [column for column in _by_name(frame.columns, tiers) if column not in found.values()]
        if len(candidates) == 1:
            found[name] = candidates[0]
        elif candidates and name != Catalogue.ITEM:
            doubts.append(f"{name} could be {' or '.join(candidates)}: add it to `columns` of catalogue")
    if Catalogue.ITEM not in found or _known(ids, frame[found[Catalogue.ITEM]]) < 0.5:
        plain = [column for column in frame.columns if not frame[column].dtype.is_nested()]
        best = max(plain, key=lambda column: _known(ids, frame[column]))
        if _known(ids, frame[best]) < 0.5:
            raise DataError(
                f"{path}: no column holds the item ids of the interactions (the nearest, {best!r}, knows "
                f"{_known(ids, frame[best]):.0%} of them): is it the right file?"
            )
        found = {name: column for name, column in found.items() if column != best} | {Catalogue.ITEM: best}
    if not source.has_header:
        _place_texts(sample, found)
    categories = found.get(Catalogue.CATEGORIES)
    separator = "|" if categories is None else _category_separator(sample[categories])
    unit = _unit_of(sample[found[Catalogue.CREATED_AT]]) if Catalogue.CREATED_AT in found else "s"
    if unit is None:
        doubts.append(f"created_at: {found.pop(Catalogue.CREATED_AT)} is no time that is understood")
    if Catalogue.YEAR in found and _numbers(sample[found[Catalogue.YEAR]]) is None:
        doubts.append(f"year: {found.pop(Catalogue.YEAR)} does not hold numbers only")
    if Catalogue.PRICE in found and _numbers(sample[found[Catalogue.PRICE]]) is None:
        doubts.append(f"price: {found.pop(Catalogue.PRICE)} does not hold numbers only")
    return _checked(source, found, unit or "s", separator, sample, doubts, "catalogue")


def _known(ids: pl.Series, column: pl.Series) -> float:
    return len(set(ids) & set(column.cast(pl.String))) / max(1, ids.len())


def _place_texts(sample: pl.DataFrame, found: dict[str, str]) -> None:
    """Without names: few different parts between | are categories, of the other texts the first short one is
    the title and the longest, if long, the text."""
    texts = [
        column
        for column in sample.columns
        if column not in found.values() and _numbers(sample[column]) is None
    ]
    listed = [column for column in texts if _has_parts(sample[column])]
    if listed:
        found[Catalogue.CATEGORIES] = listed[0]
        texts.remove(listed[0])
    lengths = {column: sample[column].str.len_chars().mean() or 0 for column in texts}
    long = [column for column in texts if float(str(lengths[column])) > 80]
    if long:
        found[Catalogue.TEXT] = long[0]
    if short := [column for column in texts if column not in long]:
        found[Catalogue.TITLE] = short[0]


def _has_parts(column: pl.Series) -> bool:
    separator = _category_separator(column)
    values = column.drop_nulls()
    share = float(str(values.str.contains(separator, literal=True).mean() or 0.0))
    if share <= 0.1:
        return False
    return values.str.split(separator).explode().n_unique() < max(30, values.len() // 5)


def _category_separator(column: pl.Series) -> str:
    """The separator that occurs in most values; | where none does."""
    if column.dtype != pl.String:
        return "|"
    share = {one: column.str.contains(one, literal=True).mean() or 0.0 for one in ("|", ";", ",")}
    return max(share, key=lambda one: float(str(share[one])))


def _checked(
    source: TableSource,
    found: Mapping[str, str],
    unit: str,
    separator: str,
    sample: pl.DataFrame,
    doubts: Sequence[str],
    kind: Any,
) -> _Look:
    """The finished source, tried on the sample: a profile that cannot be read is not written."""
    order = _INTERACTION_NAMES if kind == "interactions" else _CATALOGUE_NAMES
    finished = source.model_copy(
        update={
            "columns": {name: found[name] for name in order if name in found},
            "timestamp_unit": unit,
            "category_separator": separator,
        }
    )
    canonicalize(sample, finished, kind, str(source.path))
    return _Look(finished, sample, tuple(doubts))


def _render(workspace: Workspace, name: str, events: _Look, items: _Look | None, *, ordered: bool) -> str:
    lines = [
        "# Written by `segue init` from the first rows of your files: read it, mend what it guessed wrong,",
        "# and run",
        f"#   segue run --profile {name}",
        "# Every section is listed; what is not overridden here comes from params.yaml.",
        "",
        "data:",
        f"  title: {_quoted(name)}",
        '  terms: ""  # under which terms you may use the data; shown on the reports',
        "  reader: tables",
    ]
    if ordered:
        lines.append("  ordered: true  # no timestamps: the rows of a user stand in order of time")
    lines += ["  interactions:  # one row an event", *_render_table(workspace, events, Interactions.USER)]
    if items is None:
        lines.append(
            "  # catalogue: none given, so the items are those of the interactions; with titles, texts and"
        )
        lines.append("  # categories the semantic IDs say more: add a table as above, with its own `columns`")
    else:
        lines += ["  catalogue:  # one row an item", *_render_table(workspace, items, Catalogue.ITEM)]
    lines += [
        "",
        "validation: {}  # such as {min_weight: 1, max_weight: 5, on_bad_rows: stop}",
        "splits: {}  # k_core: 5 drops users and items with fewer than five events",
    ]
    lines += [f"{section}: {{}}" for section in SECTIONS if section not in ("data", "validation", "splits")]
    return "\n".join(lines) + "\n"


def _render_table(workspace: Workspace, look: _Look, first: str) -> list[str]:
    source = look.source
    lines = [
        f"    path: {_quoted(_relative(workspace, str(source.path)))}  # a file, folder, glob or fsspec URL"
    ]
    if source.format == "csv":
        lines += [
            "    format: csv",
            f"    separator: {_quoted(source.separator)}",
            f"    encoding: {source.encoding}",
        ]
        if not source.has_header:
            lines.append('    has_header: false  # so the columns are "1", "2", …')
    mapped = set(source.columns.values())
    if left := [column for column in look.sample.columns if column not in mapped]:
        lines.append(f"    # not used: {', '.join(_quoted(column) for column in left)}")
    lines += [f"    # {doubt}" for doubt in look.doubts]
    lines.append("    columns:  # our name: your name")
    for ours, theirs in source.columns.items():
        examples = look.sample[theirs].drop_nulls().head(2).to_list()
        shown = ", ".join(str(example)[:30].replace("\n", " ") for example in examples)
        lines.append(
            f"      {ours}: {_quoted(theirs)}  # such as {shown}"
            if shown
            else f"      {ours}: {_quoted(theirs)}"
        )
    if {Interactions.TIMESTAMP, Catalogue.CREATED_AT} & set(source.columns):
        lines.append(f"    timestamp_unit: {source.timestamp_unit}  # s, ms, us since 1970, or iso")
    if Catalogue.CATEGORIES in source.columns:
        lines.append(f"    category_separator: {_quoted(source.category_separator)}")
    assert first in source.columns
    return lines


def _relative(workspace: Workspace, path: str) -> str:
    if "://" in path:
        return path
    whole = Path(path).expanduser().resolve()
    root = workspace.root.resolve()
    return whole.relative_to(root).as_posix() if whole.is_relative_to(root) else str(whole)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # a JSON string is a YAML string


def _activate(workspace: Workspace, name: str) -> None:
    """Add ``name`` to ``datasets`` of params.yaml; its comments and everything else stay as they are."""
    text = workspace.params_file.read_text(encoding="utf-8")
    flow = re.search(r"^datasets:[ \t]*\[([^\]]*)\]", text, re.MULTILINE)
    block = re.search(
        r"^datasets:[ \t]*(?:#.*)?\n((?:[ \t]*(?:-[ \t].*|#.*)?\n)*[ \t]*-[ \t].*\n?)", text, re.MULTILINE
    )
    if flow:
        names = [one.strip() for one in flow.group(1).split(",") if one.strip()]
        if name in names:
            return
        changed = text[: flow.start()] + f"datasets: [{', '.join([*names, name])}]" + text[flow.end() :]
    elif block:
        names = re.findall(r"^[ \t]*-[ \t]+[\"']?([a-z0-9-]+)", block.group(1), re.MULTILINE)
        if name in names:
            return
        indent = re.search(r"^([ \t]*)-", block.group(1), re.MULTILINE)
        head = text[: block.end()]
        added = f"{indent.group(1) if indent else ''}- {name}\n"
        changed = (head if head.endswith("\n") else head + "\n") + added + text[block.end() :]
    else:
        raise ConfigurationError(
            f"{workspace.params_file} has no list `datasets` that could be extended: "
            f"add {name!r} to it by hand"
        )
    write_text(workspace.params_file, changed)
