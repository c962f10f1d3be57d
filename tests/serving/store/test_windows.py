"""Users' windows, beside a reference that looks at every row."""

from __future__ import annotations

from typing import Any

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.blending.sources import team_of
from segue.migration.online_experiment import Past
from segue.migration.online_users import USER_WINDOWS
from segue.serving.store.attribution import EXPOSURES, FEEDBACK, attribute, user_sums
from segue.serving.store.windows import user_windows

ITEMS = ("a", "b", "c")
SERVED = {(2, "x", "new"), (2, "y", "new"), (3, "x", "newer")}
# Another revision's, another bundle's, no arm's, and the list of no deployment.
NOT_SERVED = [(1, "x", "new"), (3, "y", "newer"), (2, "x", "old"), (2, None, "new"), (None, None, "new")]
PAST = Past(2, 2.0)
TIMES = [0.0, 0.5, 1.9, 2.0, 2.5, 3.0, 4.0, 4.5, 6.0, 9.0]
SOURCES = {"a": "cascade@1", "b": "generative@1+cascade@4", "c": "neither:cascade@9"}


@st.composite
def shown_rows(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Mostly of one user, and mostly lists that count: one that does not is seldom what a mistake is about."""
    rows = []
    for number in range(draw(st.integers(0, 7))):
        items = draw(st.lists(st.sampled_from(ITEMS), unique=True))
        deployment, arm, bundle = draw(st.sampled_from([*sorted(SERVED) * 2, *NOT_SERVED, NOT_SERVED[0]]))
        rows.append(
            {
                "sequence": number, "exposure_id": f"e{number}",
                "user_hash": draw(st.sampled_from(["u", "u", "u", "v", None])),
                "arm": arm, "bundle": bundle, "deployment": deployment,
                "path": draw(st.sampled_from(["cascade", "interleaved"])), "item_ids": items,
                "sources": draw(st.sampled_from([None, [SOURCES[item] for item in items]])),
                "fallback": draw(st.sampled_from([None, "it broke"])), "warnings": None,
                "latency_ms": draw(st.sampled_from([None, 1.0, 7.0])),
                "shown_at": draw(st.sampled_from(TIMES)),
            }
        )  # fmt: skip
    return rows


@st.composite
def rows(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Lists, and feedback on them; most of it is clicks on what was shown, at any time after it."""
    shown = draw(shown_rows())
    given = []
    for number in range(draw(st.integers(0, 9))):
        on = draw(st.sampled_from([*shown, None, None])) if shown else None
        row = {"item_ids": [], "exposure_id": "e9", "shown_at": 0.0} if on is None else on
        happened = draw(st.sampled_from([when for when in TIMES if when >= row["shown_at"]]))
        received = draw(st.sampled_from([when for when in TIMES if when >= happened]))
        given.append(
            {
                "sequence": number, "feedback_id": f"f{number}", "exposure_id": row["exposure_id"],
                "user_hash": None, "item_id": draw(st.sampled_from([*row["item_ids"] * 3, *ITEMS])),
                "kind": draw(st.sampled_from(["click", "click", "click", "like"])), "value": 1.0,
                "happened_at": happened, "received_at": received,
            }
        )  # fmt: skip
    return shown, given


def plainly(
    shown: list[dict[str, Any]], given: list[dict[str, Any]], user: str, seconds: float, late: float
) -> dict[str, Any] | None:
    """A user's row, by the words of the docstring."""
    own = sorted(
        (row for row in shown if row["user_hash"] == user), key=lambda row: (row["shown_at"], row["sequence"])
    )
    lists = [row for row in own if (row["deployment"], row["arm"], row["bundle"]) in SERVED]
    if not lists:
        return None
    first = lists[0]
    counted = [
        row
        for row in lists
        if row is first or (row["shown_at"] < first["shown_at"] + seconds and row["arm"] == first["arm"])
    ]
    closes = first["shown_at"] + seconds + late

    def clicked(rows: list[dict[str, Any]], before: float) -> set[tuple[str, str]]:
        places = {row["exposure_id"]: row["item_ids"] for row in rows}
        return {
            (one["exposure_id"], one["item_id"])
            for one in given
            if one["kind"] == "click"
            and one["received_at"] < before
            and one["item_id"] in places.get(one["exposure_id"], [])
        }

    clicks = clicked(counted, closes)
    by_id = {row["exposure_id"]: row for row in counted}

    def team(exposure: str, item: str, name: str) -> bool:
        row = by_id[exposure]
        if row["path"] != "interleaved" or row["sources"] is None:
            return False
        return team_of(row["sources"][row["item_ids"].index(item)]) == name

    past = [row for row in own if row["shown_at"] < PAST.at and row["deployment"] in (None, 1)]
    return {
        "user_hash": user, "arm": first["arm"], "deployment": first["deployment"],
        "first_exposed_at": first["shown_at"], "closes_at": closes,
        "exposures": len(counted), "impressions": sum(len(row["item_ids"]) for row in counted),
        "fallbacks": sum(row["fallback"] is not None for row in counted),
        "empty": sum(not row["item_ids"] for row in counted),
        "latencies_ms": [row["latency_ms"] for row in counted if row["latency_ms"] is not None],
        "clicks": len(clicks), "exposures_clicked": len({exposure for exposure, _ in clicks}),
        "clicks_generative": sum(team(*pair, "generative") for pair in clicks),
        "clicks_cascade": sum(team(*pair, "cascade") for pair in clicks),
        "first_items": first["item_ids"],
        "earlier_impressions": sum(len(row["item_ids"]) for row in past),
        "earlier_clicks": len(clicked(past, PAST.at)),
    }  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(
    rows(),
    st.sampled_from([0.0, 1.0, 2.5]),
    st.sampled_from([0.0, 2.0]),
    st.randoms(use_true_random=False),
)
def test_windows_are_those_of_the_plain_reference(
    body: tuple[list[dict[str, Any]], list[dict[str, Any]]], seconds: float, late: float, random: Any
) -> None:
    shown, given = body
    mixed = list(shown)
    random.shuffle(mixed)
    exposures = pl.DataFrame(mixed, schema=EXPOSURES, orient="row")
    attributed = attribute(exposures, pl.DataFrame(given, schema=FEEDBACK, orient="row"))
    found = user_windows(exposures, attributed, served=SERVED, past=PAST, seconds=seconds, late_seconds=late)
    assert dict(found.schema) == USER_WINDOWS
    expected = [row for user in ("u", "v") if (row := plainly(shown, given, user, seconds, late)) is not None]
    assert [row | {"latencies_ms": sorted(row["latencies_ms"])} for row in found.to_dicts()] == [
        row | {"latencies_ms": sorted(row["latencies_ms"])} for row in expected
    ]


@settings(max_examples=60, deadline=None)
@given(rows())
def test_a_window_without_end_holds_the_sums_of_the_store(
    body: tuple[list[dict[str, Any]], list[dict[str, Any]]],
) -> None:
    shown, given = body
    one_arm = [row | {"arm": "x", "deployment": 2, "bundle": "new"} for row in shown]
    exposures = pl.DataFrame(one_arm, schema=EXPOSURES, orient="row")
    attributed = attribute(exposures, pl.DataFrame(given, schema=FEEDBACK, orient="row"))
    found = user_windows(exposures, attributed, served=SERVED, past=PAST, seconds=1e6)
    sums = user_sums(exposures, attributed)
    names = ["user_hash", "exposures", "impressions", "fallbacks", "clicks", "exposures_clicked"]
    assert found.select(names).equals(sums.select(names))
    assert found["latencies_ms"].list.sum().fill_null(0).to_list() == sums["latency_ms_sum"].to_list()
