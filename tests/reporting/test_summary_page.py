"""The summary for machines, the migration page, and the verdict on a terminal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from segue.artifacts import read_json, write_json
from segue.errors import ArtifactError
from segue.reporting.console import verdict
from segue.reporting.index_page import lead, missing, write_index_page
from segue.reporting.summary import Gathered, gather, write_summary
from tests.reporting.synthetic import CONTENDERS, write_synthetic_run
from tests.reporting.test_evaluation_page import Wellformed


@pytest.fixture
def gathered(tmp_path: Path) -> Gathered:
    inputs, deployments, records = write_synthetic_run(tmp_path / "run")
    return gather(inputs, deployments=deployments, records=records)


def test_the_summary_has_exactly_its_keys_and_says_no_change_the_second_time(
    gathered: Gathered, tmp_path: Path
) -> None:
    summary = gathered.summary
    assert set(summary) == {
        "dataset", "contenders", "decisions", "deployment", "bundle", "model_version", "bento_tag", "seconds",
    }  # fmt: skip
    assert set(summary["dataset"]) == {
        "users", "items", "interactions", "new_users", "replay_users", "tied_last_steps",
    }  # fmt: skip
    assert set(summary["contenders"]) == set(CONTENDERS)
    for figures in summary["contenders"].values():
        assert set(figures) == {"recall@10", "ndcg@10"}
        assert all(set(value) == {"estimate", "low", "high"} for value in figures.values())
    assert set(summary["decisions"]) == {"pilot", "hybrid", "full", "refresh"}
    assert all(set(value) == {"outcome", "reasons", "sha256"} for value in summary["decisions"].values())
    assert summary["decisions"]["hybrid"]["outcome"] == "HOLD"
    assert "there is no online evidence" in summary["decisions"]["hybrid"]["reasons"][0]
    assert summary["deployment"] == {"revision": 1, "stage": "cascade"}
    assert (summary["model_version"], summary["bento_tag"]) == (3, "segue:abc")
    assert summary["seconds"] == {"ingest": 1.5, "offline_evaluation": 42.0, "deployment": 2.0}
    assert write_summary(tmp_path, summary)
    assert not write_summary(tmp_path, summary)
    assert read_json(tmp_path / "summary.json") == summary
    assert write_summary(tmp_path, summary | {"model_version": 4})


def test_the_page_shows_where_it_stands_and_what_is_missing(gathered: Gathered, tmp_path: Path) -> None:
    (tmp_path / "evaluation.html").write_text("x")
    (tmp_path / "semantic_ids.html").write_text("x")
    page = write_index_page(tmp_path, gathered, dataset="toy", title="Toys")
    parser = Wellformed()
    html = page.read_text(encoding="utf-8")
    parser.feed(html)
    assert parser.open == []
    text = " ".join(" ".join(parser.text).split())
    assert "Stage cascade, revision 1: it serves 100 % of the users by the cascade path." in text
    assert "What is missing for pilot" in text or gathered.decisions["pilot"].outcome.value == "PROMOTE"
    for words in ("latency p95 ms", "31.250", "only 12 test users", "nothing is kept yet", "Item-to-item CF"):
        assert words in text
    assert 'href="evaluation.html"' in html
    assert 'href="semantic_ids.html"' in html
    assert "data_docs" not in html  # no link to what is not there


def test_an_underpowered_gate_tells_the_users_it_would_take(tmp_path: Path) -> None:
    inputs, deployments, records = write_synthetic_run(tmp_path / "run", margin=0.09)
    gathered = gather(inputs, deployments=deployments, records=records)
    entries = missing(gathered.decisions["pilot"])
    assert [entry["status"] for entry in entries] == ["underpowered"]
    assert "For pilot the decision is HOLD: 1 thing is missing." in lead(gathered)
    nothing = replace(gathered, deployment=None)
    assert lead(nothing) == "Nothing is deployed yet."


def test_the_terminal_gets_contenders_decisions_and_what_serves(gathered: Gathered) -> None:
    text = verdict(gathered.summary)
    lines = text.splitlines()
    rows = [line for line in lines if line.startswith(("Popularity", "SASRec", "Cascade", "Generative"))]
    assert len(rows) == 6
    assert all(line.count("[") == 2 for line in rows)
    assert len({line.index("[") for line in rows}) == 1  # the columns line up
    assert any(line.startswith("hybrid: HOLD") for line in lines)
    assert "serving: stage cascade, deployment revision 1" in lines
    assert max(len(line) for line in lines) <= 120
    bare = gathered.summary | {"deployment": {"revision": None, "stage": None}, "model_version": None}
    assert "serving: nothing is deployed" in verdict(bare)


def test_nothing_deployed_is_told_and_a_changed_decision_is_refused(tmp_path: Path) -> None:
    inputs, deployments, records = write_synthetic_run(tmp_path / "run")
    (deployments / "current.json").unlink()
    gathered = gather(inputs, deployments=deployments, records=records)
    assert gathered.summary["deployment"] == {"revision": None, "stage": None}
    write_index_page(tmp_path, gathered, dataset="toy", title="Toys")
    path = inputs["pilot_decision"] / "decision.json"
    decision = read_json(path)
    assert isinstance(decision, dict)
    write_json(path, decision | {"outcome": "ROLLBACK"})
    with pytest.raises(ArtifactError, match="was changed after it was decided"):
        gather(inputs, deployments=deployments, records=records)
