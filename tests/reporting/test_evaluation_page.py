"""The offline evaluation from lists to the page that a person reads."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest

from segue.artifacts import hash_files, read_json
from segue.errors import ArtifactError
from segue.evaluation.settings import EvaluationSettings
from segue.migration.evidence import read_evidence
from segue.migration.settings import Policy, Requirement
from segue.reporting.evaluation_page import verdict, write_evaluation_page
from segue.reporting.svg import ForestRow, forest_plot, nice_ticks
from tests.reporting.synthetic import CONTENDERS, write_synthetic_results

POLICY = Policy(
    requirements=(
        Requirement(
            metric="ndcg@10",
            kind="offline",
            direction="at_least",
            margin=-0.01,
            path="generative",
            against="cascade",
        ),
    )
)
VOID = {"meta", "img", "br", "line", "circle", "rect"}


class Wellformed(HTMLParser):
    """Every tag that opens closes, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    write_synthetic_results(folder)
    return folder


def test_the_page_is_whole_safe_and_needs_nothing_from_elsewhere(results: Path, tmp_path: Path) -> None:
    page = write_evaluation_page(
        tmp_path, results, dataset="toy", title="Toys & <games>", policy=POLICY, test_reads=2
    )
    html = page.read_text(encoding="utf-8")
    parser = Wellformed()
    parser.feed(html)
    assert parser.open == []
    assert not re.search(r"(src|href)\s*=\s*[\"'](?!data:|index\.html)", html)
    assert not re.search(r"url\(|@import|<script", html)
    assert "Toys &amp; &lt;games&gt;" in html
    assert "Title &lt;" in html
    assert "Title <" not in html
    text = " ".join(" ".join(parser.text).split())
    assert "read 2 times" in text
    assert "margin \N{MINUS SIGN}0.010" in text
    assert "7 users' last steps are ties in time" in text
    for name in ("Popularity", "SASRec", "Generative, code head alone", "New users", "Long tail"):
        assert name in text


def test_writing_again_gives_equal_files(results: Path, tmp_path: Path) -> None:
    write_synthetic_results(tmp_path)
    assert hash_files(tmp_path) == hash_files(results)


def test_contenders_and_evidence_agree_and_cover_every_slice(results: Path) -> None:
    contenders = read_json(results / "contenders.json")
    assert isinstance(contenders, dict)
    assert set(contenders) == set(CONTENDERS)
    evidence = read_evidence(results / "evidence.json")
    own = {
        (item.metric, item.slice): item
        for item in evidence
        if item.path_a == "generative" and not item.is_difference
    }
    for metric in (
        "ndcg@10",
        "recall@10",
        "coverage@10",
        "diversity@10",
        "novelty@10",
        "beam_share@10",
        "invalid_rate",
    ):
        item = own[metric, "all"]
        assert item.estimate == contenders["generative"][metric]["estimate"]
        assert item.is_finite
        assert (item.n, item.interval) == (80, "bootstrap")
    differences = {(item.path_b, item.metric, item.slice): item for item in evidence if item.is_difference}
    for slice_name in ("all", "new_users", "long_tail", "short_history", "new_items"):
        assert {("cascade", "ndcg@10", slice_name), ("sasrec", "recall@10", slice_name)} <= set(differences)
    paired = differences["cascade", "ndcg@10", "all"]
    gap = contenders["generative"]["ndcg@10"]["estimate"] - contenders["cascade"]["ndcg@10"]["estimate"]
    assert paired.estimate == pytest.approx(gap, abs=1e-6)
    assert paired.sd is not None
    assert paired.sd > 0
    assert {item.recipe_a for item in evidence} == {"r" * 64}
    assert contenders["generative"]["invalid_rate"]["estimate"] == 0.0


def test_the_table_of_users_has_a_row_a_contender_and_user(results: Path) -> None:
    table = pl.read_parquet(results / "per_user.parquet")
    assert table.height == len(CONTENDERS) * 92
    row = table.filter(pl.col("rank") == 2).row(0, named=True)
    assert row["recall@5"] == 1.0
    assert row["mrr@5"] == 0.5
    missed = table.filter(pl.col("rank").is_null())
    assert missed["recall@20"].sum() == 0
    assert table.filter(pl.col("group") == "new")["in_long_tail"].sum() == 0


@pytest.mark.parametrize(
    ("low", "high", "tone", "words"),
    [
        (-0.005, 0.02, "good", "keeps to that"),
        (-0.05, -0.02, "bad", "beyond that"),
        (-0.02, 0.02, "open", "it would take about 7,064 users"),
    ],
)
def test_the_verdict_says_how_the_interval_lies_to_the_margin(
    low: float, high: float, tone: str, words: str
) -> None:
    difference = {"estimate": (low + high) / 2, "low": low, "high": high, "sd": 0.3, "n": 80}
    found = verdict(difference, -0.01, {"confidence": 0.95, "power": 0.8})
    assert found[0] == tone
    assert words in found[1]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"contenders\.json is missing"):
        write_evaluation_page(tmp_path, tmp_path, dataset="toy", title="toy", policy=POLICY, test_reads=1)


def test_cutoffs_must_fit_the_list() -> None:
    with pytest.raises(ValueError, match="between 1 and list_length"):
        EvaluationSettings(cutoffs=(5, 100), list_length=50)
    with pytest.raises(ValueError, match="must be one of cutoffs"):
        EvaluationSettings(cutoffs=(5, 20), headline_cutoff=10)


def test_a_plot_colours_each_row_by_its_own_line() -> None:
    rows = [
        ForestRow("keeps", -0.001, -0.005, 0.01, margin=-0.01),
        ForestRow("loses", -0.03, -0.05, -0.02, margin=-0.01),
        ForestRow("undecided", 0.0, -0.02, 0.02, margin=-0.01),
        ForestRow("no margin", -0.001, -0.005, 0.01),
        ForestRow("nobody <here>", None, None, None),
    ]
    plot = str(forest_plot(rows, caption="a & b", margin=-0.01))
    assert re.findall(r'<g class="(\w+)">', plot) == ["good", "bad", "open", "open"]
    assert "no interval" in plot
    assert "nobody &lt;here&gt;" in plot
    assert "a &amp; b" in plot
    empty = str(forest_plot([ForestRow("nothing", None, None, None)], caption="empty"))
    assert "no interval" in empty


def test_ticks_are_round_and_inside() -> None:
    assert nice_ticks(-0.013, 0.024) == [-0.01, 0.0, 0.01, 0.02]
    assert 0.0 in nice_ticks(-1e-5, 3e-5)
