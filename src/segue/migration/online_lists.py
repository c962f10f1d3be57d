"""Figures of the lists that users were shown first: shares of items, coverage of the catalogue, diversity between users."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import polars as pl

from segue.migration.statistics.interval import ConfidenceSequence, Floats, Form


def share_of_items(
    lists: pl.Series, chosen: Collection[str], cutoff: int | None = None, *, outside: bool = False
) -> Floats:
    """Of each list ``[N]``, the share of its items (of its first ``cutoff``) that are among ``chosen``, or with ``outside``
    are not; 0 of an empty list."""
    table = _exploded(lists, cutoff)
    inside = pl.col("item").is_in(list(chosen)) != outside
    found = table.group_by("list").agg(inside.sum().alias("inside"), pl.len().alias("all"))
    shares = np.zeros(len(lists))
    shares[found["list"].to_numpy()] = (found["inside"] / found["all"]).to_numpy()
    return shares


def coverage(
    lists: pl.Series, catalogue: Collection[str], confidence: float, cutoff: int | None = None
) -> ConfidenceSequence:
    """The share of the catalogue that is in anybody's first list.

    It can only grow with more users, so what was shown so far is a lower end that holds at every look, and 1 the only
    upper one: a floor is met once it was reached, and never declared broken.
    """
    shown = _exploded(lists, cutoff)["item"].unique()
    inside = int(shown.is_in(list(catalogue)).sum())
    share = inside / len(catalogue) if catalogue else float("nan")
    return ConfidenceSequence(
        Form.COUNTED, share, share, 1.0, confidence, len(lists), note="more users can only add to it"
    )


def diversity(lists: pl.Series, cutoff: int | None = None) -> Floats:
    """1 minus the Jaccard similarity of two users' lists, for each pair of neighbours in the order of closing: ``[N // 2]``.

    Pairs do not share users, so they are as independent as users are: a bounded figure of a pair. 0 where all get the same
    list. The last of an odd number waits for a partner; two empty lists are alike.
    """
    pairs = len(lists) // 2
    table = _exploded(lists.head(2 * pairs), cutoff).with_columns(pair=pl.col("list") // 2)
    both = table.group_by("pair", "item").len().group_by("pair").agg(
        (pl.col("len") == 2).sum().alias("shared"), pl.len().alias("all")
    )  # fmt: skip
    different = np.zeros(pairs)
    different[both["pair"].to_numpy()] = 1.0 - (both["shared"] / both["all"]).to_numpy()
    return different


def _exploded(lists: pl.Series, cutoff: int | None) -> pl.DataFrame:
    """A row an item: ``list`` (its number) and ``item``."""
    items = lists if cutoff is None else lists.list.head(cutoff)
    return (
        pl.DataFrame({"list": pl.Series(range(len(lists)), dtype=pl.Int64), "item": items})
        .explode("item")
        .drop_nulls("item")
    )
