"""Intervals against their margin: over time as a chart, at this moment as a ruler. Colours are classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from markupsafe import Markup, escape

from segue.reporting.svg import nice_ticks

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 480, 230, 70, 12, 26, 30
RULER_WIDTH, RULER_HEIGHT = 210, 30
_SHOWN_FROM = 0.34  # of the looks: the first ones are so wide that nothing else could be seen
_TICKS = 4


@dataclass(frozen=True, slots=True)
class Point:
    """One look. Bounds are null while there are too few users for any."""

    at: datetime
    estimate: float | None
    low: float | None
    high: float | None


def tone(low: float | None, high: float | None, margin: float, *, at_least: bool) -> str:
    """``good``: the interval keeps the margin; ``bad``: it lies beyond; ``open``: neither."""
    if low is None or high is None:
        return "open"
    if (low >= margin) if at_least else (high <= margin):
        return "good"
    return "bad" if ((high < margin) if at_least else (low > margin)) else "open"


def sequence_chart(
    points: Sequence[Point],
    *,
    caption: str,
    say: Callable[[float], str],
    margin: float | None = None,
    at_least: bool = True,
    marks: Sequence[tuple[datetime, str]] = (),
) -> Markup:
    """A confidence sequence over time: its band, the estimate in it, the margin, and moments at which something happened.

    The vertical axis is chosen by the later looks, so that early, wide intervals run out of the picture. ``say`` writes a figure.
    """
    points = sorted(points, key=lambda point: point.at)
    parts = [
        f'<svg class="plot small" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(caption)}">',
        f"<title>{escape(caption)}</title>",
    ]
    bounded = [(p.at, p.low, p.high) for p in points if p.low is not None and p.high is not None]
    late = bounded[int(len(bounded) * _SHOWN_FROM) :]
    seen = [value for _, low, high in late for value in (low, high)]
    seen += [] if margin is None else [margin]
    seen += [p.estimate for p in points[len(points) // 2 :] if p.estimate is not None]
    if not points or not seen:
        return Markup("".join([*parts, _nothing_yet(), "</svg>"]))
    least, most = min(seen), max(seen)
    pad = 0.1 * (most - least) or 0.1 * abs(most) or 0.01
    least, most = least - pad, most + pad
    first, last = points[0].at, points[-1].at
    span = max((last - first).total_seconds(), 1.0)
    base, right = HEIGHT - BOTTOM, WIDTH - RIGHT

    def x(at: datetime) -> float:
        return LEFT + 8 + (at - first).total_seconds() / span * (right - LEFT - 20)

    def y(value: float) -> float:
        return TOP + (most - min(max(value, least), most)) / (most - least) * (base - TOP)

    parts.extend(
        f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        f'<text class="tick" x="{LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{escape(say(tick))}</text>'
        for tick in nice_ticks(least, most, _TICKS)
    )
    for number, moment in enumerate(_moments(first, last)):
        anchor = "start" if number == 0 else "middle" if x(moment) < right - 40 else "end"
        parts.append(
            f'<text class="tick" x="{x(moment):.1f}" y="{base + 18}" text-anchor="{anchor}">'
            f"{_said(moment, last - first)}</text>"
        )
    if margin is not None:
        edge = TOP if at_least else base
        top, height = min(y(margin), edge), abs(y(margin) - edge)
        parts.append(
            f'<rect class="allowed" x="{LEFT}" y="{top:.1f}" width="{right - LEFT}" height="{height:.1f}"/>'
            f'<line class="margin" x1="{LEFT}" x2="{right}" y1="{y(margin):.1f}" y2="{y(margin):.1f}"/>'
        )
    end = next((p for p in reversed(points) if p.low is not None and p.high is not None), None)
    colour = "open"
    if end is not None and margin is not None:
        colour = tone(end.low, end.high, margin, at_least=at_least)
    if len(bounded) > 1:
        corners = [f"{x(at):.1f},{y(high):.1f}" for at, _, high in bounded]
        corners += [f"{x(at):.1f},{y(low):.1f}" for at, low, _ in reversed(bounded)]
        parts.append(f'<polygon class="band {colour}" points="{" ".join(corners)}"/>')
    elif bounded:
        at, low, high = bounded[0]
        parts.append(
            f'<line class="bar {colour}" x1="{x(at):.1f}" x2="{x(at):.1f}" y1="{y(low):.1f}" y2="{y(high):.1f}"/>'
        )
    line = [(p.at, p.estimate) for p in points if p.estimate is not None]
    if len(line) > 1:
        path = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in line)
        parts.append(f'<polyline class="estimate {colour}" points="{path}"/>')
    if line:
        at, value = line[-1]
        parts.append(f'<circle class="{colour}" cx="{x(at):.1f}" cy="{y(value):.1f}" r="4"/>')
    for at, what in marks:
        if first <= at <= last:
            anchor = "start" if x(at) < WIDTH / 2 else "end"
            parts.append(
                f'<line class="mark" x1="{x(at):.1f}" x2="{x(at):.1f}" y1="{TOP}" y2="{base}"/>'
                f'<text class="tick" x="{x(at):.1f}" y="{TOP - 8}" text-anchor="{anchor}">{escape(what)}</text>'
            )
    return Markup("".join([*parts, "</svg>"]))


def margin_ruler(
    estimate: float | None, low: float | None, high: float | None, margin: float, *, at_least: bool
) -> Markup:
    """One interval beside its margin, the allowed side shaded; each ruler has a scale of its own."""
    if estimate is None or low is None or high is None:
        return Markup("")
    least, most = min(low, margin), max(high, margin)
    spread = most - least or max(abs(margin), abs(estimate)) or 1.0
    least, most = least - 0.15 * spread, most + 0.15 * spread

    def x(value: float) -> float:
        return (value - least) / (most - least) * RULER_WIDTH

    middle, colour = RULER_HEIGHT / 2, tone(low, high, margin, at_least=at_least)
    start, end = (x(margin), RULER_WIDTH) if at_least else (0.0, x(margin))
    return Markup(
        f'<svg class="plot ruler" viewBox="0 0 {RULER_WIDTH} {RULER_HEIGHT}" aria-hidden="true">'
        f'<rect class="allowed" x="{start:.1f}" y="2" width="{end - start:.1f}" height="{RULER_HEIGHT - 4}"/>'
        f'<line class="margin" x1="{x(margin):.1f}" x2="{x(margin):.1f}" y1="0" y2="{RULER_HEIGHT}"/>'
        f'<g class="{colour}"><line class="bar" x1="{x(low):.1f}" x2="{x(high):.1f}" y1="{middle}" y2="{middle}"/>'
        f'<circle cx="{x(estimate):.1f}" cy="{middle}" r="4.5"/></g></svg>'
    )


def _nothing_yet() -> str:
    return (
        f'<text class="note" x="{WIDTH / 2:.0f}" y="{HEIGHT / 2:.0f}" text-anchor="middle">'
        "no interval yet: too few users</text>"
    )


def _moments(first: datetime, last: datetime) -> list[datetime]:
    if last <= first:
        return [first]
    return [first + (last - first) * step / (_TICKS - 1) for step in range(_TICKS)]


def _said(moment: datetime, span: timedelta) -> str:
    if span < timedelta(minutes=10):
        return f"{moment:%H:%M:%S}"
    if span < timedelta(days=2):
        return f"{moment:%H:%M}"
    return f"{moment.day} {moment:%b}"
