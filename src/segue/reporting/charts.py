"""Columns and bars as inline SVG. Colours are classes, so that the page's light and dark themes reach them."""

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
