"""Which of a file's columns is which of ours: by name, and by looking at the values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import polars as pl

from segue.data.column_names import ACTIONS, CATALOGUE_NAMES, INTERACTION_NAMES, by_name, plain
from segue.data.settings import TableSource
from segue.data.sources import canonicalize, split_title
from segue.errors import DataError
from segue.schema import Catalogue, Interactions

SAMPLE: Final = 2000  # rows that are looked at
NOTHING: Final = "none"  # `--timestamp-column none`
OPTIONS: Final = {
    Interactions.USER: "--user-column",
    Interactions.ITEM: "--item-column",
    Interactions.TIMESTAMP: "--timestamp-column",
    Interactions.ACTION: "--action-column",
}
# Seconds between 1980 and 2096: numbers of other columns (ids, ratings) seldom all fall in here.
_EARLIEST, _LATEST = 315_532_800, 4_000_000_000
_KNOWN: Final = (
    0.5  # the share of its values that the catalogue must know before a column is taken for the item
)
_MANY: Final = (
    50  # values that a column of users or items has: the default of validation.min_users and min_items
)


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen of one file."""

    source: TableSource  # with the guessed columns
    sample: pl.DataFrame
    doubts: tuple[str, ...]  # comments for the profile: optional columns that could be several


def look_at_interactions(
    sniffed: tuple[TableSource, pl.DataFrame],
    given: Mapping[str, str],
    items: tuple[TableSource, pl.DataFrame] | None,
) -> Look:
    """Find the columns of the interactions; ``given`` are the user's own answers.

    Raises DataError where one that is needed could be none or several, naming them and the option to pass.
    """
    source, frame = sniffed
    path = str(source.path)
    sample = frame.head(SAMPLE)
    found = {
        name: _check_given(name, column, frame, path) for name, column in given.items() if column != NOTHING
    }
    for name in (Interactions.USER, Interactions.ITEM):
        if given.get(name) == NOTHING and NOTHING not in frame.columns:
            raise DataError(
                f"{OPTIONS[name]} is {NOTHING!r}, but every event has one: name a column of {path}"
            )
    for column in found.values():
        if len(same := [name for name, each in found.items() if each == column]) > 1:
            asked = " and ".join(OPTIONS[name] for name in same)
            raise DataError(f"{asked} name the same column {column!r} of {path}: each is a column of its own")
    doubts: list[str] = []
    for name, tiers in INTERACTION_NAMES.items() if source.has_header else ():
        if name in given:
            continue
        candidates = [column for column in by_name(frame.columns, tiers) if column not in found.values()]
        if len(candidates) > 1:
            candidates = _confirmed(name, candidates, frame, items) or candidates
        if len(candidates) == 1:
            found[name] = candidates[0]
        elif len(candidates) > 1 and name in OPTIONS:
            _refuse(source, frame, name, candidates)
        elif candidates:
            doubts.append(f"{name} could be {' or '.join(candidates)}: add it to `columns` of interactions")
    if Interactions.TIMESTAMP not in found and given.get(Interactions.TIMESTAMP) != NOTHING:
        times = [
            column for column in frame.columns if column not in found.values() and _unit_of(sample[column])
        ]
        if not times:
            left = [column for column in frame.columns if column not in found.values()]
            _refuse(source, frame, Interactions.TIMESTAMP, left, ", for none holds only times since 1980")
        if len(times) > 1:
            _refuse(source, frame, Interactions.TIMESTAMP, times)
        found[Interactions.TIMESTAMP] = times[0]
    if source.has_header:
        _place_by_values(source, frame, given, found, items)
    else:
        _place_headerless(source, sample, found, items)
    for name in (Interactions.USER, Interactions.ITEM):
        if name not in found:
            _refuse(source, frame, name, [column for column in frame.columns if column not in found.values()])
    unit = _unit_of(sample[found[Interactions.TIMESTAMP]]) if Interactions.TIMESTAMP in found else "s"
    return _checked(source, found, unit or "s", "|", sample, doubts, "interactions")


def _check_given(name: str, column: str, frame: pl.DataFrame, path: str) -> str:
    if column not in frame.columns:
        raise DataError(
            f"{path} has no column {column!r} ({OPTIONS[name]}); it has {', '.join(map(repr, frame.columns))}"
        )
    return column


def _refuse(
    source: TableSource, frame: pl.DataFrame, name: str, candidates: Sequence[str], why: str = ""
) -> NoReturn:
    shown = [repr(column) for column in candidates]
    if not source.has_header:  # a bare "2" tells nobody anything
        shown = [f"{column!r} (such as {frame[column].drop_nulls().first()!r})" for column in candidates]
    none = {
        Interactions.TIMESTAMP: " (or `none`, if the rows of a user stand in order of time)",
        Interactions.ACTION: " (or `none`)",
    }.get(name, "")
    header = "" if source.has_header else " (it has no header, so its columns are counted from 1)"
    raise DataError(
        f"{source.path}{header}: cannot tell which column is {name}{why}; "
        f"{'it could be ' + ', '.join(shown) if shown else 'no column is left'}: pass {OPTIONS[name]}{none}"
    )


def _confirmed(
    name: str,
    candidates: Sequence[str],
    frame: pl.DataFrame,
    items: tuple[TableSource, pl.DataFrame] | None,
) -> list[str]:
    """Those of ``candidates`` whose values are what ``name`` says."""
    if name == Interactions.TIMESTAMP:
        return [column for column in candidates if _unit_of(frame[column].head(SAMPLE))]
    if name == Interactions.ITEM and items is not None:
        return _in_catalogue(candidates, frame, items)
    if name == Interactions.ACTION:
        return [column for column in candidates if _is_action(frame[column])]
    return list(candidates)


def _place_by_values(
    source: TableSource,
    frame: pl.DataFrame,
    given: Mapping[str, str],
    found: dict[str, str],
    items: tuple[TableSource, pl.DataFrame] | None,
) -> None:
    """What no name told: the item is the column that the catalogue knows, the user or the item the only one left
    whose values could be, and the action the one that holds known actions."""

    def free() -> list[str]:
        return [column for column in frame.columns if column not in found.values()]

    if Interactions.ITEM not in found and items is not None:
        known = _in_catalogue(free(), frame, items)
        if len(known) > 1:
            _refuse(source, frame, Interactions.ITEM, known)
        if known:
            found[Interactions.ITEM] = known[0]
    if Interactions.ACTION not in found and given.get(Interactions.ACTION) != NOTHING:
        actions = [column for column in free() if _holds_actions(frame[column])]
        if len(actions) > 1:
            _refuse(source, frame, Interactions.ACTION, actions)
        if actions:
            found[Interactions.ACTION] = actions[0]
    missing = [name for name in (Interactions.USER, Interactions.ITEM) if name not in found]
    if len(missing) == 1:
        candidates = _could_be_ids(free(), frame)
        if len(candidates) != 1:
            _refuse(source, frame, missing[0], candidates or free())
        found[missing[0]] = candidates[0]


def _in_catalogue(
    columns: Sequence[str], frame: pl.DataFrame, items: tuple[TableSource, pl.DataFrame]
) -> list[str]:
    """Those of ``columns`` most of whose values one of the catalogue's id columns holds.

    An id column is one that has another value in every row; where one of those has an id's name, only that one.
    Of several of ``columns`` the one that goes by the same name as the id column is meant.
    """
    described = items[1]
    ids = [
        column.name
        for column in described.get_columns()
        if not column.dtype.is_nested() and column.null_count() == 0 and column.n_unique() == column.len()
    ]
    ids = by_name(ids, CATALOGUE_NAMES[Catalogue.ITEM]) or ids
    values = {column: set(described[column].cast(pl.String)) for column in ids}
    knows: dict[str, list[str]] = {}
    for column in columns:
        if frame[column].dtype.is_nested():
            continue
        wanted = set(frame[column].head(SAMPLE).cast(pl.String).drop_nulls())
        share = {name: len(wanted & known) / max(1, len(wanted)) for name, known in values.items()}
        if by := [name for name, part in share.items() if part >= _KNOWN]:
            knows[column] = by
    same = [column for column, by in knows.items() if column in by]
    return same if len(same) == 1 else list(knows)


def _could_be_ids(columns: Sequence[str], frame: pl.DataFrame) -> list[str]:
    """Those of ``columns`` that are no fraction, no time of a type of its own, not constant and do not differ in
    every row; where the table is large enough to tell, only those with as many values as a dataset needs."""
    possible: dict[str, int] = {}
    for name in columns:
        column = frame[name]
        if column.dtype.is_nested() or column.dtype.is_temporal() or _unit_of(column.head(SAMPLE)) == "iso":
            continue
        numbers = _numbers(column)
        if numbers is not None and not bool((numbers == numbers.round()).all()):
            continue
        distinct = column.drop_nulls().n_unique()
        if 1 < distinct < column.len() - column.null_count():
            possible[name] = distinct
    many = [name for name, distinct in possible.items() if distinct >= _MANY]
    return many or list(possible)


def _is_action(column: pl.Series) -> bool:
    return column.dtype == pl.String and column.n_unique() < _MANY and not _is_weight(column)


def _holds_actions(column: pl.Series) -> bool:
    if not _is_action(column):
        return False
    values = {plain(value) for value in column.drop_nulls().unique()}
    return bool(values) and 2 * len(values & ACTIONS) >= len(values)


def _place_headerless(
    source: TableSource,
    sample: pl.DataFrame,
    found: dict[str, str],
    items: tuple[TableSource, pl.DataFrame] | None,
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
            _refuse(source, sample, Interactions.USER, rest)
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


def look_at_catalogue(sniffed: tuple[TableSource, pl.DataFrame], events: Look) -> Look:
    source, frame = sniffed
    path = str(source.path)
    sample = frame.head(SAMPLE)
    found: dict[str, str] = {}
    doubts: list[str] = []
    ids = events.sample[events.source.columns[Interactions.ITEM]].cast(pl.String).drop_nulls().unique()
    for name, tiers in CATALOGUE_NAMES.items() if source.has_header else ():
        candidates = [column for column in by_name(frame.columns, tiers) if column not in found.values()]
        if len(candidates) == 1:
            found[name] = candidates[0]
        elif candidates and name != Catalogue.ITEM:
            doubts.append(f"{name} could be {' or '.join(candidates)}: add it to `columns` of catalogue")
    if Catalogue.ITEM not in found or _known(ids, frame[found[Catalogue.ITEM]]) < _KNOWN:
        plain = [column for column in frame.columns if not frame[column].dtype.is_nested()]
        best = max(plain, key=lambda column: _known(ids, frame[column]))
        if _known(ids, frame[best]) < _KNOWN:
            raise DataError(
                f"{path}: no column holds the item ids of the interactions (the nearest, {best!r}, knows "
                f"{_known(ids, frame[best]):.0%} of them): is it the right file? It must describe every item, for events of "
                "others are set aside; without a catalogue the items are those of the interactions"
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
    if Catalogue.TITLE in found and Catalogue.YEAR not in found:
        titles = sample[found[Catalogue.TITLE]].cast(pl.String)
        dated = split_title(titles)[Catalogue.YEAR]
        most = 2 * (dated.len() - dated.null_count()) > titles.len() - titles.null_count()
        source = source.model_copy(update={"title_holds_year": most})
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
) -> Look:
    """The finished source, tried on the sample: a profile that cannot be read is not written."""
    order = INTERACTION_NAMES if kind == "interactions" else CATALOGUE_NAMES
    finished = source.model_copy(
        update={
            "columns": {name: found[name] for name in order if name in found},
            "timestamp_unit": unit,
            "category_separator": separator,
        }
    )
    canonicalize(sample, finished, kind, str(source.path))
    return Look(finished, sample, tuple(doubts))
