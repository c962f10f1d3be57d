from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from segue.database import checked_url
from segue.errors import ArtifactError, StateError
from segue.migration.decide import Target
from segue.migration.deployment import Arm, Deployment, read_current
from segue.migration.ledger import Entry, Ledger
from segue.migration.state_machine import StateMachine
from segue.schema import PathName, Stage
from segue.workspace import Workspace
from tests.migration.builders import NOON, bundle, decision, ledger, machine, promote
from tests.postgres import PostgresServer

A, B = bundle("A", model=None), bundle("B")


@pytest.fixture(autouse=True)
def database(database_url: str, tmp_path: Path) -> str:
    """Every test of this file runs on SQLite and on Postgres."""
    (tmp_path / "url").write_text(database_url)
    return checked_url(database_url, "url")


def begun(folder: Path) -> None:
    moved = machine(folder)
    moved.bootstrap(A)
    moved.advance(decision(Target.PILOT, B), B)


def alter(url: str, statement: str) -> None:
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)
    engine.dispose()


def test_serving_follows_what_the_ledger_says(tmp_path: Path) -> None:
    begun(tmp_path)
    found = read_current(tmp_path / "deployment" / "current.json")
    assert found.deployment == ledger(tmp_path).current()
    assert found.known_decisions == (decision(Target.PILOT, B).sha256,)
    assert found.bundles_root == str(tmp_path / "bundles")
    assert ledger(tmp_path).verify() == 3


def test_a_document_whose_decision_nobody_made_is_refused(tmp_path: Path) -> None:
    begun(tmp_path)
    path = tmp_path / "deployment" / "current.json"
    document = json.loads(path.read_text())
    document["deployment"]["decision_sha256"] = "f" * 64
    path.write_text(json.dumps(document))
    with pytest.raises(ArtifactError, match="ffffffffffff of revision 2 is not in the ledger"):
        read_current(path)


def test_a_projection_that_a_kill_left_behind_is_caught_up(tmp_path: Path) -> None:
    path = tmp_path / "deployment" / "current.json"
    machine(tmp_path).bootstrap(A)
    old = path.read_text()
    machine(tmp_path).advance(promote(Target.PILOT, B), B)
    path.write_text(old)
    assert ledger(tmp_path).verify() == 3
    assert ledger(tmp_path).project()
    assert not ledger(tmp_path).project()
    assert read_current(path).deployment.revision == 2


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("update segue_ledger set payload = replace(payload, 'PROMOTE', 'HOLD')", "content was changed"),
        ("update segue_ledger set at = '2020-01-01' where sequence = 1", "row 1: its content was changed"),
        ("delete from segue_ledger where sequence = 2", "row 2 was removed"),
        ("delete from segue_ledger where sequence = 3", "removed from its end"),
        ("update segue_ledger set previous = hash where sequence = 3", "does not follow"),
    ],
)
def test_tampering_is_found(tmp_path: Path, database: str, statement: str, message: str) -> None:
    begun(tmp_path)
    alter(database, statement)
    with pytest.raises(StateError, match=message):
        ledger(tmp_path).verify()


WRITES: dict[str, Callable[[StateMachine], object]] = {
    "override": lambda moves: moves.override(bundle("C"), Target.PILOT, actor="ann", reason="now"),
    "rollback": lambda moves: moves.rollback(actor="segue", reason="guardrail: ctr", experiment=True),
    "record": lambda moves: moves.record(promote(Target.FULL, B)),
}


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("update segue_ledger set payload = replace(payload, 'PROMOTE', 'HOLD')", "content was changed"),
        ("delete from segue_ledger where sequence = 2", "row 2 was removed"),
        ("delete from segue_ledger where sequence = 5", "removed from its end"),
    ],
)
def test_nothing_is_written_on_a_ledger_that_was_tampered_with(
    tmp_path: Path, database: str, statement: str, message: str, write: str
) -> None:
    """Whoever writes: a step verifies before it begins, a person at the command line and the watcher do not."""
    begun(tmp_path)
    moves = machine(tmp_path)
    moves.advance(promote(Target.HYBRID, B), B)
    alter(database, statement)
    before = ledger(tmp_path).rows()
    with pytest.raises(StateError, match=message):
        WRITES[write](moves)
    assert ledger(tmp_path).rows() == before


def test_a_write_on_a_revision_that_has_passed_is_refused_whole(tmp_path: Path) -> None:
    begun(tmp_path)
    with pytest.raises(StateError, match="at revision 2, not at 1"):
        ledger(tmp_path).append([Entry("request", {"x": 1})], expected_revision=1)
    assert len(ledger(tmp_path).rows()) == 3


def test_of_threads_that_write_at_once_one_wins(tmp_path: Path) -> None:
    machine(tmp_path).bootstrap(A)

    def advance(number: int) -> bool:
        contender = bundle(f"B{number}")
        try:
            return machine(tmp_path).advance(promote(Target.PILOT, contender), contender).changed
        except StateError:
            return False

    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(advance, range(8)))
    assert sum(won) == 1
    assert ledger(tmp_path).verify() == 3
    assert read_current(tmp_path / "deployment" / "current.json").deployment.revision == 2


WRITER = """
import sys
from pathlib import Path
from segue.errors import StateError
from segue.migration.ledger import Entry, Ledger
from segue.migration.state_machine import StateMachine
from tests.migration.builders import ledger
book = ledger(Path(sys.argv[1]))
written = 0
while written < 10:
    try:
        book.append([Entry("request", {"by": sys.argv[2], "number": written})], expected_revision=None)
        written += 1
    except StateError:
        pass
"""


def test_processes_that_write_at_once_keep_the_chain_whole(tmp_path: Path, repository: Path) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), name], cwd=repository) for name in "ab"
    ]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0]
    assert ledger(tmp_path).verify() == 20


PROMOTER = """
import os, signal, sys, time
from pathlib import Path
from segue.errors import StateError
from segue.migration.decide import Target
from segue.migration.ledger import Ledger
from tests.migration.builders import bundle, machine, promote
folder, name, fate = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
if fate == "killed":
    Ledger.project = lambda self: os.kill(os.getpid(), signal.SIGKILL)
moves, contender = machine(folder), bundle(name)
(folder / f"ready-{name}").touch()
while not (folder / "go").exists():
    time.sleep(0.0005)
try:
    print(moves.advance(promote(Target.PILOT, contender), contender).message)
except StateError as error:
    print(f"refused: {error}")
"""


def promoter(folder: Path, repository: Path, name: str, fate: str = "lives") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROMOTER, str(folder), name, fate],
        cwd=repository,
        stdout=subprocess.PIPE,
        text=True,
    )


def go(folder: Path, names: str) -> None:
    deadline = time.monotonic() + 60
    while not all((folder / f"ready-{name}").exists() for name in names):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    (folder / "go").touch()


def test_of_two_processes_that_promote_at_once_one_wins(tmp_path: Path, repository: Path) -> None:
    machine(tmp_path).bootstrap(A)
    both = [promoter(tmp_path, repository, name) for name in "XY"]
    go(tmp_path, "XY")
    told = [process.communicate(timeout=60)[0] for process in both]
    won = [text for text in told if text.startswith("revision 2: advance")]
    lost = [text for text in told if text.startswith(("refused: ", "no change: "))]
    assert (len(won), len(lost)) == (1, 1), told
    assert ledger(tmp_path).verify() == 3
    assert read_current(tmp_path / "deployment" / "current.json").deployment == ledger(tmp_path).current()


def test_a_process_killed_after_its_commit_leaves_a_ledger_that_catches_up(
    tmp_path: Path, repository: Path
) -> None:
    machine(tmp_path).bootstrap(A)
    path = tmp_path / "deployment" / "current.json"
    process = promoter(tmp_path, repository, "X", "killed")
    go(tmp_path, "X")
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert read_current(path).deployment.revision == 1  # behind, never ahead
    book = ledger(tmp_path)
    assert book.verify() == 3
    assert book.project()
    assert read_current(path).deployment == book.current()
    assert book.revisions()[-1].event == "advance"


def test_many_that_open_a_new_ledger_at_once_all_succeed(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: ledger(tmp_path).rows(), range(8))) == [[]] * 8


def test_one_setting_moves_the_ledger_and_datasets_share_it(
    tmp_path: Path, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGUE_DATABASE_URL", postgres.new_database())
    workspace = Workspace(tmp_path)
    for name in ("one", "two"):
        book = Ledger.open(workspace, name)
        book.append([Entry("request", {"by": name})], expected_revision=None)
        book.close()
        assert not (workspace.state(name) / "ledger.db").exists()
    book = Ledger.open(workspace, "one")
    assert [row.payload for row in book.rows()] == [{"by": "one"}]
    assert book.verify() == 1
    book.close()


def test_a_document_that_contradicts_itself_is_none() -> None:
    def document(*arms: tuple[str, float], parent: int | None = 1) -> Deployment:
        return Deployment(
            revision=2, parent=parent, stage=Stage.CASCADE, salt="s", actor="a", reason="r",
            at=NOON.isoformat(),
            arms=tuple(Arm(name=who, bundle="A", path=PathName.CASCADE, share=share) for who, share in arms),
        )  # fmt: skip

    assert document(("a", 0.4), ("b", 0.6)).champion.name == "b"
    for arms, parent, message in (
        ([("a", 0.5), ("b", 0.4)], 1, "add up to 1"),
        ([("a", 0.5), ("a", 0.5)], 1, "same name"),
        ([("a", 1.0)], None, "revision before"),
    ):
        with pytest.raises(ValueError, match=message):
            document(*arms, parent=parent)
