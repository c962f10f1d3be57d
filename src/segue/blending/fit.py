"""A blend's weights, learnt from how users responded to lists that both paths made.

Every item of an interleaved or blended list says its place in either path's list. A click on it, shown at position p, is
modelled as

    logit P(click) = a + b log(p) + w_cascade f(place_cascade) + w_generative f(place_generative),   w >= 0,

with f the reciprocal place of :mod:`segue.blending.fusion`, 0 where a path does not have the item. At one position, items are
then ordered by ``w_cascade f + w_generative f``: by the score of the blend with these weights. ``b log(p)`` stands for
examination, which falls with the position whatever is shown there (Joachims et al. 2007, "Evaluating the Accuracy of Implicit
Feedback from Clicks and Query Reformulations in Web Search", TOIS). Position and places are told apart because coins
decide which path's item comes first; in blended lists of one weighting nothing does, so those add little by themselves.

Assumed: examination acts on the logit by the same b for everybody, and an item's chance depends on its places alone. Clicks
of one user are dependent, so the interval is a bootstrap over users; it describes the fit and is no evidence for a gate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from segue.blending.fusion import reciprocal
from segue.blending.sources import places_of
from segue.blending.weights import PARTS
from segue.errors import DataError
from segue.schema import PathName

Floats = npt.NDArray[np.float64]

LEAST_CLICKS: Final = 100
LEAST_USERS: Final = 30
SHOWN: Final = {
    "user_hash": pl.String,
    "path": pl.String,
    "position": pl.Int64,  # from 1
    PathName.CASCADE.value: pl.Float64,  # reciprocal place in its list; 0: not in it
    PathName.GENERATIVE.value: pl.Float64,
    "clicked": pl.Boolean,
}
_COMPARED = (PathName.INTERLEAVED.value, PathName.BLENDED.value)
_RIDGE = 1.0  # half the inverse variance of a prior around 0 of the two weights: keeps them finite where clicks are few


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedBlend:
    """Weights that add up to 1, the 95 % bootstrap interval of the generative one, and what they rest on."""

    weights: dict[str, float]
    low: float
    high: float
    items: int  # shown
    clicks: int
    users: int
    lists: dict[str, int]  # by path


def shown_items(exposures: pl.DataFrame, clicks: pl.DataFrame) -> pl.DataFrame:
    """:data:`SHOWN`, a row for each shown item of the lists that both paths made, of named users.

    Args:
        exposures: with exposure_id, user_hash, path, item_ids and sources, as the store keeps them.
        clicks: exposure_id and item_id of everything that was responded to; repeats count once.

    Raises DataError for a source that tells no places.
    """
    rows = (
        exposures.lazy()
        .filter(
            pl.col("path").is_in(_COMPARED)
            & pl.col("user_hash").is_not_null()
            & pl.col("sources").is_not_null()
        )
        .select("exposure_id", "user_hash", "path", "item_ids", "sources")
        .with_columns(position=pl.int_ranges(1, pl.col("item_ids").list.len() + 1))
        .explode("item_ids", "sources", "position")
        .drop_nulls("item_ids")
        .join(
            clicks.lazy().select("exposure_id", item_ids="item_id", clicked=pl.lit(True)).unique(),
            on=["exposure_id", "item_ids"],
            how="left",
            maintain_order="left",
        )
        .with_columns(pl.col("clicked").fill_null(False))
        .collect()
    )
    told = {source: places_of(source) for source in rows["sources"].unique().to_list()}
    features = {
        part.value: [
            reciprocal(told[source][part.value]) if part.value in told[source] else 0.0
            for source in rows["sources"].to_list()
        ]
        for part in PARTS
    }
    return rows.with_columns(
        pl.Series(name, values, dtype=pl.Float64) for name, values in features.items()
    ).select(pl.col(name).cast(dtype) for name, dtype in SHOWN.items())


def fit_weights(shown: pl.DataFrame, *, samples: int = 200, seed: int = 17) -> FittedBlend:
    """The weights under which ``shown`` (:data:`SHOWN`) is likeliest.

    Raises DataError where fewer than :data:`LEAST_CLICKS` clicks or :data:`LEAST_USERS` users are there, and where places say
    nothing about clicks.
    """
    clicks, users = int(shown["clicked"].sum()), shown["user_hash"].n_unique()
    if clicks < LEAST_CLICKS or users < LEAST_USERS:
        raise DataError(
            f"{clicks} clicks of {users} users on interleaved or blended lists are too few to learn weights from: "
            f"at least {LEAST_CLICKS} of {LEAST_USERS} are needed; keep the present weights and wait"
        )
    features = np.column_stack(
        [
            np.ones(shown.height),
            np.log(shown["position"].to_numpy()),
            *(shown[part.value].to_numpy() for part in PARTS),
        ]
    )
    clicked = shown["clicked"].to_numpy().astype(np.float64)
    _, owner = np.unique(shown["user_hash"].to_numpy(), return_inverse=True)
    found = _fitted(features, clicked, np.ones(len(clicked)), None)
    share = _share(found)
    if share is None:
        raise DataError(
            f"the places of {shown.height} shown items say nothing about their {clicks} clicks: "
            "keep the present weights"
        )
    random = np.random.default_rng(seed)
    again = []
    for _ in range(samples):
        times = np.bincount(random.integers(0, users, users), minlength=users)[owner].astype(np.float64)
        drawn = _share(_fitted(features, clicked, times, found))
        if drawn is not None:
            again.append(drawn)
    low, high = np.quantile(again, [0.025, 0.975]) if again else (0.0, 1.0)
    generative = round(share, 4)
    return FittedBlend(
        weights={PathName.CASCADE.value: round(1 - generative, 4), PathName.GENERATIVE.value: generative},
        low=round(float(low), 4),
        high=round(float(high), 4),
        items=shown.height,
        clicks=clicks,
        users=users,
        lists=dict(shown.filter(pl.col("position") == 1).group_by("path").len().sort("path").iter_rows()),
    )


def _share(coefficients: Floats) -> float | None:
    """The generative weight's share of both; None where both are 0."""
    cascade, generative = coefficients[2:]
    return float(generative / (cascade + generative)) if cascade + generative > 0 else None


def _fitted(features: Floats, clicked: Floats, times: Floats, start: Floats | None) -> Floats:
    """[4] intercept, position, cascade, generative of maximal penalised likelihood; ``times`` [n] each row counts."""
    from scipy.optimize import minimize  # not where lists are made

    def loss(own: Floats) -> tuple[float, Floats]:
        logits = features @ own
        value = times @ (np.logaddexp(0, logits) - clicked * logits) + _RIDGE * (own[2:] @ own[2:])
        slope = features.T @ (times * (1 / (1 + np.exp(-logits)) - clicked))
        slope[2:] += 2 * _RIDGE * own[2:]
        return float(value), slope

    begin = np.zeros(features.shape[1]) if start is None else start
    bounds = [(None, None), (None, None), (0, None), (0, None)]
    solution: Floats = minimize(loss, begin, jac=True, method="L-BFGS-B", bounds=bounds).x
    return solution
