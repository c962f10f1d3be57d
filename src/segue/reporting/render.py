"""Templates to one self-contained HTML file: no script, no font, no image from anywhere else."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from segue.artifacts import write_text

MINUS = "\N{MINUS SIGN}"
NOTHING = "\N{EM DASH}"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("segue.reporting"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=number,
        signed=signed,
        percent=percent,
        count=count,
        seconds=seconds,
        short=short,
        words=words,
        proposers=proposers,
    )
    return environment


def render(template: str, **values: Any) -> str:
    """The page. Everything is escaped; a variable that the template lacks is an error."""
    return _environment().get_template(template).render(**values)


def write_page(path: Path, template: str, **values: Any) -> Path:
    """Write the page whole, or leave what is there where it is the same. Returns ``path``."""
    text = render(template, **values)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)
    return path


def number(value: float | None, digits: int = 3) -> str:
    """``0.123``; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{value:.{digits}f}".replace("-", MINUS)


def signed(value: float | None, digits: int = 3) -> str:
    """``+0.012`` or ``-0.012`` with a true minus sign; zero has none."""
    if value is None or not math.isfinite(value):
        return NOTHING
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", MINUS)


def percent(value: float | None, digits: int = 1) -> str:
    """``12.3 %``."""
    return NOTHING if value is None or not math.isfinite(value) else f"{100 * value:.{digits}f}\u00a0%"


def count(value: float | None) -> str:
    """``12,345``."""
    return NOTHING if value is None else f"{value:,.0f}"


def seconds(value: float | None) -> str:
    """``0.4 s``, ``12 s``, ``3 min 05 s``."""
    if value is None:
        return NOTHING
    if value < 10:
        return f"{value:.1f} s"
    if value < 120:
        return f"{value:.0f} s"
    return f"{int(value) // 60} min {int(value) % 60:02d} s"


def short(value: str | None, length: int = 12) -> str:
    """The head of a hash."""
    return NOTHING if not value else value[:length]


def words(name: str) -> str:
    """``item_knn`` as ``item knn``."""
    return name.replace("_", " ")


def proposers(source: str) -> str:
    """Who proposed an item, short: ``beam + dense``, but ``4 routes`` where more than two agree."""
    names = source.split("+")
    return f"{len(names)} routes" if len(names) > 2 else " + ".join(words(name) for name in names)
