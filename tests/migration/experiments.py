"""Ledgers in which an experiment runs, and users with planted habits in the tables that evidence is made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from segue.migration.decide import Target
from segue.migration.deployment import BundleFacts
from segue.migration.online_users import USER_WINDOWS, OnlineUsers
from segue.migration.settings import MigrationSettings
from segue.migration.state_machine import StateMachine
from tests.migration.builders import SETTINGS, bundle, machine, promote

INCUMBENT_ALONE, CONTENDER = bundle("A", model=None), bundle("B")


def at_pilot(
    folder: Path,
    settings: MigrationSettings = SETTINGS,
    *,
    first: BundleFacts = INCUMBENT_ALONE,
    contender: BundleFacts = CONTENDER,
) -> StateMachine:
    """Revision 2: the contender's pilot."""
    found = machine(folder, settings)
    found.bootstrap(first)
    found.advance(promote(Target.PILOT, contender), contender)
    return found


def users(n: int, arm: str, seed: int = 0, start: float = 0.0, **habits: Any) -> pl.DataFrame:
    """``n`` counted users of an arm: each clicks on some of 10 items, now and in the past (the smaller ``alike``,
    the more they differ from each other), has ``fallback`` or ``empty`` lists by chance, and latency around ``latency_ms``."""
    random = np.random.default_rng(seed)
    taste = random.beta(0.1 * habits.get("alike", 20), 0.9 * habits.get("alike", 20), n)
    clicks = random.binomial(10, np.minimum(taste * habits.get("clicks", 1.0), 1.0))
    past = random.binomial(10, taste)
    first = start + np.arange(n, dtype=np.float64)
    rows = {
        "user_hash": [f"{arm}{number:06d}" for number in range(n)],
        "arm": [arm] * n,
        "deployment": [2] * n,
        "first_exposed_at": first,
        "closes_at": first + 1.0,
        "exposures": [1] * n,
        "impressions": [10] * n,
        "fallbacks": random.random(n) < habits.get("fallback", 0.0),
        "empty": random.random(n) < habits.get("empty", 0.0),
        "latencies_ms": [[value] for value in habits.get("latency_ms", 20.0) * random.gamma(4.0, 0.25, n)],
        "clicks": clicks,
        "exposures_clicked": clicks > 0,
        "clicks_generative": clicks if habits.get("team") == "generative" else np.zeros(n),
        "clicks_cascade": clicks if habits.get("team") == "cascade" else np.zeros(n),
        "first_items": habits.get("lists") or [["a", "b"]] * n,
        "earlier_impressions": [10 if habits.get("past", True) else 0] * n,
        "earlier_clicks": (past + habits.get("past_gap", 0)) * habits.get("past", True),
    }
    return pl.DataFrame(rows).select(pl.col(name).cast(kind) for name, kind in USER_WINDOWS.items())


def online(*arms: pl.DataFrame, **change: Any) -> OnlineUsers:
    """All ``arms`` together, in the order in which their windows closed."""
    table = pl.concat(arms).sort("closes_at", "user_hash")
    assigned = dict(table.group_by("arm").len().iter_rows())
    fields: dict[str, Any] = {
        "feedback": table, "serving": table, "assigned": assigned,
        "first_exposed_at": table["first_exposed_at"].min(), "last_exposed_at": table["first_exposed_at"].max(),
    }  # fmt: skip
    return OnlineUsers(**(fields | change))
