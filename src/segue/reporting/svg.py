"""Plots as inline SVG. Colours are classes, so that the page's light and dark themes reach them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from segue.reporting.render import signed

WIDTH, ROW, ROW_WITH_NOTE, LABELS, FIGURES, TOP, BOTTOM = 880, 34, 44, 232, 230, 30, 40


@dataclass(frozen=True, slots=True)
class ForestRow:
    """One interval. ``note`` stands below the label in small print; ``margin`` is what this row must keep."""

    label: str
    estimate: float | None
    low: float | None
    high: float | None
    note: str = ""
    margin: float | None = None


def forest_plot(rows: Sequence[ForestRow], *, caption: str, margin: float | None = None) -> Markup:
    """Intervals of differences, one below the other, against no difference and, where given, the margin.

    Green: the interval keeps its row's margin (without one: lies above 0). Red: it lies below altogether.
    Grey: undecided.
    """
    step = ROW_WITH_NOTE if any(row.note for row in rows) else ROW
    finite = [
        value
        for row in rows
        for value in (row.low, row.high, row.estimate)
        if value is not None and math.isfinite(value)
    ]
    lowest, highest = min([0.0, *finite, *_of(margin)]), max([0.0, *finite, *_of(margin)])
    pad = 0.06 * (highest - lowest) or 0.01
    ticks = nice_ticks(lowest - pad, highest + pad)
    left, right = LABELS, WIDTH - FIGURES
    low, high = min(lowest - pad, ticks[0]), max(highest + pad, ticks[-1])

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * (right - left)

    height = TOP + step * len(rows) + BOTTOM
    base = TOP + step * len(rows)
    parts = [
        f'<svg class="plot" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(caption)}">',
        f"<title>{escape(caption)}</title>",
    ]
    digits = max(2, -math.floor(math.log10(ticks[1] - ticks[0])))
    for tick in ticks:
        parts.append(f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{TOP}" y2="{base}"/>')
        parts.append(
            f'<text class="tick" x="{x(tick):.1f}" y="{base + 18}" text-anchor="middle">'
            f"{signed(tick, digits)}</text>"
        )
    parts.append(f'<line class="zero" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="{TOP - 6}" y2="{base}"/>')
    if margin is not None:
        parts.append(
            f'<line class="margin" x1="{x(margin):.1f}" x2="{x(margin):.1f}" y1="{TOP - 6}" y2="{base}"/>'
            f'<text class="margin-label" x="{x(margin):.1f}" y="{TOP - 12}" text-anchor="middle">'
            f"margin {signed(margin)}</text>"
        )
    for number, row in enumerate(rows):
        middle = TOP + step * number + step / 2
        offset = -3 if row.note else 4
        parts.append(f'<text class="label" x="0" y="{middle + offset:.1f}">{escape(row.label)}</text>')
        if row.note:
            parts.append(f'<text class="note" x="0" y="{middle + 12:.1f}">{escape(row.note)}</text>')
        if row.estimate is None or row.low is None or row.high is None:
            parts.append(f'<text class="note" x="{right + 16}" y="{middle + 4:.1f}">no interval</text>')
            continue
        tone = tone_of(row.low, row.high, row.margin)
        parts.append(
            f'<g class="{tone}"><line class="bar" x1="{x(row.low):.1f}" x2="{x(row.high):.1f}" '
            f'y1="{middle:.1f}" y2="{middle:.1f}"/>'
            f'<circle cx="{x(row.estimate):.1f}" cy="{middle:.1f}" r="5"/></g>'
            f'<text class="figure" x="{right + 16}" y="{middle + 4:.1f}">{signed(row.estimate)} '
            f'<tspan class="note">[{signed(row.low)}, {signed(row.high)}]</tspan></text>'
        )
    parts.append("</svg>")
    return Markup("".join(parts))


def interval_bar(estimate: float | None, low: float | None, high: float | None, most: float) -> Markup:
    """A small bar from 0 to the estimate with its interval, for a table's cell; ``most`` is its full
    width."""
    if estimate is None or most <= 0:
        return Markup("")
    scale = 96.0 / most
    parts = [
        '<svg class="mini" viewBox="0 0 100 12" aria-hidden="true">',
        f'<rect class="fill" x="0" y="3" height="6" width="{estimate * scale:.1f}" rx="2"/>',
    ]
    if low is not None and high is not None:
        parts.append(f'<line class="whisker" x1="{low * scale:.1f}" x2="{high * scale:.1f}" y1="6" y2="6"/>')
    return Markup("".join([*parts, "</svg>"]))


def histogram(edges: Sequence[float], counts: Sequence[int], *, caption: str, unit: str) -> Markup:
    """Columns of equal width, one a bin, its count above and its edges below; the last bin may be open.

    ``edges`` has as many entries as ``counts`` (the last bin is open) or one more.
    """
    width, height, left = 560, 190, 12
    top, base = 34, height - 36
    most = max(counts, default=0) or 1
    step = (width - 2 * left) / max(len(counts), 1)
    parts = [
        f'<svg class="plot narrow" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(caption)}">',
        f"<title>{escape(caption)}</title>",
        f'<line class="zero" x1="{left}" x2="{width - left}" y1="{base}" y2="{base}"/>',
    ]
    for number, count in enumerate(counts):
        x, tall = left + number * step, (base - top) * count / most
        upper = f"{edges[number + 1]:g}" if number + 1 < len(edges) else "more"
        parts.append(
            f'<rect class="fill" x="{x + 1:.1f}" y="{base - tall:.1f}" width="{step - 2:.1f}" '
            f'height="{tall:.1f}"><title>{edges[number]:g} to {upper} {escape(unit)}: {count}</title></rect>'
        )
        if count and step > 24:
            parts.append(
                f'<text class="tick" x="{x + step / 2:.1f}" y="{base - tall - 5:.1f}" text-anchor="middle">'
                f"{count:,}</text>"
            )
    every = max(1, math.ceil(len(edges) * 42 / width))
    parts.extend(
        f'<text class="tick" x="{left + number * step:.1f}" y="{base + 16}" text-anchor="middle">'
        f"{edges[number]:g}</text>"
        for number in range(0, len(edges), every)
    )
    parts.append(
        f'<text class="note" x="{width / 2:.0f}" y="{height - 4}" text-anchor="middle">{escape(unit)}</text>'
    )
    return Markup("".join([*parts, "</svg>"]))


def tone_of(low: float, high: float, margin: float | None) -> str:
    """``good``, ``bad`` or ``open``, by where the interval lies."""
    line = 0.0 if margin is None else margin
    if low >= line and (margin is not None or low > 0):
        return "good"
    return "bad" if high < line else "open"


def nice_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers inside [low, high], about ``about`` of them, 0 among them where it lies inside."""
    raw = (high - low) / about
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _of(value: float | None) -> list[float]:
    return [] if value is None else [value]
