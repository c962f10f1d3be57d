"""The readiness report: what is counted, and what the test set can resolve."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from segue.artifacts import write_json
from segue.data.readiness import churn, detectable, readiness
from segue.data.settings import SplitSettings
from segue.data.splits import SplitTables, make_splits
from segue.steps import readiness as step
from tests.data.examples import catalogue, context, interactions, random_interactions

ALONE = SplitSettings(new_user_share=0, replay_user_share=0)
DAY = 86_400


def split(rows: list[tuple[str, str, int | None]], *, ordered: bool = False) -> SplitTables:
    items = catalogue(
        list("abcdx"), title=["A", "B", " ", None, "X"], categories=[["k"], [], None, ["k"], ["k"]]
    )
    return make_splits(interactions(rows), items, ALONE, has_timestamps=not ordered, ordered=ordered)


def test_the_report_counts() -> None:
    rows = [("u", item, day * DAY) for day, item in enumerate("abcd")]
    rows += [("v", item, day * DAY) for day, item in ((0, "a"), (0, "b"), (1, "a"), (2, "a"))]
    tables = split(rows)
    report = readiness(tables.items, tables.interactions, tables.summary)
    assert report["size"]["density"] == 6 / (2 * 5)  # two of the eight events are repeats
    assert report["repeats"] == {"events": 2, "share": 0.25}
    assert report["sequence_length"]["quantiles"]["0.5"] == 4
    assert report["ties"]["steps"] == 1
    assert report["ties"]["last_steps"] == 0
    assert report["catalogue"]["title"] == 3 / 5
    assert report["catalogue"]["categories"] == 3 / 5
    # c, d and x have no training event; u's test target is d, v's is a.
    assert report["cold"] == {
        "items": 3,
        "item_share": 0.6,
        "test_targets": 2,
        "cold_test_targets": 1,
        "cold_test_share": 0.5,
    }
    assert report["splits"]["leave_one_out"] == {"possible": True, "reason": None}
    assert not report["splits"]["global_time"]["possible"]
    assert "200 are needed" in report["splits"]["global_time"]["reason"]


def test_churn_by_period() -> None:
    rows = [
        ("u", "a", 0),
        ("u", "b", 1),
        ("v", "a", DAY),
        ("v", "c", DAY + 5),
        ("v", "c", DAY + 9),
        ("u", "b", 2 * DAY),
    ]
    found = churn(split(rows).interactions, has_timestamps=True)
    assert found["period"] == "day"
    assert [(row["items"], row["new_items"]) for row in found["periods"]] == [(2, 2), (2, 1), (1, 0)]
    assert found["mean_share"] == pytest.approx(0.25)
    long = split([("u", "abcd"[n % 4], n * 40 * DAY) for n in range(6)]).interactions
    assert churn(long, has_timestamps=True)["period"] == "month"


def test_without_timestamps_the_report_says_what_it_cannot_know() -> None:
    tables = split([("u", item, None) for item in "abcd"], ordered=True)
    report = readiness(tables.items, tables.interactions, tables.summary)
    assert report["churn"] == report["ties"] == {"known": False, "reason": "the events carry no timestamps"}


def test_the_detectable_difference_has_the_power_it_claims() -> None:
    """Simulated differences of exactly that size are found in 80 % of the tests, at 5 % false alarms."""
    claim = detectable(2000)["metrics"]["recall@10"]
    assert claim["difference"] == pytest.approx((1.959964 + 0.841621) * 0.3 / math.sqrt(2000), rel=1e-6)
    rng = np.random.default_rng(0)
    for effect, expected in ((claim["difference"], 0.8), (0.0, 0.05)):
        means = rng.normal(effect, claim["sd"] / math.sqrt(2000), size=20_000)
        found = np.abs(means) > 1.959964 * claim["sd"] / math.sqrt(2000)
        assert found.mean() == pytest.approx(expected, abs=0.01)
    assert detectable(claim["users_needed"])["metrics"]["recall@10"]["difference"] == pytest.approx(
        0.005, rel=1e-3
    )


def test_the_assumed_deviation_is_that_of_the_assumption() -> None:
    """Two models that share half of their variance, drawn as the report's assumption says."""
    rng = np.random.default_rng(1)
    size = 400_000

    def gains() -> np.ndarray:
        hit = rng.random(size) < 0.1
        return np.where(hit, 1 / np.log2(rng.integers(1, 11, size) + 1), 0.0)

    shared = rng.random(size) < 0.5  # the same value for both models: a correlation of one half
    first, second = gains(), gains()
    difference = np.where(shared, 0.0, first - second)
    assert difference.std() == pytest.approx(detectable(1)["metrics"]["ndcg@10"]["sd"], rel=0.02)


def test_nobody_to_test_on() -> None:
    assert detectable(0)["metrics"]["ndcg@10"]["difference"] is None


def test_the_step_writes_report_and_plot(tmp_path: Path) -> None:
    folder = tmp_path / "splits"
    folder.mkdir()
    events = random_interactions(40, 10, 400)
    tables = make_splits(
        events, catalogue(sorted(set(events["item_id"]))), SplitSettings(), has_timestamps=True, ordered=False
    )
    tables.items.write_parquet(folder / "items.parquet")
    tables.interactions.write_parquet(folder / "interactions.parquet")
    write_json(folder / "splits.json", tables.summary)
    made = context(tmp_path, "readiness", {"splits": folder})
    step.run(made)
    report = json.loads((made.output / "readiness.json").read_text(encoding="utf-8"))
    assert report["size"]["users"] == pl.Series(events["user_id"]).n_unique()
    (plot,) = made.record["plots"]
    assert Path(plot).read_bytes().startswith(b"\x89PNG")
    assert made.metrics["median_sequence_length"] == report["sequence_length"]["quantiles"]["0.5"]
