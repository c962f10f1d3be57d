"""Looks are appended once, kept apart by figure, and damaged ones are one clear error."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from segue.errors import ArtifactError
from segue.migration.looks import append_looks, look_of, read_looks
from tests.migration.builders import NOON, evidence, online


def test_a_look_is_appended_where_it_is_newer(tmp_path: Path) -> None:
    path = tmp_path / "online" / "looks.jsonl"
    first = [online(), online(metric="fallback_rate", path_b=None), evidence()]
    assert append_looks(path, first) == 2  # offline evidence is no look
    assert append_looks(path, first) == 0
    later = online(measured_at=(NOON + timedelta(hours=1)).isoformat(), low=None)
    assert append_looks(path, [later]) == 1
    assert append_looks(path, [online()]) == 0  # an older one, such as out of a cache
    looks = read_looks(path)
    assert looks[-1] == look_of(later)
    assert [look.metric for look in looks] == ["ctr", "fallback_rate", "ctr"]
    assert looks[-1].low is None


def test_a_damaged_look_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "looks.jsonl"
    for text in ('{"at": "2026-01-01T00:00:00+00:00", "metric": "ctr"}', "nonsense"):
        path.write_text(f"\n{text}\n")
        with pytest.raises(ArtifactError, match=r"looks\.jsonl, line 2: .*remove the line"):
            read_looks(path)
    assert read_looks(tmp_path / "absent.jsonl") == []
