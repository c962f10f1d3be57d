from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from segue.blending.fit import LEAST_CLICKS, fit_weights, shown_items
from segue.blending.interleaved import InterleavedPath
from segue.errors import DataError
from segue.paths import ListRules
from tests.blending.shelves import cascade, generative, request

ITEMS = 12
RULES = ListRules(filter_seen=False)


def simulated(
    generative_share: float,
    *,
    strength: float = 4.0,
    base: float = -2.5,
    users: int = 200,
    lists: int = 6,
    seed: int = 0,
) -> pl.DataFrame:
    """Interleaved lists of users who click by the model of the fit, with a known share of the generative weight."""
    random = np.random.default_rng(seed)
    exposures, clicks = [], []
    for user in range(users):
        taste = random.normal(0, 0.5)  # clicks of one user are dependent
        for number in range(lists):
            first, second = random.permutation(ITEMS), random.permutation(ITEMS)
            name = f"{user} {number}"
            [found] = InterleavedPath(cascade=cascade(first), generative=generative(second)).recommend(
                [request(draw=name)], 6, RULES
            )
            for position, item in enumerate(found.items.tolist(), start=1):
                pull = (1 - generative_share) / (1 + list(first).index(item)) * (list(first).index(item) < 6)
                pull += generative_share / (1 + list(second).index(item)) * (list(second).index(item) < 6)
                logit = base + taste - 0.7 * np.log(position) + strength * pull
                if random.random() < 1 / (1 + np.exp(-logit)):
                    clicks.append({"exposure_id": name, "item_id": str(item)})
            exposures.append(
                {
                    "exposure_id": name, "user_hash": str(user), "path": "interleaved",
                    "item_ids": [str(item) for item in found.items.tolist()], "sources": list(found.sources),
                }
            )  # fmt: skip
    return shown_items(pl.DataFrame(exposures), pl.DataFrame(clicks))


@pytest.mark.parametrize("truth", [0.2, 0.7])
def test_the_weights_by_which_users_click_are_found(truth: float) -> None:
    found = fit_weights(simulated(truth), samples=40)
    assert found.weights["generative"] == pytest.approx(truth, abs=0.1)
    assert found.low - 0.05 < truth < found.high + 0.05
    assert found.low < found.weights["generative"] < found.high < found.low + 0.25
    assert sum(found.weights.values()) == pytest.approx(1)
    assert (found.users, found.lists) == (200, {"interleaved": 1200})


def test_who_is_called_which_changes_nothing() -> None:
    shown = simulated(0.7, users=50)
    swapped = shown.rename({"cascade": "generative", "generative": "cascade"})
    one, other = fit_weights(shown, samples=2), fit_weights(swapped, samples=2)
    assert one.weights["generative"] == pytest.approx(other.weights["cascade"], abs=1e-3)


def test_a_path_that_repels_gets_no_weight() -> None:
    found = fit_weights(simulated(1.0, strength=5.0, users=80), samples=10)
    assert found.weights["cascade"] < 0.1
    repelled = simulated(0.5, strength=-4.0, users=80, base=0.0)
    with pytest.raises(DataError, match="say nothing about their"):
        fit_weights(repelled, samples=2)


def test_too_few_clicks_are_no_ground_for_weights() -> None:
    with pytest.raises(DataError, match="too few to learn weights from"):
        fit_weights(simulated(0.5, users=40, lists=1))
    with pytest.raises(DataError, match=f"0 clicks of 0 users.*at least {LEAST_CLICKS}"):
        fit_weights(simulated(0.5, users=1).clear())


def test_what_was_shown_is_read_from_exposures() -> None:
    exposures = pl.DataFrame(
        [
            ("a", "u", "interleaved", ["x", "y"], ["generative@1+cascade@4", "neither:cascade@2"]),
            ("b", "v", "blended", ["x", "z"], ["cascade@1", "cascade@2+generative@5"]),
            ("c", None, "blended", ["x"], ["cascade@1"]),  # nobody's
            ("d", "u", "cascade", ["x"], ["sasrec+item_knn"]),  # an interleaved arm that fell back
            ("e", "u", "interleaved", ["x"], None),  # of a server of the version before
            ("f", "u", "interleaved", [], []),
        ],
        schema={
            "exposure_id": pl.String, "user_hash": pl.String, "path": pl.String, "item_ids": pl.List(pl.String),
            "sources": pl.List(pl.String),
        },
        orient="row",
    )  # fmt: skip
    clicks = pl.DataFrame({"exposure_id": ["b", "b", "d", "a"], "item_id": ["z", "z", "x", "nothing"]})
    assert shown_items(exposures, clicks).rows() == [
        ("u", "interleaved", 1, 0.25, 1.0, False),
        ("u", "interleaved", 2, 0.5, 0.0, False),
        ("v", "blended", 1, 1.0, 0.0, False),
        ("v", "blended", 2, 0.5, 0.2, True),
    ]
    wrong = exposures.with_columns(sources=pl.lit(["beam"]).cast(pl.List(pl.String))).filter(
        pl.col("exposure_id") == "e"
    )
    with pytest.raises(DataError, match="tells no places"):
        shown_items(wrong, clicks)
