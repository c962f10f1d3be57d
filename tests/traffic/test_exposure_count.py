"""Lost exposures are found: a store that drops some, and a server whose disk is full."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from segue.serving.requests import RecommendRequest
from segue.serving.service import Service
from segue.serving.store import Exposure, Store
from segue.traffic.client import ServiceClient
from segue.traffic.exposure_count import ExposureCount
from segue.workspace import Workspace
from tests.replay.conftest import (
    first,
    full,
    full_id,
    incumbent_only,
    service,
    splits,
    store,
    workspace,
    world,
    write,
)

__all__ = [
    "first", "full", "full_id", "incumbent_only", "service", "splits", "store", "workspace", "world", "write",
]  # fmt: skip


def ask(service: Service, count: ExposureCount, users: int) -> None:
    requests = [RecommendRequest(user_id=f"v{user}") for user in range(users)]
    count.add(ServiceClient(service).recommend(requests))


def test_nothing_is_lost_where_nothing_fails(service: Service, store: Store) -> None:
    count = ExposureCount()
    ask(service, count, 700)  # more than one statement asks for
    count.add(ServiceClient(service).recommend([RecommendRequest(user_id="p", path="cascade")]))
    found = count.compare(store, patience_seconds=0)
    assert (found.lost, found.counted) == (0, 700)  # a preview is no exposure
    assert sum(found.by_arm.values()) == 700
    assert set(found.by_arm) == {"control", "treatment"}
    assert str(found).startswith("0 lost exposures: the client counted 700")


def test_a_store_that_drops_exposures_is_caught(service: Service, store: Store, monkeypatch: object) -> None:
    """The fault is under the acknowledgement: the service believes that all were written."""
    assert service._store is not None
    inner = service._store.store
    assert inner is not None
    whole = inner.log_exposures

    def dropping(shown: Sequence[Exposure]) -> None:
        whole(shown[:-2])

    inner.log_exposures = dropping  # type: ignore[method-assign]
    count = ExposureCount()
    ask(service, count, 10)
    found = count.compare(store, patience_seconds=0)
    assert found.lost == len(found.missing) == 2
    assert not set(found.missing) & store.held_exposures(count.ids)


def test_a_list_that_could_be_logged_nowhere_is_counted_as_lost(
    service: Service, store: Store, workspace: Workspace
) -> None:
    guarded = service._store
    assert guarded is not None
    assert guarded.store is not None
    store_of_service = guarded.store

    class Full:
        def append(self, exposures: object) -> None:
            raise OSError(28, "no space left on device")

        def close(self) -> None: ...

    from segue.errors import UnavailableError

    def away(shown: object) -> None:
        raise UnavailableError("the database is away")

    store_of_service.log_exposures = away  # type: ignore[method-assign, assignment]
    guarded._spool = Full()  # type: ignore[assignment]
    count = ExposureCount()
    ask(service, count, 3)
    guarded._stop.set()
    found = count.compare(store, patience_seconds=0)
    assert (found.lost, found.counted, found.unlogged) == (3, 0, 3)
    assert "could not be logged" in str(found)


def test_exposures_that_had_to_wait_are_waited_for(service: Service, store: Store, tmp_path: Path) -> None:
    count = ExposureCount()
    ask(service, count, 2)
    late = Store.at(tmp_path / "late.sqlite")
    rows = store.exposures()

    def carry_over(_: float) -> None:
        late.log_exposures(
            [
                Exposure(
                    exposure_id=row["exposure_id"], arm=row["arm"], path=row["path"], bundle=row["bundle"],
                    deployment=row["deployment"], item_ids=row["item_ids"], fallback=None, warnings=[],
                    latency_ms=1.0, shown_at=row["shown_at"],
                )
                for row in rows
            ]
        )  # fmt: skip

    assert count.compare(late, patience_seconds=0).lost == 2
    assert count.compare(late, patience_seconds=5, sleep=carry_over).lost == 0
    late.close()
