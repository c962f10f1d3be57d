"""What a dataset can carry: lengths, turnover of the catalogue, and what its test set can resolve.

Everything here is counted; no model is involved. The smallest detectable difference rests on assumptions
about models that do not exist yet, so they are written into the report beside it.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from segue.data.splits import TRAIN_COUNT
from segue.schema import Catalogue, Interactions, Part, Split, UserGroup

QUANTILES: tuple[float, ...] = (0.05, 0.25, 0.5, 0.75, 0.95)
DAY = 86_400
CUTOFF = 10
POWER = 0.8
ASSUMED_RECALL = 0.1  # at 10, of either model, over the full catalogue
ASSUMED_CORRELATION = 0.5  # between the two models' values of one user
TARGET_DIFFERENCE = 0.005
OPTIONAL_COLUMNS: tuple[str, ...] = (
    Catalogue.TITLE,
    Catalogue.TEXT,
    Catalogue.CATEGORIES,
    Catalogue.YEAR,
    Catalogue.PRICE,
    Catalogue.CREATED_AT,
    Catalogue.IMAGE,
)


def readiness(
    items: pl.DataFrame, events: pl.DataFrame, splits: dict[str, Any], *, confidence: float = 0.95
) -> dict[str, Any]:
    """The content of ``readiness.json``.

    ``items``, ``events``, ``splits``: items.parquet, interactions.parquet and splits.json of the splits step.
    ``confidence``: of the two-sided interval that a difference must clear.
    """
    lengths = sequence_lengths(events)
    users = int(splits["users"])
    repeated = repeats(events)
    return {
        "size": {
            "users": users,
            "regular_users": splits["regular_users"],
            "new_users": splits["new_users"],
            "replay_users": splits["replay_users"],
            "items": items.height,
            "interactions": events.height,
            "density": (events.height - repeated["events"]) / (users * items.height),
        },
        "sequence_length": {
            "mean": float(lengths.mean()),
            "shortest": int(lengths.min()),
            "longest": int(lengths.max()),
            "quantiles": {f"{share:g}": float(np.quantile(lengths, share)) for share in QUANTILES},
        },
        "repeats": repeated,
        "ties": ties(events, splits),
        "catalogue": {name: _filled(items, name) for name in OPTIONAL_COLUMNS},
        "churn": churn(events, has_timestamps=bool(splits["has_timestamps"])),
        "cold": cold(items, events),
        "splits": {
            protocol: {"possible": reason is None, "reason": reason}
            for protocol, reason in splits["refused"].items()
        },
        "detectable": detectable(int(splits["evaluated_users"]["regular"]), confidence=confidence),
    }


def sequence_lengths(events: pl.DataFrame) -> npt.NDArray[np.int64]:
    """Events of every user, in the order of the user ids. [U] int64."""
    counts = events.group_by(Interactions.USER).len().sort(Interactions.USER)
    return counts["len"].to_numpy().astype(np.int64)


def repeats(events: pl.DataFrame) -> dict[str, Any]:
    """How many events meet an item that their user has met before."""
    distinct = events.select(Interactions.USER, Split.ITEM_INDEX).unique().height
    return {"events": events.height - distinct, "share": 1 - distinct / events.height}


def ties(events: pl.DataFrame, splits: dict[str, Any]) -> dict[str, Any]:
    """Equal timestamps within a user, among all steps and among the steps that are evaluated."""
    if not splits["has_timestamps"]:
        return {"known": False, "reason": "the events carry no timestamps"}
    ordered = events.sort(Interactions.USER, Split.POSITION)
    same = pl.col(Interactions.TIMESTAMP) == pl.col(Interactions.TIMESTAMP).shift(1).over(Interactions.USER)
    tied = int(ordered.select(same.fill_null(False).sum()).item())
    steps = events.height - int(splits["users"])
    evaluated = sum(splits["evaluated_users"].values())
    return {
        "known": True,
        "steps": tied,
        "share": tied / steps if steps else 0.0,
        "last_steps": splits["tied_last_steps"],
        "last_share": splits["tied_last_steps"] / evaluated if evaluated else 0.0,
        "broken_by": "the data's own order" if splits["ordered"] else "a seeded hash of (user, item)",
    }


def churn(events: pl.DataFrame, *, has_timestamps: bool) -> dict[str, Any]:
    """For every period: the items that somebody met, and the share of them met for the first time ever.

    The period is a calendar month (UTC) where the data spans four or more, else seven days, or one where it
    spans less than a month. ``mean_share`` leaves out the first period, in which everything is new.
    """
    if not has_timestamps:
        return {"known": False, "reason": "the events carry no timestamps"}
    time = pl.from_epoch(pl.col(Interactions.TIMESTAMP), time_unit="s")
    first, last = events.select(
        pl.col(Interactions.TIMESTAMP).min().alias("first"),
        pl.col(Interactions.TIMESTAMP).max().alias("last"),
    ).row(0)
    days = (last - first) / DAY
    period, every = ("month", "1mo") if days >= 120 else ("week", "1w") if days >= 30 else ("day", "1d")
    dated = events.select(Split.ITEM_INDEX, time.dt.truncate(every).alias("period"))
    dated = dated.with_columns(
        (pl.col("period").min().over(Split.ITEM_INDEX) == pl.col("period")).alias("new")
    )
    rows = (
        dated.unique()
        .group_by("period")
        .agg(pl.len().alias("items"), pl.col("new").sum())
        .sort("period")
        .with_columns(pl.col("period").dt.strftime("%Y-%m-%d"))
    )
    shares = (rows["new"] / rows["items"]).to_list()
    return {
        "known": True,
        "period": period,
        "days": days,
        "mean_share": float(np.mean(shares[1:])) if len(shares) > 1 else None,
        "periods": [
            {"from": start, "items": count, "new_items": new, "new_share": share}
            for (start, count, new), share in zip(rows.iter_rows(), shares, strict=True)
        ],
    }


def cold(items: pl.DataFrame, events: pl.DataFrame) -> dict[str, Any]:
    """Items that training never meets, and the regular users' test targets that fall on them."""
    untrained = items.filter(pl.col(TRAIN_COUNT) == 0).select(Split.ITEM_INDEX)
    targets = (
        events.filter(
            (pl.col(Split.GROUP) == UserGroup.REGULAR.value) & (pl.col(Split.PART) == Part.TEST.value)
        )
        .sort(Interactions.USER, Split.POSITION)
        .group_by(Interactions.USER, maintain_order=True)
        .first()
        .filter(pl.col(Split.POSITION) > 0)
    )
    missed = targets.join(untrained, on=Split.ITEM_INDEX, how="semi").height
    return {
        "items": untrained.height,
        "item_share": untrained.height / items.height,
        "test_targets": targets.height,
        "cold_test_targets": missed,
        "cold_test_share": missed / targets.height if targets.height else 0.0,
    }


def detectable(
    users: int,
    *,
    confidence: float = 0.95,
    power: float = POWER,
    recall: float = ASSUMED_RECALL,
    correlation: float = ASSUMED_CORRELATION,
) -> dict[str, Any]:
    """The smallest paired difference that a test set of ``users`` users can detect, one target a user.

    ``(z_{1-(1-confidence)/2} + z_{power}) * sd / sqrt(users)`` (Cohen 1988, paired means, normal
    approximation), where sd is the standard deviation over users of the difference between two models. It
    is assumed, not measured: both models find the target among the first ten for a share ``recall`` of the
    users, at a uniformly distributed rank, and their values correlate by ``correlation`` over users, so
    that sd = sqrt(2 (1 - correlation) Var(value)). ``difference`` is None where there are no users.
    """
    z = NormalDist().inv_cdf(1 - (1 - confidence) / 2) + NormalDist().inv_cdf(power)
    gains = [1 / math.log2(rank + 1) for rank in range(1, CUTOFF + 1)]
    moments = {
        f"recall@{CUTOFF}": (recall, recall),
        f"ndcg@{CUTOFF}": (
            recall * math.fsum(gains) / CUTOFF,
            recall * math.fsum(gain * gain for gain in gains) / CUTOFF,
        ),
    }
    metrics = {}
    for name, (mean, square) in moments.items():
        sd = math.sqrt(2 * (1 - correlation) * (square - mean * mean))
        metrics[name] = {
            "sd": sd,
            "difference": z * sd / math.sqrt(users) if users else None,
            "users_needed": math.ceil((z * sd / TARGET_DIFFERENCE) ** 2),
        }
    return {
        "users": users,
        "confidence": confidence,
        "power": power,
        "target_difference": TARGET_DIFFERENCE,
        "assumption": (
            f"per-user standard deviation of the paired difference: both models have recall@{CUTOFF} = "
            f"{recall:g} with hits at ranks 1 to {CUTOFF} alike, and correlate by {correlation:g} over users"
        ),
        "metrics": metrics,
    }


def _filled(items: pl.DataFrame, name: str) -> float:
    """Share of the items whose column ``name`` holds something."""
    column = items[name]
    if column.dtype == pl.List:
        filled = column.list.len().fill_null(0) > 0
    elif column.dtype == pl.String:
        filled = column.fill_null("").str.strip_chars() != ""
    else:
        filled = column.is_not_null()
    return int(filled.sum()) / items.height
