from __future__ import annotations

import math
from pathlib import Path

import pytest
from pydantic import ValidationError

from segue.errors import ArtifactError
from segue.migration.evidence import evidence_sha256, read_evidence, write_evidence
from segue.migration.recipe import recipe_id
from tests.migration.builders import evidence, serving


def test_a_figure_that_is_no_number_is_kept_as_missing() -> None:
    found = evidence(low=math.nan, high=math.inf)
    assert (found.low, found.high, found.is_finite) == (None, None, False)
    assert '"low":null' in found.canonical()


def test_a_file_of_evidence_does_not_depend_on_its_order(tmp_path: Path) -> None:
    body = [evidence(), serving("B"), evidence(metric="recall@10")]
    write_evidence(tmp_path / "a.json", body)
    write_evidence(tmp_path / "b.json", body[::-1])
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert evidence_sha256(read_evidence(tmp_path / "a.json")) == evidence_sha256(body)


def test_a_wrong_entry_is_named(tmp_path: Path) -> None:
    path = tmp_path / "evidence.json"
    path.write_text('[{"kind": "offline"}]')
    with pytest.raises(ArtifactError, match=r"evidence\.json, entry 0, field metric"):
        read_evidence(path)
    path.write_text("{}")
    with pytest.raises(ArtifactError, match="must hold a list"):
        read_evidence(path)


def test_a_time_without_offset_is_refused() -> None:
    with pytest.raises(ValidationError, match="UTC offset"):
        serving("B", measured_at="2026-01-31T12:00:00")


def test_a_recipe_is_about_settings_alone() -> None:
    def recipe(**changes: object) -> str:
        fields: dict[str, object] = {
            "generative": {"layers": 2}, "codebook_id": "c", "incumbent": "i", "rules": {"filter_seen": True}
        }  # fmt: skip
        return recipe_id(**(fields | changes))  # type: ignore[arg-type]

    assert recipe() == recipe(features={})
    others = [
        recipe(generative={"layers": 3}),
        recipe(codebook_id="d"),
        recipe(incumbent="j"),
        recipe(rules={}),
    ]
    assert len({recipe(), *others}) == 5
