"""The verdict at the end of a run, as plain text."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from segue.reporting.names import CONTENDERS, ordered

WIDTH = 100
REASONS = 6  # shown of each decision; what stands in the way comes first
_NOTHING = "-"


def verdict(summary: Mapping[str, Any]) -> str:
    """The table of contenders with their intervals, each decision with its reasons, and what serves.

    ``summary`` is the content of ``reports/<dataset>/summary.json``.
    """
    return "\n".join(
        [*_dataset(summary), "", *_contenders(summary), "", *_decisions(summary), "", *_serves(summary)]
    )


def _dataset(summary: Mapping[str, Any]) -> list[str]:
    facts = summary["dataset"]
    ties = facts["tied_last_steps"]
    return [
        f"{_count(facts['users'])} users "
        f"({_count(facts['new_users'])} new, {_count(facts['replay_users'])} for replay), "
        f"{_count(facts['items'])} items, {_count(facts['interactions'])} interactions"
        + ("" if ties is None else f"; {_count(ties)} last steps tied in time")
    ]


def _contenders(summary: Mapping[str, Any]) -> list[str]:
    contenders = ordered(summary["contenders"], CONTENDERS)
    metrics = list(dict.fromkeys(metric for figures in contenders.values() for metric in figures))
    rows = [
        (CONTENDERS.get(name, name), *(_interval(figures[metric]) for metric in metrics))
        for name, figures in contenders.items()
    ]
    header = ("contender", *metrics)
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]

    def line(row: tuple[str, ...]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()

    return [line(header), "  ".join("-" * width for width in widths), *(line(row) for row in rows)]


def _decisions(summary: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, decision in summary["decisions"].items():
        lines.append(f"{name}: {decision['outcome']}  (decision {decision['sha256'][:12]})")
        reasons = decision["reasons"]
        for reason in reasons[:REASONS]:
            lines.extend(textwrap.wrap(reason, WIDTH, initial_indent="  - ", subsequent_indent="    "))
        if len(reasons) > REASONS:
            lines.append(f"  - and {len(reasons) - REASONS} more, in index.html")
    return lines


def _serves(summary: Mapping[str, Any]) -> list[str]:
    deployment = summary["deployment"]
    if deployment["revision"] is None:
        where = "nothing is deployed"
    else:
        where = f"stage {deployment['stage']}, deployment revision {deployment['revision']}"
    return [
        f"serving: {where}",
        f"bundle {str(summary['bundle'])[:12]}, model version {summary['model_version'] or _NOTHING}, "
        f"bento {summary['bento_tag'] or _NOTHING}",
        f"the steps took {sum(summary['seconds'].values()):.0f} s in all",
    ]


def _interval(value: Mapping[str, float | None]) -> str:
    estimate, low, high = value["estimate"], value["low"], value["high"]
    if estimate is None:
        return _NOTHING
    return f"{estimate:.4f}" + ("" if low is None or high is None else f" [{low:.4f}, {high:.4f}]")


def _count(value: int | None) -> str:
    return _NOTHING if value is None else f"{value:,}"
