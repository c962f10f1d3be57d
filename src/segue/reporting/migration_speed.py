"""The migration page's latencies, measured and live, and what a thousand requests cost."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from segue.migration.costs import path_costs
from segue.migration.settings import MigrationSettings
from segue.reporting.charts import Bar, bar_chart
from segue.reporting.migration_view import MigrationView
from segue.reporting.plain import PATHS, figure
from segue.reporting.render import number, words
from segue.schema import PathName


def latency(view: MigrationView) -> Markup | None:
    if view.check is None:
        return None
    budget = _latency_budget(view.settings)
    bars = [
        Bar(
            f"{words(path).capitalize()}, {said}",
            row[f"latency_{name}_ms"],
            figure("latency_p99_ms", row[f"latency_{name}_ms"]),
            budget if name == "p99" else None,
        )
        for path, row in sorted(view.check["paths"].items())
        for name, said in (("p50", "half within"), ("p95", "95 % within"), ("p99", "99 % within"))
        if row.get(f"latency_{name}_ms") is not None
    ]
    return bar_chart(bars, caption="Latency of the serving check by path, in milliseconds") if bars else None


def _latency_budget(settings: MigrationSettings) -> float | None:
    for requirement in settings.pilot.requirements:
        if requirement.metric == "latency_p99_ms" and requirement.direction == "at_most":
            return requirement.margin
    return None


def live_latency(view: MigrationView) -> list[dict[str, Any]]:
    if view.traffic is None:
        return []
    return [
        {
            "path": PATHS.get(path, words(path)),
            "lists": view.traffic.latency_counts[path],
            **{name: figure("latency_p99_ms", value) for name, value in quantiles.items()},
        }
        for path, quantiles in view.traffic.latency_ms.items()
    ]


def costs(view: MigrationView) -> list[dict[str, Any]]:
    if view.check is None:
        return []
    found = path_costs(view.check, view.settings.costs)
    base = next((one for one in found if one.path == PathName.CASCADE), None)
    per_day = None if view.traffic is None else view.traffic.lists_per_day
    return [
        {
            "path": PATHS.get(one.path, words(one.path)),
            "rate": number(one.requests_per_second, 0),
            "seconds": number(one.seconds_per_thousand, 1),
            "money": f"{one.money_per_thousand:.5f}",
            "ratio": ""
            if base is None
            else f"{one.seconds_per_thousand / base.seconds_per_thousand:.2f} \N{MULTIPLICATION SIGN}",
            "daily": None if per_day is None else f"{one.money_per_thousand * per_day / 1000:.4f}",
            "exact": one.exact,
        }
        for one in found
    ]
