"""Exposures that wait on disk."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pytest

from segue.errors import UnavailableError
from segue.serving.spool import Spool
from segue.serving.store import Exposure
from tests.serving.store.builders import exposure


def names(spool: Spool) -> list[str]:
    found: list[str] = []
    spool.replay(lambda some: found.extend(one.exposure_id for one in some))
    return found


def test_what_was_appended_comes_back_once_and_as_it_was(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    assert not spool.pending()
    first = exposure("a", item_ids=["Größe", "line\nfeed", "\u2028"], warnings=["w"])
    spool.append([first])
    spool.append([exposure("b", None, user_hash="h", arm=None, deployment=None)])
    assert spool.pending()
    found: list[Exposure] = []
    assert spool.replay(found.extend) == 2
    assert found == [first, exposure("b", None, user_hash="h", arm=None, deployment=None)]
    assert not spool.pending()
    assert names(spool) == []


def test_rows_of_the_version_before_are_carried_over(tmp_path: Path) -> None:
    row = asdict(exposure("a"))
    del row["sources"]
    (tmp_path / "old.jsonl").write_text(json.dumps(row) + "\n")
    found: list[Exposure] = []
    Spool(tmp_path).replay(found.extend)
    assert found == [exposure("a", sources=None)]


def test_the_spool_is_for_nobody_else_to_read(tmp_path: Path) -> None:
    Spool(tmp_path).append([exposure("a")])
    (path,) = tmp_path.glob("*.jsonl")
    assert path.stat().st_mode & 0o077 == 0


def test_nothing_is_removed_that_was_not_written(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append([exposure("a")])

    def away(_: Sequence[Exposure]) -> None:
        raise UnavailableError("away")

    with pytest.raises(UnavailableError):
        spool.replay(away)
    spool.append([exposure("b")])
    assert sorted(names(spool)) == ["a", "b"]


def test_a_half_line_of_a_killed_writer_is_no_exposure(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append([exposure("a")])
    spool.close()
    (path,) = tmp_path.glob("*.jsonl")
    with path.open("ab") as file:
        file.write(b'{"exposure_id": "half')
    assert names(spool) == ["a"]
    assert not spool.pending()


def test_rows_of_another_version_hold_nobody_up(tmp_path: Path) -> None:
    (tmp_path / "0.jsonl").write_text('{"exposure_id": "x", "mood": "unknown"}\n')
    (tmp_path / "1.jsonl").write_text("garbage\n")
    spool = Spool(tmp_path)
    spool.append([exposure("a")])
    assert names(spool) == ["a"]
    assert not spool.pending()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.unreadable", "1.unreadable"]


def test_threads_that_append_lose_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: spool.append([exposure(f"e{number}")]), range(60)))
    assert sorted(names(spool)) == sorted(f"e{number}" for number in range(60))


def _append(
    folder: Path, appended: multiprocessing.synchronize.Event, end: multiprocessing.synchronize.Event
) -> None:
    spool = Spool(folder)
    spool.append([exposure("theirs")])
    appended.set()
    end.wait(20)


def test_the_file_of_a_living_process_is_its_own(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    appended, end = context.Event(), context.Event()
    other = context.Process(target=_append, args=(tmp_path, appended, end))
    other.start()
    assert appended.wait(20)
    spool = Spool(tmp_path)
    assert names(spool) == []
    end.set()
    other.join()
    assert names(spool) == ["theirs"]


WRITER = """
import sys
from pathlib import Path
from segue.serving.spool import Spool
from tests.serving.store.builders import exposure
spool = Spool(Path(sys.argv[1]))
number = 0
while True:
    spool.append([exposure(f"e{number}")])
    print(f"e{number}", flush=True)
    number += 1
"""


def test_a_killed_process_leaves_what_it_acknowledged(tmp_path: Path, repository: Path) -> None:
    killed = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], cwd=repository, stdout=subprocess.PIPE, text=True
    )
    assert killed.stdout is not None
    acknowledged = [killed.stdout.readline().strip() for _ in range(30)]
    os.kill(killed.pid, signal.SIGKILL)
    acknowledged += killed.stdout.read().split("\n")[:-1]
    killed.wait()
    found = names(Spool(tmp_path))
    assert found[: len(acknowledged)] == acknowledged
    assert len(found) <= len(acknowledged) + 1


def test_a_spool_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        Spool(tmp_path / "file").append([exposure("a")])
