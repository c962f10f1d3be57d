"""The journal: what was done survives a kill at any byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from segue.errors import StateError
from segue.replay.journal import Journal, Shown

IDENTITY = {"dataset": "tiny", "store": "s", "snapshot": "a"}
LISTS = [Shown("u1", 0, "e1", "control", 2, 3), Shown("u2", 0, None, None, None, None)]


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    with Journal(tmp_path / "j", IDENTITY) as journal:
        journal.show(LISTS)
        journal.post([LISTS[0].key])
    with Journal(tmp_path / "j", IDENTITY) as journal:
        assert list(journal.shown.values()) == LISTS
        assert journal.posted == {("u1", 0)}


def test_a_kill_at_any_byte_leaves_whole_lines(tmp_path: Path) -> None:
    with Journal(tmp_path / "whole", IDENTITY) as journal:
        journal.show(LISTS[:1])
        journal.show(LISTS[1:])
        journal.post([LISTS[0].key])
    text = (tmp_path / "whole").read_bytes()
    for cut in range(len(text) + 1):
        file = tmp_path / "cut"
        file.write_bytes(text[:cut])
        with Journal(file, IDENTITY) as journal:
            read, posted = list(journal.shown.values()), set(journal.posted)
            journal.show([Shown("u3", 1, "e3", "treatment", 2, None)])  # it goes on after what is whole
        assert read == LISTS[: len(read)]
        assert posted <= {("u1", 0)}
        with Journal(file, IDENTITY) as journal:
            assert len(journal.shown) == len(read) + 1


@pytest.mark.parametrize("name", list(IDENTITY))
def test_a_journal_of_something_else_is_not_gone_on_with(tmp_path: Path, name: str) -> None:
    with Journal(tmp_path / "j", IDENTITY):
        pass
    with Journal(
        tmp_path / "j", IDENTITY | {name: "other"}
    ) as journal:  # nothing was done yet, so it was of nothing
        journal.show(LISTS)
        journal.forget()
    with Journal(tmp_path / "j", IDENTITY) as journal:
        assert not journal.shown
        journal.show(LISTS)
    with pytest.raises(StateError, match=f"another {name}"):
        Journal(tmp_path / "j", IDENTITY | {name: "other"})


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    with Journal(tmp_path / "j", IDENTITY) as journal:
        journal.show(LISTS)
    file = tmp_path / "j"
    file.write_text(file.read_text().replace('{"shown"', "{shown"))
    with pytest.raises(StateError, match="line 2 is damaged"):
        Journal(file, IDENTITY)
