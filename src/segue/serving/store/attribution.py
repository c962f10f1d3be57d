"""Which exposure a feedback belongs to, and what that makes per user and arm.

The join is done at reading, as a pure function of the two tables: the order in which exposures and feedback
arrived, how late, and how often they were sent again (ids are unique) cannot change its result. The brute-force
reference stands in the tests.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Any, Final

import polars as pl

WINDOW_SECONDS: Final = 86_400  # how old an exposure may be to which feedback without an id is given
# The name of a feedback's kind in the table of sums.
KINDS: Final = {
    "click": "clicks",
    "view": "views",
    "add_to_cart": "add_to_carts",
    "like": "likes",
    "purchase": "purchases",
    "rating": "ratings",
    "dismiss": "dismissals",
}
EXPOSURES: Final[dict[str, Any]] = {
    "sequence": pl.Int64,
    "exposure_id": pl.String,
    "user_hash": pl.String,
    "arm": pl.String,
    "path": pl.String,
    "bundle": pl.String,
    "deployment": pl.Int64,
    "item_ids": pl.List(pl.String),
    "sources": pl.List(pl.String),  # of each item; null: logged before they were
    "fallback": pl.String,
    "warnings": pl.String,
    "latency_ms": pl.Float64,
    "shown_at": pl.Float64,
}
FEEDBACK: Final[dict[str, Any]] = {
    "sequence": pl.Int64,
    "feedback_id": pl.String,
    "exposure_id": pl.String,
    "user_hash": pl.String,
    "item_id": pl.String,
    "kind": pl.String,
    "value": pl.Float64,
    "happened_at": pl.Float64,
    "received_at": pl.Float64,
}
# One row for each (user_hash, arm, deployment). Times: seconds since 1970-01-01 UTC.
USER_SUMS: Final[dict[str, Any]] = {
    "user_hash": pl.String,
    "arm": pl.String,  # null: no deployment was followed
    "deployment": pl.Int64,
    "bundle": pl.String,
    "first_exposed_at": pl.Float64,
    "last_exposed_at": pl.Float64,
    "exposures": pl.Int64,  # lists shown
    "impressions": pl.Int64,  # items shown
    "fallbacks": pl.Int64,  # lists that another path than the arm's had to make
    "degraded": pl.Int64,  # lists made with a warning, such as a history that could not be read
    "latency_ms_sum": pl.Float64,
    "latency_ms_max": pl.Float64,
    # Of a kind: shown items with at least one such feedback, so that no count exceeds impressions.
    **dict.fromkeys(KINDS.values(), pl.Int64),
    "exposures_clicked": pl.Int64,  # lists with at least one click
    "revenue": pl.Float64,  # values of all purchases
    "rating_sum": pl.Float64,  # the latest rating of each rated shown item
    "last_feedback_at": pl.Float64,
}
STATED, INFERRED = "stated", "inferred"


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """What the sums rest on, and what they leave out. Counts of rows."""

    exposures: int = 0
    anonymous_exposures: int = 0  # of requests that named no user: in no user's sums
    feedback: int = 0
    stated: int = 0  # named an exposure that showed the item
    inferred: int = 0  # given to the user's newest exposure that showed the item
    unknown_exposure: int = 0  # names an exposure that is not here (yet, or any more)
    not_shown: int = 0  # names an exposure that did not show the item
    another_user: int = 0  # names an exposure of somebody else
    no_exposure: int = 0  # names none, and none within the window showed the item

    @property
    def unattributed(self) -> int:
        return self.unknown_exposure + self.not_shown + self.another_user + self.no_exposure

    def __add__(self, other: Coverage) -> Coverage:
        names = [field.name for field in fields(self)]
        return Coverage(**{name: getattr(self, name) + getattr(other, name) for name in names})


@dataclass(frozen=True, slots=True)
class UserSums:
    """``table``: :data:`USER_SUMS`, in order of its first three columns."""

    table: pl.DataFrame
    coverage: Coverage


def attribute(
    exposures: pl.DataFrame, feedback: pl.DataFrame, *, window_seconds: int = WINDOW_SECONDS
) -> pl.DataFrame:
    """``feedback`` with ``attributed_to`` (an exposure_id or null) and ``attribution`` (a field of :class:`Coverage`).

    An exposure counts as older than feedback of the same second: clients often send whole seconds.
    """
    shown = (
        exposures.select("exposure_id", "user_hash", "sequence", "shown_at", item_id="item_ids")
        .explode("item_id")
        .drop_nulls("item_id")
    )
    own = pl.col("user_hash")
    named = (
        feedback.filter(pl.col("exposure_id").is_not_null())
        .join(
            exposures.select("exposure_id", owner="user_hash", known=pl.lit(True)),
            on="exposure_id",
            how="left",
        )
        .join(
            shown.select("exposure_id", "item_id", is_shown=pl.lit(True)).unique(),
            on=["exposure_id", "item_id"],
            how="left",
        )
        .with_columns(
            attribution=pl.when(pl.col("known").is_null())
            .then(pl.lit("unknown_exposure"))
            .when((own != pl.col("owner")).fill_null(False))
            .then(pl.lit("another_user"))
            .when(pl.col("is_shown").is_null())
            .then(pl.lit("not_shown"))
            .otherwise(pl.lit(STATED))
        )
        .with_columns(attributed_to=pl.when(pl.col("attribution") == STATED).then("exposure_id"))
    )
    second = pl.col("second")
    candidates = (
        shown.drop_nulls("user_hash")
        .sort("shown_at", "sequence")
        .select(
            "user_hash",
            "item_id",
            attributed_to="exposure_id",
            second=pl.col("shown_at").floor().cast(pl.Int64),
        )
        .sort(second, maintain_order=True)
    )
    unnamed = (
        feedback.filter(pl.col("exposure_id").is_null())
        .with_columns(second=pl.col("happened_at").floor().cast(pl.Int64))
        .sort("second", maintain_order=True)
        .join_asof(
            candidates,
            on="second",
            by=["user_hash", "item_id"],
            strategy="backward",
            tolerance=window_seconds,
            check_sortedness=False,
        )
        .with_columns(
            attribution=pl.when(pl.col("attributed_to").is_null())
            .then(pl.lit("no_exposure"))
            .otherwise(pl.lit(INFERRED))
        )
    )
    columns = [*feedback.columns, "attributed_to", "attribution"]
    return pl.concat([named.select(columns), unnamed.select(columns)]).sort("sequence")


def coverage_of(exposures: pl.DataFrame, attributed: pl.DataFrame) -> Coverage:
    counts = dict(attributed.group_by("attribution").len().iter_rows())
    return Coverage(
        exposures=exposures.height,
        anonymous_exposures=exposures["user_hash"].null_count(),
        feedback=attributed.height,
        **counts,
    )


def user_sums(
    exposures: pl.DataFrame,
    attributed: pl.DataFrame,
    *,
    since: float | None = None,
    until: float | None = None,
    deployments: Collection[int] | None = None,
) -> pl.DataFrame:
    """:data:`USER_SUMS` of the exposures shown in [``since``, ``until``) under ``deployments``.

    Feedback counts for the exposure it is attributed to, however late it came.
    """
    kept = exposures.filter(pl.col("user_hash").is_not_null())
    if since is not None:
        kept = kept.filter(pl.col("shown_at") >= since)
    if until is not None:
        kept = kept.filter(pl.col("shown_at") < until)
    if deployments is not None:
        kept = kept.filter(pl.col("deployment").is_in(list(deployments)))
    of_exposure = _by_exposure(attributed)
    keys = ["user_hash", "arm", "deployment"]
    counted = [*KINDS.values(), "revenue", "rating_sum"]
    return (
        kept.sort("shown_at", "sequence")
        .join(of_exposure, on="exposure_id", how="left", maintain_order="left")
        .group_by(keys)
        .agg(
            pl.col("bundle").last(),
            pl.col("shown_at").min().alias("first_exposed_at"),
            pl.col("shown_at").max().alias("last_exposed_at"),
            pl.len().alias("exposures"),
            pl.col("item_ids").list.len().sum().alias("impressions"),
            pl.col("fallback").is_not_null().sum().alias("fallbacks"),
            pl.col("warnings").is_not_null().sum().alias("degraded"),
            pl.col("latency_ms").sum().alias("latency_ms_sum"),
            pl.col("latency_ms").max().alias("latency_ms_max"),
            *(pl.col(name).sum() for name in counted),
            (pl.col("clicks").fill_null(0) > 0).sum().alias("exposures_clicked"),
            pl.col("last_feedback_at").max(),
        )
        .select(pl.col(name).cast(dtype) for name, dtype in USER_SUMS.items())
        .sort(keys)
    )


def _by_exposure(attributed: pl.DataFrame) -> pl.DataFrame:
    """A row for each exposure with feedback: the counts by kind, revenue, rating_sum, last_feedback_at."""
    matched = attributed.filter(pl.col("attributed_to").is_not_null())
    of_item = (
        matched.sort("happened_at", "sequence")
        .group_by("attributed_to", "item_id")
        .agg(
            *((pl.col("kind") == kind).any().alias(name) for kind, name in KINDS.items()),
            pl.col("value").filter(pl.col("kind") == "purchase").sum().alias("revenue"),
            pl.col("value").filter(pl.col("kind") == "rating").last().alias("rating_sum"),
            pl.col("happened_at").max().alias("last_feedback_at"),
        )
    )
    return of_item.group_by(exposure_id="attributed_to").agg(
        *(pl.col(name).sum().cast(pl.Int64) for name in KINDS.values()),
        pl.col("revenue", "rating_sum").sum(),
        pl.col("last_feedback_at").max(),
    )
