"""Paths that are made of two, as the engine serves them: each over a real bundle, and whatever a part does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from segue.blending.compose import COMPOSED
from segue.blending.sources import places_of, team_of
from segue.items import Items
from segue.registry.bundle import read_bundle
from segue.schema import PathName
from segue.serving.engine import Engine, History, Served
from tests.serving.worlds import ITEMS, FakePath

G, C, P = PathName.GENERATIVE, PathName.CASCADE, PathName.POPULARITY
ALL = sorted(COMPOSED)


@pytest.fixture
def paths() -> dict[PathName, FakePath]:
    return {name: FakePath(name, ITEMS) for name in (G, C)}


@pytest.fixture
def engine(full: Path, paths: dict[PathName, FakePath], request: pytest.FixtureRequest) -> Iterator[Engine]:
    """With a budget that no machine is too busy for; a test of the budget itself brings its own."""
    budget = getattr(request, "param", 5000.0)
    made = Engine(read_bundle(full), Items.load(full), dict(paths), budget_ms=budget)
    yield made
    made.close()


@pytest.fixture(scope="module")
def real(full: Path) -> Iterator[Engine]:
    made = Engine.load(full)
    yield made
    made.close()


def one(engine: Engine, path: PathName, **more: object) -> Served:
    return engine.recommend([History(item_ids=["i001"])], path=path, k=5, **more)[0]  # type: ignore[arg-type]


def ids(served: Served) -> list[str]:
    return [item.item_id for item in served.items]


def test_every_path_of_a_deployment_is_served(real: Engine) -> None:
    assert set(real.available) == set(PathName)
    for path in PathName:
        served = one(real, path)
        assert (served.path, served.fallback, len(served.items)) == (path, None, 5)


def test_weights_come_with_the_request(real: Engine) -> None:
    for name in (G, C):
        assert ids(one(real, PathName.BLENDED, blend={name.value: 1.0})) == ids(one(real, name))
    mixed = one(real, PathName.BLENDED)
    assert {name for item in mixed.items for name in places_of(item.source)} == {"cascade", "generative"}


def test_an_interleaved_list_names_teams_and_follows_its_draw(real: Engine) -> None:
    def drawn(draw: str) -> list[tuple[str, str | None]]:
        [served] = real.recommend([History(item_ids=["i001"], draw=draw)], path=PathName.INTERLEAVED, k=6)
        return [(item.item_id, team_of(item.source)) for item in served.items]

    assert drawn("a") == drawn("a")
    lists = [drawn(str(number)) for number in range(12)]
    assert {found[0][1] for found in lists} == {"cascade", "generative"}
    for found in lists:
        teams = [team for _, team in found]
        assert abs(teams.count("cascade") - teams.count("generative")) <= 1


def test_reranking_ranks_what_the_cascade_proposes(engine: Engine, paths: dict[PathName, FakePath]) -> None:
    paths[C].answer = [7, 3, 12]
    assert ids(one(engine, PathName.RERANK)) == ["i012", "i007", "i003"]


def test_generated_items_are_one_more_recall_route(engine: Engine, paths: dict[PathName, FakePath]) -> None:
    paths[G].answer = [30, 20]
    assert one(engine, PathName.RECALL_ROUTE).path is PathName.RECALL_ROUTE
    assert [items.tolist() for items in paths[C].routes["generative"]] == [[30, 20]]


@pytest.mark.parametrize("path", ALL)
@pytest.mark.parametrize(
    ("engine", "fault", "reason"),
    [
        (5000, {"error": ValueError("boom")}, "raised ValueError"),
        (5000, {"nan": True}, "gave scores that are no numbers"),
        (300, {"hang": True}, "over its time budget"),
    ],
    indirect=["engine"],
)
def test_where_the_generative_part_fails_the_cascade_serves_and_the_part_is_counted(
    engine: Engine, paths: dict[PathName, FakePath], path: PathName, fault: dict[str, object], reason: str
) -> None:
    hang = threading.Event()
    for name, value in fault.items():
        setattr(paths[G], name, hang if name == "hang" else value)
    try:
        served = [one(engine, path) for _ in range(4)]
    finally:
        hang.set()
    assert {found.path for found in served} == {C}
    assert served[0].fallback == f"generative: {reason}"
    assert ids(served[0]) == ids(one(engine, C))
    # Three failures open the breaker of the part, and of the part alone; from then on nobody waits for it.
    assert engine.open_breakers == [G]
    assert served[3].fallback == "generative: circuit breaker open"
    assert paths[G].calls == 3
    assert engine.failures == {(G, reason): 3, (G, "circuit breaker open"): 1}
    assert one(engine, C).fallback is None


@pytest.mark.parametrize("path", ALL)
def test_where_the_cascade_fails_popularity_serves_and_it_is_not_asked_twice(
    engine: Engine, paths: dict[PathName, FakePath], path: PathName
) -> None:
    paths[C].error = RuntimeError("down")
    served = one(engine, path)
    assert (served.path, served.fallback) == (P, "cascade: raised RuntimeError")
    assert paths[C].calls == 1
    assert len(served.items) == 5


def test_a_part_that_recovers_is_used_again_by_every_path(
    engine: Engine, paths: dict[PathName, FakePath]
) -> None:
    paths[G].error = RuntimeError("down")
    one(engine, PathName.BLENDED)
    one(engine, G)
    paths[G].error = None
    assert one(engine, PathName.BLENDED).path is PathName.BLENDED  # two failures are not three
    paths[G].error = RuntimeError("down")
    one(engine, PathName.RERANK)
    one(engine, PathName.RERANK)
    assert engine.open_breakers == []


def test_a_fault_of_the_composition_itself_counts_for_it_alone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segue.blending.rerank.select", lambda *arguments: 1 / 0)
    for _ in range(3):
        assert one(engine, PathName.RERANK).fallback == "rerank: raised ZeroDivisionError"
    assert engine.open_breakers == [PathName.RERANK]
    assert one(engine, PathName.BLENDED).fallback is None
    assert one(engine, C).fallback is None


def test_a_part_that_can_only_recommend_is_said(full: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Plain:
        def __init__(self, name: PathName) -> None:
            self.name, self._whole = name, FakePath(name, ITEMS)
            self.recommend = self._whole.recommend

    engine = Engine(read_bundle(full), Items.load(full), {G: Plain(G), C: Plain(C)})  # type: ignore[dict-item]
    for path in (PathName.RERANK, PathName.RECALL_ROUTE):
        served = one(engine, path)
        assert (served.path, served.fallback) == (C, f"{path}: raised ConfigurationError")
    assert one(engine, PathName.BLENDED).fallback is None
    engine.close()
    assert "scores no items that it is given" in caplog.text
    assert "ranks no candidates but its own" in caplog.text


def test_many_requests_at_once_do_not_wait_for_each_other_for_ever(real: Engine) -> None:
    """More requests than the pool has threads, all of which wait for parts that run in it."""
    answers: list[Served] = []
    threads = [
        threading.Thread(target=lambda: answers.append(one(real, PathName.INTERLEAVED))) for _ in range(24)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert len(answers) == 24
    assert {answer.path for answer in answers} == {PathName.INTERLEAVED}
