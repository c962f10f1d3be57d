"""What a thousand requests cost by each path: machine time as measured by the serving check, money at a declared price."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from segue.migration.settings import Costs

HOUR = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PathCost:
    """``requests_per_second``: of one machine that is kept busy. ``exact``: from the mean latency; else from the median,
    which a check of an earlier version recorded alone."""

    path: str
    requests_per_second: float
    seconds_per_thousand: float  # of one machine
    money_per_thousand: float
    exact: bool


def path_costs(check: Mapping[str, Any], costs: Costs) -> list[PathCost]:
    """From ``check.json`` of the serving check. A path without an answered request is left out.

    The check keeps ``concurrency`` requests in flight all the time, so that requests a second = concurrency / mean latency
    (Little 1961, L = lambda W). Clients and server share that machine, so the figure is rather too low than too high.
    """
    found = []
    for path, row in check["paths"].items():
        mean = row.get("latency_mean_ms")
        latency = mean if mean is not None else row["latency_p50_ms"]
        if not latency:
            continue
        rate = 1000.0 * check["concurrency"] / latency
        found.append(
            PathCost(
                path=path,
                requests_per_second=rate,
                seconds_per_thousand=1000.0 / rate,
                money_per_thousand=1000.0 / rate * costs.machine_hour / HOUR,
                exact=mean is not None,
            )
        )
    return sorted(found, key=lambda one: one.seconds_per_thousand)
