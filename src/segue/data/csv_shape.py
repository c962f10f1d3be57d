"""How the lines of a delimited text are cut into fields, and where one is cut otherwise than the rest."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Final

SEPARATORS: Final = ("::", "\t", ",", ";", "|")
# Nobody's first choice: looked for only to tell the user what is there.
_RARE: Final = (" ", "^", "~", "#", "\x01", "$", "/", ":", "&&", "||")
_NAMED: Final = {"\t": "tab", ",": "comma", ";": "semicolon", " ": "space"}


def named(separator: str) -> str:
    """``separator`` as a message has it."""
    return f"{_NAMED[separator]} ({separator!r})" if separator in _NAMED else repr(separator)


def split(lines: Sequence[str], separator: str) -> list[list[str]]:
    """The fields of each line."""
    if len(separator) > 1:
        return [line.split(separator) for line in lines]
    return list(csv.reader(lines, delimiter=separator))


def best_separator(lines: Sequence[str], among: Sequence[str] = SEPARATORS) -> str | None:
    """The separator that cuts most lines into the same number of fields, and into the most fields; None where
    none does so for nine in ten."""
    best: tuple[float, int, str] | None = None
    for separator in among:
        share, width = _regularity(lines, separator)
        if width > 1 and share >= 0.9 and (best is None or (share, width) > best[:2]):
            best = (share, width, separator)
    return None if best is None else best[2]


def fitting(lines: Sequence[str], tried: str) -> str | None:
    """Another separator than ``tried`` that cuts the lines into equal fields."""
    return best_separator(lines, [one for one in (*SEPARATORS, *_RARE) if one != tried])


def why_none(lines: Sequence[str]) -> str:
    """What to say where :func:`best_separator` finds none."""
    tried = f"{', '.join(map(named, SEPARATORS[:-1]))} and {named(SEPARATORS[-1])} were tried as separators"
    if (rare := best_separator(lines, _RARE)) is not None:
        return f"{tried} and cut nothing; {named(rare)} fits: pass --separator {rare!r}"
    nearest = max(
        SEPARATORS, key=lambda one: _regularity(lines, one) if _regularity(lines, one)[1] > 1 else (0.0, 0)
    )
    share, width = _regularity(lines, nearest)
    if width == 1:
        return (
            f"{tried} and none cuts its lines into more than one field: "
            "a table needs at least a user and an item column"
        )
    return (
        f"{tried}; {named(nearest)} comes nearest, and cuts only {share:.0%} of its lines into the same {width} "
        "fields: mend the others, or pass --separator"
    )


def find_fault(text: str, separator: str) -> str | None:
    """The first line that does not have the first line's number of fields, or whose quotation mark stays open, in
    words; None where there is none. Blank lines count as none."""
    width: int | None = None
    try:
        for start, end, fields in _records(text, separator):
            if not fields:
                continue
            if width is None:
                width = len(fields)
            elif len(fields) != width:
                lines = f"line {start}" if start == end else f"lines {start} to {end}"
                return f"{lines}: {len(fields)} fields between {separator!r}, the first line has {width}"
    except csv.Error as error:
        return str(error)
    return None


def _records(text: str, separator: str) -> Iterator[tuple[int, int, list[str]]]:
    if len(separator) > 1:
        for number, line in enumerate(text.split("\n"), 1):
            line = line.removesuffix("\r")
            yield number, number, line.split(separator) if line else []
        return
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    while True:
        start = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise csv.Error(
                f"line {start}: a quotation mark stays open, or stands where none may ({error})"
            ) from error
        yield start, reader.line_num, fields


def _regularity(lines: Sequence[str], separator: str) -> tuple[float, int]:
    """The share of the lines that have the commonest number of fields, and that number."""
    widths = [len(row) for row in split(lines, separator)]
    width = max(set(widths), key=lambda value: (widths.count(value), value))
    return widths.count(width) / len(widths), width
