"""Feedback to exposures, beside a reference that looks at every pair."""

from __future__ import annotations

import math
from typing import Any

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.serving.store.attribution import EXPOSURES, FEEDBACK, KINDS, attribute, coverage_of, user_sums

USERS, ITEMS = ("u", "v", None), ("a", "b", "c")
# Few values near each other: ties, whole seconds and windows that end exactly there.
TIMES = st.sampled_from([0.0, 0.4, 0.9, 1.0, 1.5, 3.0, 3.2, 5.0])
WINDOW = 2


@st.composite
def shown_rows(draw: st.DrawFn) -> list[dict[str, Any]]:
    return [
        {
            "sequence": number, "exposure_id": f"e{number}", "user_hash": draw(st.sampled_from(USERS)),
            "arm": draw(st.sampled_from(["x", "y", None])), "path": "cascade", "bundle": "b",
            "deployment": draw(st.sampled_from([1, 2])),
            "item_ids": draw(st.lists(st.sampled_from(ITEMS), unique=True)),
            "fallback": None, "warnings": None, "latency_ms": 1.0, "shown_at": draw(TIMES),
        }
        for number in range(draw(st.integers(0, 7)))
    ]  # fmt: skip


@st.composite
def given_rows(draw: st.DrawFn) -> list[dict[str, Any]]:
    rows = []
    for number in range(draw(st.integers(0, 9))):
        named = draw(st.booleans())
        rows.append(
            {
                "sequence": number, "feedback_id": f"f{number}",
                "exposure_id": f"e{draw(st.integers(0, 7))}" if named else None,
                "user_hash": draw(st.sampled_from(USERS if named else USERS[:2])),
                "item_id": draw(st.sampled_from(ITEMS)), "kind": draw(st.sampled_from(list(KINDS))),
                "value": draw(st.sampled_from([1.0, 2.0])), "happened_at": draw(TIMES), "received_at": 9.0,
            }
        )  # fmt: skip
    return rows


def plainly(shown: list[dict[str, Any]], one: dict[str, Any]) -> tuple[str | None, str]:
    """Where one feedback belongs, by its words."""
    if one["exposure_id"] is not None:
        named = [row for row in shown if row["exposure_id"] == one["exposure_id"]]
        if not named:
            return None, "unknown_exposure"
        owner = named[0]["user_hash"]
        if owner is not None and one["user_hash"] is not None and owner != one["user_hash"]:
            return None, "another_user"
        if one["item_id"] not in named[0]["item_ids"]:
            return None, "not_shown"
        return one["exposure_id"], "stated"
    fits = [
        row
        for row in shown
        if row["user_hash"] == one["user_hash"]
        and one["item_id"] in row["item_ids"]
        and 0 <= math.floor(one["happened_at"]) - math.floor(row["shown_at"]) <= WINDOW
    ]
    if not fits:
        return None, "no_exposure"
    return max(fits, key=lambda row: (row["shown_at"], row["sequence"]))["exposure_id"], "inferred"


@settings(max_examples=150, deadline=None)
@given(shown_rows(), given_rows(), st.randoms(use_true_random=False))
def test_attribution_and_sums_are_those_of_the_plain_reference(
    shown: list[dict[str, Any]], given: list[dict[str, Any]], random: Any
) -> None:
    expected = [plainly(shown, one) for one in given]
    mixed_shown, mixed_given = list(shown), list(given)
    random.shuffle(mixed_shown)
    random.shuffle(mixed_given)
    exposures = pl.DataFrame(mixed_shown, schema=EXPOSURES, orient="row")
    feedback = pl.DataFrame(mixed_given, schema=FEEDBACK, orient="row")
    found = attribute(exposures, feedback, window_seconds=WINDOW)
    assert found.select("attributed_to", "attribution").rows() == expected
    coverage = coverage_of(exposures, found)
    assert coverage.stated + coverage.inferred + coverage.unattributed == coverage.feedback == len(given)

    table = user_sums(exposures, found)
    groups = {
        (row["user_hash"], row["arm"], row["deployment"]) for row in shown if row["user_hash"] is not None
    }
    assert len(table) == len(groups)
    for row in table.to_dicts():
        own = {
            one["exposure_id"]: one
            for one in shown
            if (one["user_hash"], one["arm"], one["deployment"])
            == (row["user_hash"], row["arm"], row["deployment"])
        }
        theirs = [one for one, (to, _) in zip(given, expected, strict=True) if to in own]
        places = [to for to, _ in expected if to in own]
        assert row["exposures"] == len(own)
        assert row["impressions"] == sum(len(one["item_ids"]) for one in own.values())
        for kind, name in KINDS.items():
            pairs = {
                (to, one["item_id"]) for one, to in zip(theirs, places, strict=True) if one["kind"] == kind
            }
            assert row[name] == len(pairs) <= row["impressions"]
        assert row["revenue"] == sum(one["value"] for one in theirs if one["kind"] == "purchase")
        clicked = {to for one, to in zip(theirs, places, strict=True) if one["kind"] == "click"}
        assert row["exposures_clicked"] == len(clicked)
        rated: dict[tuple[str | None, str], tuple[float, int, float]] = {}
        for one, to in zip(theirs, places, strict=True):
            if one["kind"] == "rating":
                newest = (one["happened_at"], one["sequence"], one["value"])
                rated[to, one["item_id"]] = max(newest, rated.get((to, one["item_id"]), newest))
        assert row["rating_sum"] == sum(value for *_, value in rated.values())
        assert row["last_feedback_at"] == max((one["happened_at"] for one in theirs), default=None)
