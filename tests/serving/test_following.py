"""Following the deployment document, routing, and the service over it."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import polars as pl
import pytest

from segue.blending.compose import COMPOSED
from segue.blending.interleaved import coins
from segue.blending.sources import places_of, team_of
from segue.errors import ConfigurationError, DataError, StateError
from segue.generative.explain import EVENTS
from segue.migration.deployment import Deployment
from segue.migration.statistics.interleaving import team_draft
from segue.paths import Request
from segue.registry.bundle import publish, read_bundle
from segue.schema import PathName
from segue.serving.batch import explain_to, recommend_file, recommend_to_parquet
from segue.serving.engine import Engine
from segue.serving.following import Follower
from segue.serving.requests import (
    Event,
    ExplainRequest,
    Feedback,
    Filters,
    RecommendRequest,
    ServedPath,
    SimilarRequest,
)
from segue.serving.routing import arm_for, position
from segue.serving.service import Service
from segue.workspace import Workspace
from tests.serving.worlds import USERS

Write = Callable[..., None]
DECISION = "d" * 64


def arm(name: str, bundle: str, path: str = "cascade", share: float = 1.0) -> dict[str, Any]:
    return {"name": name, "bundle": bundle, "path": path, "share": share}


def deployment(revision: int, arms: list[dict[str, Any]], **change: Any) -> dict[str, Any]:
    return {
        "revision": revision,
        "parent": revision - 1 or None,
        "stage": "cascade",
        "arms": arms,
        "salt": "salt",
        "actor": "test",
        "reason": "",
        "at": "2026-01-01T00:00:00+00:00",
    } | change


@pytest.fixture
def workspace(tmp_path: Path, world: Path, full: Path, incumbent_only: Path) -> Workspace:
    """A workspace with two published bundles and the splits that they name."""
    found = Workspace(tmp_path)
    for bundle in (full, incumbent_only):
        publish(bundle, found.bundles("tiny"))
    found.data("tiny").mkdir(parents=True)
    found.step("tiny", "splits").symlink_to(world / "splits")
    return found


@pytest.fixture
def write(workspace: Workspace) -> Write:
    def write(document: dict[str, Any] | str, known: tuple[str, ...] = (DECISION,)) -> None:
        path = workspace.state("tiny") / "deployment" / "current.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = document
        if isinstance(document, dict):
            text = json.dumps(
                {
                    "deployment": document,
                    "known_decisions": known,
                    "bundles_root": str(workspace.bundles("tiny")),
                    "ledger_head": "0" * 64,
                }
            )
        assert isinstance(text, str)
        path.write_text(text)

    return write


@pytest.fixture
def first(incumbent_only: Path) -> str:
    return read_bundle(incumbent_only).bundle_id


@pytest.fixture
def follower(workspace: Workspace, write: Write, first: str) -> Iterator[Follower]:
    write(deployment(1, [arm("cascade", first)]))
    made = Follower(
        source=str(workspace.state("tiny") / "deployment" / "current.json"), cache=workspace.root / "cache"
    )
    assert made.poll()
    yield made
    made.stop()


@pytest.fixture
def service(workspace: Workspace, write: Write, first: str, full_id: str) -> Iterator[Service]:
    """Everybody on the cascade, the whole bundle in shadow."""
    shadow = {"bundle": full_id, "path": "generative", "rate": 0.0}
    write(deployment(1, [arm("cascade", first)], shadow=shadow, decision_sha256=DECISION))
    made = Service.following(workspace, "tiny", poll_seconds=0.02)
    yield made
    made.close()


def shown(service: Service) -> list[dict[str, Any]]:
    assert service._store is not None
    assert service._store.store is not None
    return service._store.store.exposures()


def pilot(first: str, full_id: str, revision: int = 2, share: float = 0.5) -> dict[str, Any]:
    arms = [arm("control", first, share=1 - share), arm("treatment", full_id, "generative", share)]
    return deployment(revision, arms, stage="pilot", decision_sha256=DECISION)


def test_a_new_document_is_adopted(follower: Follower, write: Write, first: str, full_id: str) -> None:
    before = follower.serving
    write(pilot(first, full_id))
    assert follower.poll()
    assert not follower.poll()
    assert follower.serving is not None
    assert follower.serving.revision == 2
    assert set(follower.serving.engines) == {first, full_id}
    assert before is not None
    assert follower.serving.engines[first] is before.engines[first]  # not loaded twice
    assert before.revision == 1  # a request that began with it keeps it


@pytest.mark.parametrize(
    "kind",
    [
        "garbage",
        "unknown decision",
        "unknown bundle",
        "no such path",
        "no parts",
        "no weights",
        "older",
        "changed",
    ],
)
def test_a_bad_document_changes_nothing(
    follower: Follower, write: Write, first: str, full_id: str, kind: str
) -> None:
    write(pilot(first, full_id))
    follower.poll()
    serving = follower.serving
    match kind:
        case "garbage":
            write("{")
        case "unknown decision":
            write(pilot(first, full_id, 3), known=())
        case "unknown bundle":
            write(deployment(3, [arm("cascade", "e" * 64)]))
        case "no such path":
            write(deployment(3, [arm("cascade", first, "generative")]))
        case "no parts":
            write(deployment(3, [arm("cascade", first, "blended")]))
        case "no weights":
            write(deployment(3, [arm("cascade", full_id, "blended")], blend={"generative": -1.0}))
        case "older":
            write(deployment(1, [arm("cascade", first)]))
        case "changed":
            write(pilot(first, full_id, 2, share=0.4))
    assert not follower.poll()
    assert follower.serving is serving
    assert follower.problem is not None
    follower.poll()
    assert follower.refused == 1  # counted once, however often it is looked at
    write(deployment(4, [arm("cascade", first)]))
    assert follower.poll()
    assert follower.problem is None


def test_the_last_good_document_serves_a_fresh_worker(
    follower: Follower, workspace: Workspace, write: Write, first: str
) -> None:
    write("{")
    import shutil

    shutil.rmtree(workspace.bundles("tiny"))
    fresh = Follower(source=follower.source, cache=follower.cache, poll_seconds=3600)
    fresh.start()
    assert fresh.serving is not None
    assert fresh.serving.revision == 1
    assert "no JSON" in str(fresh.problem)
    fresh.stop()


def test_nothing_deployed_is_said(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="is not followed"):
        Follower(source=str(tmp_path / "current.json"), cache=tmp_path / "cache").start()


def test_users_keep_their_arm_and_shares_hold() -> None:
    arms = [arm("control", "a", share=0.95), arm("treatment", "b", share=0.05)]
    document = Deployment.model_validate(deployment(1, arms))
    users = [f"user {n}" for n in range(20_000)]
    found = Counter(arm_for(document, user).name for user in users)
    assert found["treatment"] == pytest.approx(1000, abs=130)  # 4 standard deviations
    assert arm_for(document, "user 7") == arm_for(document, "user 7")
    assert arm_for(document, None).name == "control"
    wider = Deployment.model_validate(
        deployment(2, [arm("control", "a", share=0.9), arm("treatment", "b", share=0.1)])
    )
    stay = [user for user in users if arm_for(document, user).name == "treatment"]
    assert all(arm_for(wider, user).name == "treatment" for user in stay)  # nobody who joined leaves
    assert position("one", "u") != position("two", "u")


def test_a_served_list_is_an_exposure_and_a_preview_is_not(
    service: Service, first: str, full_id: str
) -> None:
    served = service.recommend(RecommendRequest(user_id="u00", k=5))
    assert (served.path, served.bundle, served.deployment, served.arm) == ("cascade", first, 1, "cascade")
    preview = service.recommend(RecommendRequest(user_id="u00", k=5, path="generative"))
    assert (preview.path, preview.bundle, preview.preview, preview.arm) == ("generative", full_id, True, None)
    assert service.candidates(RecommendRequest(user_id="u00", k=20)).preview
    assert (preview.exposure_id, preview.warnings, served.warnings) == (None, [], [])
    (exposure,) = shown(service)
    assert exposure["exposure_id"] == served.exposure_id
    assert exposure["item_ids"] == [item.item_id for item in served.items]
    assert (exposure["arm"], exposure["bundle"], exposure["deployment"]) == ("cascade", first, 1)


def test_histories_come_from_the_store_and_events_count_at_once(service: Service) -> None:
    before = service.recommend(RecommendRequest(user_id="u00", k=40, path="cascade"))
    ids = [item.item_id for item in before.items]
    assert len(ids) == 32  # of 40 items 8 are seen
    found = service.post(
        [
            Event(event_id="e", user_id="u00", item_id=ids[0]),
            Event(event_id="f", user_id="u00", item_id="new"),
        ]
    )
    assert (found.accepted, found.duplicates, found.unknown_items) == (2, 0, ["new"])
    after = service.recommend(RecommendRequest(user_id="u00", k=40, path="cascade"))
    assert ids[0] not in [item.item_id for item in after.items]
    assert after.unknown_items == ["new"]


def test_a_context_is_warned_of_only_where_no_bundle_of_the_deployment_declares_it(
    service: Service, write: Write, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At stage cascade the answering bundle has no model; what the shadow's model reads is no mistake."""
    asked = RecommendRequest(user_id="u00", k=3, context={"device": "tv", "colour": "red"})
    why = ExplainRequest(item_id="i003", user_id="u00", context={"device": "tv"})
    told = service.recommend(asked)
    assert told.path == "cascade"
    assert len(told.warnings) == 2
    assert any("'device' is no declared feature" in warning for warning in told.warnings)
    assert len(service.explain(why).warnings) == 1
    full = next(one for one in service._serving().engines.values() if one.manifest.kind == "full")
    monkeypatch.setattr(
        Engine, "declared", property(lambda one: frozenset(["device"] if one is full else []))
    )
    assert [warning.split("'")[1] for warning in service.recommend(asked).warnings] == ["colour"]
    assert service.explain(why).warnings == []
    # Where no bundle holds a model, nothing could be declared.
    monkeypatch.undo()
    write(deployment(2, [arm("cascade", first)], decision_sha256=DECISION))
    wait_for_revision(service, 2)
    assert service.recommend(asked).warnings == []


def wait_for_revision(service: Service, revision: int) -> None:
    deadline = time.monotonic() + 5
    while service.health()["deployment"] != revision and time.monotonic() < deadline:
        time.sleep(0.02)
    assert service.health()["deployment"] == revision


@pytest.mark.parametrize("path", [path.value for path in PathName])
def test_every_path_of_a_deployment_serves_its_arm(
    service: Service, write: Write, full_id: str, path: str
) -> None:
    write(deployment(2, [arm("treatment", full_id, path)], stage="hybrid", decision_sha256=DECISION))
    wait_for_revision(service, 2)
    answer = service.recommend(RecommendRequest(user_id="u00", k=5))
    assert (answer.path, answer.arm, answer.fallback, answer.preview) == (path, "treatment", None, False)
    (exposure,) = shown(service)
    assert (exposure["path"], exposure["exposure_id"]) == (path, answer.exposure_id)
    assert exposure["item_ids"] == [item.item_id for item in answer.items]
    assert exposure["sources"] == [item.source for item in answer.items]


def test_an_interleaved_list_can_be_drafted_again_from_its_exposure(
    service: Service, write: Write, full_id: str
) -> None:
    arms = [arm("control", full_id), arm("treatment", full_id, "generative")]
    pure = {}
    for revision, own in enumerate(arms, start=2):
        write(deployment(revision, [own], decision_sha256=DECISION))
        wait_for_revision(service, revision)
        pure[own["path"]] = [
            item.item_id for item in service.recommend(RecommendRequest(user_id="u00")).items
        ]
    write(deployment(4, [arm("interleaved", full_id, "interleaved")], decision_sha256=DECISION))
    wait_for_revision(service, 4)
    for _ in range(5):
        answer = service.recommend(RecommendRequest(user_id="u00"))
        exposure = shown(service)[-1]
        random = coins(Request(history=np.array([]), timestamps=np.array([]), draw=exposure["exposure_id"]))
        draft = team_draft(pure["cascade"], pure["generative"], 10, random)
        names = {"a": "cascade", "b": "generative", None: None}
        assert exposure["item_ids"] == list(draft.items) == [item.item_id for item in answer.items]
        assert [team_of(source) for source in exposure["sources"]] == [names[team] for team in draft.teams]


def test_the_deployment_s_weights_blend_the_lists(service: Service, write: Write, full_id: str) -> None:
    lists = {}
    for revision, weight in enumerate([0.0, 0.5, 1.0], start=2):
        blend = {"cascade": 1 - weight, "generative": weight}
        document = deployment(revision, [arm("a", full_id, "blended")], blend=blend, decision_sha256=DECISION)
        write(document)
        wait_for_revision(service, revision)
        lists[weight] = service.recommend(RecommendRequest(user_id="u00", k=4)).items
    for weight, name in ((0.0, "cascade"), (1.0, "generative")):
        alone = service.recommend(RecommendRequest(user_id="u00", k=4, path=name)).items
        assert [item.item_id for item in lists[weight]] == [item.item_id for item in alone]
    assert {name for item in lists[0.5] for name in places_of(item.source)} == {"cascade", "generative"}


def test_what_is_made_of_two_is_previewed_on_the_contender(service: Service, full_id: str) -> None:
    for path in sorted(COMPOSED):
        preview = service.recommend(RecommendRequest(user_id="u00", k=5, path=path.value))
        assert (preview.path, preview.bundle, preview.preview) == (path.value, full_id, True)
        again = service.recommend(RecommendRequest(user_id="u00", k=5, path=path.value))
        assert again.items == preview.items  # a preview's coins are the user's and their history's
    assert shown(service) == []


def test_the_wire_knows_every_path() -> None:
    assert set(get_args(ServedPath)) == {path.value for path in PathName}


def test_feedback_names_the_list_that_it_answers(service: Service) -> None:
    answer = service.recommend(RecommendRequest(user_id="u00", k=3))
    first = answer.items[0].item_id
    given = [
        Feedback(feedback_id="a", kind="click", item_id=first, exposure_id=answer.exposure_id),
        Feedback(feedback_id="b", kind="click", item_id="nowhere", exposure_id=answer.exposure_id),
    ]
    assert service.feedback(given).accepted == 2
    assert service.feedback(given).duplicates == 2
    assert service._store is not None
    assert service._store.store is not None
    sums = service._store.store.user_sums()
    (row,) = sums.table.to_dicts()
    assert (row["arm"], row["deployment"], row["impressions"], row["clicks"]) == ("cascade", 1, 3, 1)
    assert sums.coverage.not_shown == 1


def test_an_unknown_user_and_a_mere_context_are_answered(service: Service) -> None:
    assert len(service.recommend(RecommendRequest(user_id="stranger")).items) == 10
    assert len(service.recommend(RecommendRequest(context={"device": "phone"})).items) == 10


def test_a_mixed_batch_is_answered_in_order(
    service: Service, workspace: Workspace, write: Write, first: str, full_id: str
) -> None:
    write(pilot(first, full_id))
    deadline = time.monotonic() + 5
    while service.health()["deployment"] != 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    requests = [
        RecommendRequest(
            user_id=f"u{n:02d}", k=3 + n % 2, filters=Filters(categories=["odd"] if n % 3 else None)
        )
        for n in range(12)
    ]
    together = service.recommend_batch(requests)
    alone = [service.recommend(request) for request in requests]
    assert {answer.arm for answer in together} == {"control", "treatment"}
    for left, right in zip(together, alone, strict=True):
        different = {"latency_ms", "items", "exposure_id"}
        assert left.model_dump(exclude=different) == right.model_dump(exclude=different)
        assert left.exposure_id != right.exposure_id
        assert [item.item_id for item in left.items] == [item.item_id for item in right.items]


def test_similar_items_and_health(service: Service, full_id: str) -> None:
    assert service.similar(SimilarRequest(item_id="i003", k=4)).bundle == full_id
    health = service.health()
    assert (health["status"], health["deployment"], health["stage"]) == ("ok", 1, "cascade")


def test_an_item_is_explained_by_the_path_that_serves_the_user(
    service: Service, first: str, full_id: str
) -> None:
    """Never an exposure; the history is the store's unless the request brings one."""
    served = service.explain(ExplainRequest(user_id="u01", item_id="i003"))
    assert (served.path, served.bundle, served.arm) == ("cascade", first, "cascade")
    assert 0 < len(served.events) <= EVENTS
    preview = service.explain(ExplainRequest(history=["i001", "i002"], item_id="i003", path="generative"))
    assert (preview.path, preview.bundle, preview.basis) == ("generative", full_id, "history")
    assert {event.item_id for event in preview.events} == {"i001", "i002"}
    assert preview.theme is not None
    assert preview.theme.shared_with == ["i002", "i001"]
    assert 'the theme "' in preview.sentence
    newcomer = service.explain(ExplainRequest(context={"device": "tv"}, item_id="i003", path="generative"))
    assert (newcomer.events, newcomer.basis) == ([], "popularity")
    assert shown(service) == []
    with pytest.raises(DataError, match="no item 'nobody'"):
        service.explain(ExplainRequest(user_id="u01", item_id="nobody"))


def test_the_command_explains_as_the_server_does(service: Service, workspace: Workspace) -> None:
    there = service.explain(ExplainRequest(user_id="u01", item_id="i003", path="generative"))
    here = explain_to(workspace, "tiny", "u01", "i003", path="generative")
    assert here.model_dump(exclude={"latency_ms"}) == there.model_dump(exclude={"latency_ms"})
    with pytest.raises(DataError, match="it is one of"):
        explain_to(workspace, "tiny", "u01", "i003", path="oracle")


def test_health_shows_a_broken_document(service: Service, write: Write) -> None:
    write("{")
    deadline = time.monotonic() + 5
    while service.health()["status"] == "ok" and time.monotonic() < deadline:
        time.sleep(0.02)
    assert "no JSON" in service.health()["problem"]
    assert len(service.recommend(RecommendRequest(history=[])).items) == 10


def test_health_shows_a_follower_that_died(service: Service) -> None:
    follower = service._follower
    assert follower is not None
    assert follower.trouble is None
    follower._stop.set()
    assert follower._thread is not None
    follower._thread.join(timeout=5)
    health = service.health()
    assert health["status"] == "degraded"
    assert "its thread has ended" in health["problem"]


def test_health_shows_a_follower_that_hangs(
    service: Service, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower = service._follower
    assert follower is not None
    hang, entered = threading.Event(), threading.Event()

    def read() -> str:
        entered.set()
        hang.wait(10)
        return "{"

    monkeypatch.setattr(follower, "_read", read)
    try:
        assert entered.wait(5)
        assert service.health()["status"] == "ok"  # a slow read is none yet
        follower.looked_at -= 31
        health = service.health()
        assert health["status"] == "degraded"
        assert "has not been looked at for 31 s" in health["problem"]
    finally:
        hang.set()


def test_a_preview_that_nobody_can_make_is_refused(workspace: Workspace, write: Write, first: str) -> None:
    write(deployment(1, [arm("cascade", first)]))
    alone = Service.following(workspace, "tiny", poll_seconds=3600)
    with pytest.raises(StateError, match="has the path 'generative'"):
        alone.recommend(RecommendRequest(history=[], path="generative"))
    alone.close()


def test_the_table_holds_the_endpoint_s_lists(service: Service, workspace: Workspace, tmp_path: Path) -> None:
    users = [f"u{n:02d}" for n in range(USERS)]
    assert recommend_to_parquet(service, users, tmp_path / "lists.parquet", k=4) == USERS
    table = pl.read_parquet(tmp_path / "lists.parquet")
    assert table.height == 4 * USERS
    for user in users[:5]:
        own = table.filter(pl.col("user_id") == user).sort("position")["item_id"].to_list()
        assert own == [i.item_id for i in service.recommend(RecommendRequest(user_id=user, k=4)).items]
    assert len(shown(service)) == 5  # the endpoint's; a table is shown to nobody yet


def test_the_command_reads_users_and_refuses_what_is_no_list(
    service: Service, workspace: Workspace, tmp_path: Path
) -> None:
    users, out = tmp_path / "users.csv", tmp_path / "out.parquet"
    users.write_text("user_id\n007\nu01\nu01\n")
    for path in ("interleaved", "generative"):
        assert recommend_file(workspace, "tiny", users, out, k=2, path=path).startswith("2 lists")
        assert set(pl.read_parquet(out)["path"]) == {path}
    with pytest.raises(DataError, match="--path 'mixed': it is one of cascade, "):
        recommend_file(workspace, "tiny", users, out, path="mixed")
    assert pl.read_parquet(out)["user_id"].unique().sort().to_list() == ["007", "u01"]
    users.write_text("who\nu01\n")
    with pytest.raises(DataError, match="no column 'user_id'"):
        recommend_file(workspace, "tiny", users, out)
    users.write_text("user_id,x\nu01,1\n,2\n")
    with pytest.raises(DataError, match="row 2: user_id is empty"):
        recommend_file(workspace, "tiny", users, out)
    with pytest.raises(DataError, match=r"nobody\.csv is missing"):
        recommend_file(workspace, "tiny", tmp_path / "nobody.csv", out)


def test_the_environment_chooses_the_mode(full: Path, full_id: str, tmp_path: Path) -> None:
    baked = Service.from_environment({"SEGUE_MODE": "baked", "SEGUE_BUNDLE": str(full)})
    answer = baked.recommend(RecommendRequest(history=["i001"]))
    assert (answer.path, answer.bundle, answer.deployment) == ("generative", full_id, None)
    with pytest.raises(StateError, match="no online store"):
        baked.post([Event(event_id="a", user_id="u", item_id="i")])
    with pytest.raises(ConfigurationError, match="SEGUE_BUNDLE"):
        Service.from_environment({"SEGUE_MODE": "baked", "SEGUE_BUNDLE": str(tmp_path)})
    with pytest.raises(ConfigurationError, match="SEGUE_MODE"):
        Service.from_environment({"SEGUE_MODE": "fast"})
    with pytest.raises(ConfigurationError, match="SEGUE_DATASET"):
        Service.from_environment({"SEGUE_ROOT": str(tmp_path)})


def test_preview_of_the_cascade_is_the_champion_s(service: Service, first: str) -> None:
    assert service.recommend(RecommendRequest(history=[], path=PathName.CASCADE.value)).bundle == first
