"""What is known of the users of a running experiment: the raw material of online evidence.

One row a user, whose window has closed: its figures never change any more, which is what every confidence sequence asks for.
Whoever keeps exposures and feedback makes these tables (:mod:`segue.serving.store.windows` from the online store).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import polars as pl

# One row a user. Times: seconds since 1970-01-01 UTC. What is counted: lists that the arm of the first list was shown to the
# user within the window, and feedback on them that had arrived when the window closed.
USER_WINDOWS: Final[dict[str, Any]] = {
    "user_hash": pl.String,
    "arm": pl.String,
    "deployment": pl.Int64,  # of the first list
    "first_exposed_at": pl.Float64,
    "closes_at": pl.Float64,
    "exposures": pl.Int64,  # lists shown
    "impressions": pl.Int64,  # items shown
    "fallbacks": pl.Int64,  # lists that another path than the arm's had to make
    "empty": pl.Int64,  # requests that got no item
    "latencies_ms": pl.List(pl.Float64),  # of the lists whose latency was logged
    "clicks": pl.Int64,  # shown items with at least one click
    "exposures_clicked": pl.Int64,
    "clicks_generative": pl.Int64,  # clicks on items of interleaved lists, by team
    "clicks_cascade": pl.Int64,
    "first_items": pl.List(pl.String),  # the first list
    # Before the arms were drawn, with the feedback that had arrived by then: what explains how users differ.
    "earlier_impressions": pl.Int64,
    "earlier_clicks": pl.Int64,
}


def no_users() -> pl.DataFrame:
    return pl.DataFrame(schema=USER_WINDOWS)


@dataclass(frozen=True, slots=True)
class OnlineUsers:
    """All users of an experiment at one moment.

    ``feedback`` and ``serving``: :data:`USER_WINDOWS` of the users whose window has closed, in the order in which the
    windows closed; the first with the window for feedback, the second with the shorter one for what the service did.
    ``assigned``: users by arm, counted at their first list. ``attributed`` of ``feedback_rows`` could be joined to
    an exposure (in the whole store).
    """

    feedback: pl.DataFrame = field(default_factory=no_users)
    serving: pl.DataFrame = field(default_factory=no_users)
    assigned: Mapping[str, int] = field(default_factory=dict)
    first_exposed_at: float | None = None
    last_exposed_at: float | None = None
    feedback_rows: int = 0
    attributed: int = 0


@dataclass(frozen=True, slots=True)
class CatalogueFacts:
    """What can be said of a shown item.

    ``items``: those that can be shown now; of them ``long_tail``, and ``new`` (without an event in the training part).
    ``known``: those of every bundle that served in the experiment, retired ones among them; None: not known.
    """

    items: frozenset[str]
    known: frozenset[str] | None
    long_tail: frozenset[str]
    new: frozenset[str]


def closed(table: pl.DataFrame, now: float) -> pl.DataFrame:
    """The users of ``table`` whose window has closed at ``now``, in the order of closing."""
    return table.filter(pl.col("closes_at") <= now).sort("closes_at", "user_hash")
