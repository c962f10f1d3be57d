"""Every user's figures within a window that begins with their first list of an experiment.

A pure function of exposures and attributed feedback. What is shown or arrives after the window changes no row, so that a
user can be counted once the window has closed, and stays as counted.
"""

from __future__ import annotations

from collections.abc import Collection

import polars as pl

from segue.migration.online_experiment import Experiment, Past
from segue.migration.online_users import USER_WINDOWS
from segue.migration.settings import OnlineSettings

INTERLEAVED = "interleaved"  # the path whose items' sources begin with their team
TEAMS = ("generative", "cascade")


def user_windows(
    exposures: pl.DataFrame,
    attributed: pl.DataFrame,
    *,
    served: Collection[tuple[int, str, str]],
    past: Past,
    seconds: float,
    late_seconds: float = 0.0,
) -> pl.DataFrame:
    """:data:`USER_WINDOWS` of every user who was shown a list of ``served``, whether or not the window has closed.

    Args:
        exposures: all exposures of these users (:data:`segue.serving.store.attribution.EXPOSURES`).
        attributed: their feedback, joined by :func:`segue.serving.store.attribution.attribute`.
        served: (deployment, arm, bundle) of the lists that count.
        past: what was shown and had arrived before it ended is the user's past. A list of a revision since is never part of
            it, whatever the clocks of two machines say: what the arms do to their users would explain itself away.
        seconds: how long lists are counted from the first one on; 0: it alone.
        late_seconds: how long after that feedback may arrive.

    Who is moved to another arm within the window stays with the first one, and what the other showed does not count.
    """
    lists = _served(exposures, served)
    first = lists.group_by("user_hash", maintain_order=True).agg(
        pl.col("arm").first(),
        pl.col("deployment").first(),
        pl.col("exposure_id").first().alias("first_id"),
        pl.col("item_ids").first().alias("first_items"),
        pl.col("shown_at").first().alias("first_exposed_at"),
    )
    first = first.with_columns(closes_at=pl.col("first_exposed_at") + seconds + late_seconds)
    counted = lists.join(
        first.select("user_hash", "closes_at", "first_exposed_at", "first_id", first_arm="arm"),
        on="user_hash",
        maintain_order="left",
    ).filter(
        (pl.col("exposure_id") == pl.col("first_id"))
        | (
            (pl.col("shown_at") < pl.col("first_exposed_at") + seconds)
            & (pl.col("arm") == pl.col("first_arm"))
        )
    )
    clicks = _clicks(counted, attributed)
    sums = (
        counted.join(clicks, on="exposure_id", how="left", maintain_order="left")
        .group_by("user_hash")
        .agg(
            pl.len().alias("exposures"),
            pl.col("item_ids").list.len().sum().alias("impressions"),
            pl.col("fallback").is_not_null().sum().alias("fallbacks"),
            (pl.col("item_ids").list.len() == 0).sum().alias("empty"),
            pl.col("latency_ms").drop_nulls().alias("latencies_ms"),
            (pl.col("clicks").fill_null(0) > 0).sum().alias("exposures_clicked"),
            *(pl.col(name).sum() for name in ("clicks", *(f"clicks_{team}" for team in TEAMS))),
        )
    )
    return (
        first.join(sums, on="user_hash")
        .join(_earlier(exposures, attributed, past), on="user_hash", how="left")
        .with_columns(pl.col("earlier_impressions", "earlier_clicks").fill_null(0))
        .select(pl.col(name).cast(dtype) for name, dtype in USER_WINDOWS.items())
        .sort("user_hash")
    )


def feedback_windows(
    exposures: pl.DataFrame, attributed: pl.DataFrame, experiment: Experiment, settings: OnlineSettings
) -> pl.DataFrame:
    """:func:`user_windows` of ``experiment``, for what users did."""
    return user_windows(
        exposures,
        attributed,
        served=experiment.served,
        past=experiment.past,
        seconds=settings.window_seconds,
        late_seconds=settings.late_seconds,
    )


def serving_windows(
    exposures: pl.DataFrame, attributed: pl.DataFrame, experiment: Experiment, settings: OnlineSettings
) -> pl.DataFrame:
    """:func:`user_windows` of ``experiment``, for what the service did: no feedback is waited for."""
    return user_windows(
        exposures,
        attributed,
        served=experiment.served,
        past=experiment.past,
        seconds=settings.serving_window_seconds,
    )


def newest_list(exposures: pl.DataFrame, experiment: Experiment) -> float | None:
    """When the newest list was shown that counts for ``experiment``; None where there is none."""
    newest = _served(exposures, experiment.served)["shown_at"].max()
    return float(newest) if isinstance(newest, int | float) else None


def _served(exposures: pl.DataFrame, served: Collection[tuple[int, str, str]]) -> pl.DataFrame:
    """The lists that count, oldest first."""
    keys = pl.DataFrame(
        sorted(served), schema={"deployment": pl.Int64, "arm": pl.String, "bundle": pl.String}, orient="row"
    )
    return (
        exposures.filter(pl.col("user_hash").is_not_null())
        .join(keys, on=["deployment", "arm", "bundle"], how="semi")
        .sort("shown_at", "sequence")
    )


def _clicks(counted: pl.DataFrame, attributed: pl.DataFrame) -> pl.DataFrame:
    """A row for each counted list with a click that arrived in time: ``clicks`` and those by team."""
    clicked = (
        attributed.filter((pl.col("kind") == "click") & pl.col("attributed_to").is_not_null())
        .join(counted.select("exposure_id", "closes_at"), left_on="attributed_to", right_on="exposure_id")
        .filter(pl.col("received_at") < pl.col("closes_at"))
        .select(exposure_id="attributed_to", item_id="item_id")
        .unique()
    )
    teams = (
        counted.filter((pl.col("path") == INTERLEAVED) & pl.col("sources").is_not_null())
        .select("exposure_id", item_id="item_ids", source="sources")
        .explode("item_id", "source")
    )
    return (
        clicked.join(teams, on=["exposure_id", "item_id"], how="left")
        .group_by("exposure_id")
        .agg(
            pl.len().alias("clicks"),
            *(
                pl.col("source").str.contains(f"^{team}(@|\\+|$)").sum().alias(f"clicks_{team}")
                for team in TEAMS
            ),
        )
    )


def _earlier(exposures: pl.DataFrame, attributed: pl.DataFrame, past: Past) -> pl.DataFrame:
    """Of each user: items shown before the ``past`` ended, and those whose click had arrived by then."""
    earlier = exposures.filter(
        pl.col("user_hash").is_not_null()
        & (pl.col("shown_at") < past.at)
        & (pl.col("deployment").is_null() | (pl.col("deployment") < past.revision))
    )
    clicked = (
        attributed.filter((pl.col("kind") == "click") & (pl.col("received_at") < past.at))
        .select(exposure_id="attributed_to", item_id="item_id")
        .unique()
        .group_by("exposure_id")
        .agg(pl.len().alias("clicked"))
    )
    return (
        earlier.join(clicked, on="exposure_id", how="left")
        .group_by("user_hash")
        .agg(
            pl.col("item_ids").list.len().sum().alias("earlier_impressions"),
            pl.col("clicked").sum().alias("earlier_clicks"),
        )
    )
