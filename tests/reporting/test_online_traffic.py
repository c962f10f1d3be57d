"""The funnel and the pace against a plain count over the store's own rows."""

from __future__ import annotations

from pathlib import Path

from segue.reporting.online_traffic import quantiles, read_traffic
from segue.serving.store import Store
from segue.workspace import Workspace
from tests.reporting.migrations import DATASET, write_exposures


def test_every_count_is_that_of_the_rows(workspace_root: Path) -> None:
    write_exposures(workspace_root, users=120)
    store = Store.at(Workspace(workspace_root).state(DATASET) / "online.sqlite")
    rows = store.exposures()
    found = read_traffic(store)
    later = read_traffic(store, since=None if found is None else found.last)
    store.close()
    assert found is not None
    by_arm = {arm.arm: arm for arm in found.arms}
    for name, arm in by_arm.items():
        own = [row for row in rows if row["arm"] == name]
        named = [row for row in own if row["user_hash"] is not None]
        assert (arm.lists, arm.named_lists, arm.items) == (len(own), len(named), 3 * len(named))
        assert arm.users == len({row["user_hash"] for row in named})
        assert 0 < arm.clicked_lists <= arm.named_lists
    assert sum(day.lists for day in found.days) == len(rows)
    assert sum(day.new_users for day in found.days) == found.users
    assert found.latency_ms["cascade"] == quantiles(
        [row["latency_ms"] for row in rows if row["path"] == "cascade"]
    )
    first = {}
    for row in rows:
        if row["user_hash"] is not None:
            first[row["user_hash"]] = min(first.get(row["user_hash"], row["shown_at"]), row["shown_at"])
    week = found.last.timestamp() - 7 * 86_400
    assert found.users_per_day is not None
    assert abs(found.users_per_day - sum(at >= week for at in first.values()) / 7) < 1e-6
    assert 0 < found.sd["ctr"] < 1
    assert later is not None
    assert later.users_per_day is None  # a moment is no day


def test_an_empty_store_has_no_traffic(tmp_path: Path) -> None:
    store = Store.at(tmp_path / "online.sqlite")
    assert read_traffic(store) is None
    store.close()
