"""What the online store holds, as a page needs it: the funnel by arm, users a day, latency by path, how much users differ.

Sums by user come from :meth:`segue.serving.store.Store.user_sums`, the raw material of the evidence itself; what a user's sums
leave out (lists of unnamed requests, quantiles of latency) is read once through, page by page.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, Protocol

import numpy as np
import polars as pl

from segue.serving.store.attribution import UserSums
from segue.serving.store.records import REPLAYED

RECENT_DAYS: Final = 7  # "today's traffic" is the mean of the last so many days
_DAY: Final = 86_400.0
_PAGE: Final = 20_000
NO_ARM: Final = "none"


class ExposureStore(Protocol):
    """The part of the online store that is read here."""

    def user_sums(self, *, since: float | None = None) -> UserSums: ...
    def exposures(self, *, after: int = 0, limit: int = 100_000) -> list[dict[str, Any]]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmTraffic:
    """One arm. ``lists``: shown, to whomever; ``named_lists``: to a named user, and only these are counted from here on.
    ``items``: shown in them; ``clicked_lists``: with at least one click; ``clicks`` and ``purchases``: of shown items."""

    arm: str
    users: int
    lists: int
    named_lists: int
    items: int
    clicked_lists: int
    clicks: int
    purchases: int
    fallbacks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """One day, UTC."""

    day: date
    lists: int
    new_users: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OnlineTraffic:
    """Since ``since`` (where given). ``users_per_day`` and ``lists_per_day``: of the last :data:`RECENT_DAYS` days; null
    where less than a day was seen. ``latency_ms``: quantiles by path. ``sd``: of one user's figure, by metric, as
    :class:`segue.migration.power.Plan` takes it."""

    first: datetime
    last: datetime
    users: int
    arms: list[ArmTraffic]
    days: list[Day]
    users_per_day: float | None
    lists_per_day: float | None
    latency_ms: dict[str, dict[str, float]]
    latency_counts: dict[str, int]
    sd: dict[str, float] = field(default_factory=dict)
    unattributed: int = 0
    feedback: int = 0

    @property
    def span_days(self) -> float:
        return (self.last - self.first).total_seconds() / _DAY


def read_traffic(store: ExposureStore, *, since: datetime | None = None) -> OnlineTraffic | None:
    """Everything shown since ``since`` (default: ever); None where nothing was. Work and time grow with the exposures."""
    begin = None if since is None else since.timestamp()
    sums = store.user_sums(since=begin)
    lists: dict[str, int] = {}
    times: list[float] = []
    latencies: dict[str, list[float]] = {}
    after = 0
    while page := store.exposures(after=after, limit=_PAGE):
        after = int(page[-1]["sequence"])
        for row in page:
            if row["exposure_id"].startswith(REPLAYED) or (begin is not None and row["shown_at"] < begin):
                continue
            arm = row["arm"] or NO_ARM
            lists[arm] = lists.get(arm, 0) + 1
            times.append(row["shown_at"])
            if row["latency_ms"] is not None and row["fallback"] is None:
                latencies.setdefault(row["path"], []).append(row["latency_ms"])
    if not times:
        return None
    shown = np.asarray(times)
    entered = sums.table.group_by("user_hash").agg(pl.col("first_exposed_at").min())["first_exposed_at"]
    first, last = float(shown.min()), float(shown.max())
    recent = max(first, last - RECENT_DAYS * _DAY)
    span = (last - recent) / _DAY
    per_day = span if span >= 1.0 else None
    return OnlineTraffic(
        first=datetime.fromtimestamp(first, UTC),
        last=datetime.fromtimestamp(last, UTC),
        users=len(entered),
        arms=_arms(sums.table, lists),
        days=_days(shown, entered.to_numpy()),
        users_per_day=None if per_day is None else int((entered >= recent).sum()) / per_day,
        lists_per_day=None if per_day is None else int((shown >= recent).sum()) / per_day,
        latency_ms={path: quantiles(values) for path, values in sorted(latencies.items())},
        latency_counts={path: len(values) for path, values in latencies.items()},
        sd=spreads(sums.table),
        unattributed=sums.coverage.unattributed,
        feedback=sums.coverage.feedback,
    )


def quantiles(values: Iterable[float]) -> dict[str, float]:
    """Median, 95th and 99th percentile."""
    found = np.percentile(list(values), [50, 95, 99])
    return {"p50": float(found[0]), "p95": float(found[1]), "p99": float(found[2])}


def spreads(table: pl.DataFrame) -> dict[str, float]:
    """``{"ctr": sd}`` of (clicks - ctr x impressions) / mean impressions over users; empty where there is no spread yet."""
    users = table.group_by("user_hash").agg(pl.col("clicks", "impressions").sum())
    clicks, shown = users["clicks"].to_numpy().astype(float), users["impressions"].to_numpy().astype(float)
    if len(clicks) < 2 or shown.sum() == 0 or clicks.sum() == 0:
        return {}
    rate = clicks.sum() / shown.sum()
    sd = float(np.std((clicks - rate * shown) / shown.mean(), ddof=1))
    return {"ctr": sd} if math.isfinite(sd) and sd > 0 else {}


def _arms(table: pl.DataFrame, lists: Mapping[str, int]) -> list[ArmTraffic]:
    sums = {
        row["arm"] or NO_ARM: row
        for row in table.group_by("arm")
        .agg(
            pl.col("user_hash").n_unique().alias("users"),
            *(
                pl.col(name).sum()
                for name in (
                    "exposures", "impressions", "exposures_clicked", "clicks", "purchases", "fallbacks",
                )
            ),
        )
        .iter_rows(named=True)
    }  # fmt: skip
    return [
        ArmTraffic(
            arm=arm,
            users=int(row.get("users", 0)),
            lists=lists[arm],
            named_lists=int(row.get("exposures", 0)),
            items=int(row.get("impressions", 0)),
            clicked_lists=int(row.get("exposures_clicked", 0)),
            clicks=int(row.get("clicks", 0)),
            purchases=int(row.get("purchases", 0)),
            fallbacks=int(row.get("fallbacks", 0)),
        )
        for arm in sorted(lists, key=lambda name: -lists[name])
        for row in [sums.get(arm, {})]
    ]


def _days(shown: np.ndarray[Any, Any], entered: np.ndarray[Any, Any]) -> list[Day]:
    def by_day(moments: np.ndarray[Any, Any]) -> dict[int, int]:
        days, counts = np.unique((moments // _DAY).astype(np.int64), return_counts=True)
        return dict(zip(days.tolist(), counts.tolist(), strict=True))

    lists, users = by_day(shown), by_day(entered)
    epoch = date(1970, 1, 1)
    return [
        Day(day=epoch + timedelta(days=number), lists=lists.get(number, 0), new_users=users.get(number, 0))
        for number in range(min(lists), max(lists) + 1)
    ]
