"""Columns, bars and lines as inline SVG. Colours are classes, so that the page's light and dark themes reach them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from segue.reporting.render import percent
from segue.reporting.svg import nice_ticks

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 380, 220, 46, 8, 14, 44
ROW, LABELS, FIGURES, BARS, AXIS = 32, 176, 196, 508, 24
_MOST_COLUMNS = 400  # more would be thinner than a pixel: neighbours are averaged


@dataclass(frozen=True, slots=True)
class Bar:
    """One measured share. ``reference`` is drawn as a line across it, such as what chance would give."""

    label: str
    value: float | None
    text: str
    reference: float | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """Points (x, y) by x, joined unless ``dots``. ``tone``: ``strong``, ``soft`` or ``hollow``; ``label`` is shown to a
    pointer that rests on it."""

    label: str
    points: Sequence[tuple[float, float]]
    tone: str = "soft"
    dots: bool = False
    steps: bool = False  # level until the next point, as a best-so-far is


def line_chart(lines: Sequence[Line], *, caption: str, x_title: str, y_title: str) -> Markup:
    """Lines and dots over whole numbers on the x axis; the y axis holds what was measured, and need not begin at 0."""
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    first, last = (min(xs), max(xs)) if xs else (0.0, 1.0)
    low, high = (min(ys), max(ys)) if ys else (0.0, 1.0)
    pad = 0.08 * (high - low) or 0.05 * abs(high) or 0.01
    low, high = low - pad, high + pad
    width, right, base = 2 * WIDTH, 2 * WIDTH - RIGHT, HEIGHT - BOTTOM
    margin = LEFT + 10

    def x(value: float) -> float:
        return margin + 12 + (value - first) / max(last - first, 1e-12) * (right - margin - 24)

    def y(value: float) -> float:
        return base - (value - low) / (high - low) * (base - TOP)

    parts = [
        f'<svg class="plot lines-chart" viewBox="0 0 {width} {HEIGHT}" role="img" aria-label="{escape(caption)}">',
        f"<title>{escape(caption)}</title>",
    ]
    parts.extend(
        f'<line class="grid" x1="{margin}" x2="{right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        f'<text class="tick" x="{margin - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>'
        for tick in nice_ticks(low, high, 4)
    )
    every = max(1, math.ceil((last - first) / 20))
    parts.extend(
        f'<text class="tick" x="{x(number):.1f}" y="{base + 17}" text-anchor="middle">{number}</text>'
        for number in range(math.ceil(first), math.floor(last) + 1, every)
    )
    for line in lines:
        told = f"<title>{escape(line.label)}</title>"
        if line.dots:
            parts.extend(
                f'<circle class="dot {line.tone}" cx="{x(at):.1f}" cy="{y(value):.1f}" r="4.5">{told}</circle>'
                for at, value in line.points
            )
            continue
        corners = list(line.points)
        if line.steps:
            corners = [
                corner
                for before, after in zip([None, *corners], corners, strict=False)
                for corner in ([] if before is None else [(after[0], before[1])]) + [after]
            ]
        path = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in corners)
        parts.append(f'<polyline class="curve {line.tone}" points="{path}">{told}</polyline>')
    parts.append(
        f'<text class="note" x="{(margin + right) / 2:.0f}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_title)}'
        f'</text><text class="note" x="{margin + 4}" y="{TOP - 3}">{escape(y_title)}</text></svg>'
    )
    return Markup("".join(parts))


def column_chart(
    values: Sequence[float],
    *,
    caption: str,
    x_title: str,
    y_title: str,
    labels: Sequence[str] = (),
    reference: float | None = None,
) -> Markup:
    """Columns side by side, with ``labels`` below where they are given and a dashed line at ``reference``."""
    shown = _averaged(list(values))
    most = max([*shown, reference or 0.0, 0.0]) or 1.0
    ticks = nice_ticks(0.0, most, 4)
    right, base = WIDTH - RIGHT, HEIGHT - BOTTOM

    def y(value: float) -> float:
        return base - value / most * (base - TOP)

    parts = [
        f'<svg class="plot columns-chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(caption)}">',
        f"<title>{escape(caption)}</title>",
    ]
    parts.extend(
        f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        f'<text class="tick" x="{LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:,g}</text>'
        for tick in ticks
    )
    step = (right - LEFT) / max(len(shown), 1)
    gap = min(0.2 * step, 4.0)
    for number, value in enumerate(shown):
        parts.append(
            f'<rect class="column" x="{LEFT + number * step + gap / 2:.2f}" y="{y(value):.1f}" '
            f'width="{step - gap:.2f}" height="{base - y(value):.1f}"/>'
        )
    every = max(1, math.ceil(len(labels) * 34 / (right - LEFT)))
    for number, label in enumerate(labels):
        if number % every == 0:
            parts.append(
                f'<text class="tick" x="{LEFT + (number + 0.5) * step:.1f}" y="{base + 17}" text-anchor="middle">'
                f"{escape(label)}</text>"
            )
    if reference is not None:
        parts.append(
            f'<line class="margin" x1="{LEFT}" x2="{right}" y1="{y(reference):.1f}" y2="{y(reference):.1f}"/>'
        )
    parts.append(
        f'<text class="note" x="{(LEFT + right) / 2:.0f}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_title)}'
        f'</text><text class="note" x="{LEFT + 4}" y="{TOP - 3}">{escape(y_title)}</text></svg>'
    )
    return Markup("".join(parts))


def bar_chart(
    bars: Sequence[Bar], *, caption: str, most: float | None = None, percents: bool = False
) -> Markup:
    """Bars one below the other on one axis from 0 to ``most`` (by default a little above the largest), each with its
    figure in words; ``percents``: the axis reads 20 %, not 0.2."""
    finite = [one for bar in bars for one in (bar.value, bar.reference) if one is not None]
    top = most if most is not None else 1.1 * max([*finite, 0.0]) or 1.0
    base = ROW * len(bars) + 4
    width, height = LABELS + BARS + FIGURES, base + AXIS
    scale = (BARS - 12) / top
    parts = [
        f'<svg class="plot" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(caption)}">',
        f"<title>{escape(caption)}</title>",
    ]
    for tick in nice_ticks(0.0, top, 4):
        at, said = LABELS + tick * scale, percent(tick, 0 if top >= 0.04 else 1) if percents else f"{tick:g}"
        parts.append(
            f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="2" y2="{base}"/>'
            f'<text class="tick" x="{at:.1f}" y="{base + 16}" text-anchor="middle">{said}</text>'
        )
    for number, bar in enumerate(bars):
        high = number * ROW + 7
        parts.append(f'<text x="0" y="{high + 14}">{escape(bar.label)}</text>')
        if bar.value is not None:
            length = max(bar.value * scale, 0.0)
            parts.append(
                f'<rect class="column" x="{LABELS}" y="{high}" width="{length:.1f}" height="18" rx="4"/>'
            )
        if bar.reference is not None:
            at = LABELS + bar.reference * scale
            parts.append(
                f'<line class="reference" x1="{at:.1f}" x2="{at:.1f}" y1="{high - 3}" y2="{high + 21}"/>'
            )
        parts.append(f'<text class="figure" x="{LABELS + BARS}" y="{high + 14}">{escape(bar.text)}</text>')
    return Markup("".join([*parts, "</svg>"]))


def _averaged(values: list[float]) -> list[float]:
    width = math.ceil(len(values) / _MOST_COLUMNS) or 1
    pieces = [values[low : low + width] for low in range(0, len(values), width)]
    return [sum(piece) / len(piece) for piece in pieces]
