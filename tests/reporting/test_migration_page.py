"""The migration page at every stage, with nothing, with a simulation, and after a rollback."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.artifacts import write_json
from segue.migration.costs import path_costs
from segue.migration.decide import Outcome, Target
from segue.migration.settings import Costs, Requirement
from segue.params import load_params
from segue.reporting.migration_page import lead, write_migration_page
from segue.reporting.migration_view import gather_view, newest_experiment
from segue.reporting.plain import days_in_words, figure, requirement_demand
from segue.reporting.sequence_chart import Point, margin_ruler, sequence_chart, tone
from segue.schema import Stage
from segue.workspace import Workspace
from tests.reporting.migrations import (
    BEGIN,
    DATASET,
    machine,
    migrate,
    write_artifacts,
    write_exposures,
    write_looks,
)
from tests.reporting.test_evaluation_page import Wellformed


def page(root: Path) -> tuple[str, str]:
    """(html, the words in it) of the page of the workspace at ``root``."""
    workspace = Workspace(root)
    view = gather_view(workspace, DATASET, load_params(workspace, DATASET))
    written = write_migration_page(workspace.reports(DATASET), view)
    html = written.read_text(encoding="utf-8")
    parser = Wellformed()
    parser.feed(html)
    assert parser.open == []
    assert "http" not in html.replace("http://127", "")  # nothing from anywhere else
    return html, " ".join(" ".join(parser.text).split())


def test_before_anything_it_says_what_will_appear(workspace_root: Path) -> None:
    html, text = page(workspace_root)
    assert "Nothing is deployed yet." in text
    assert "Once a server has" in text
    assert "Once one runs, every figure that a gate looks at appears here" in text
    assert "The serving check measures the machine time of each path" in text
    assert text.count("not measured") >= 13  # every requirement of the pilot is listed as open
    assert "SIMULATION" not in html


def test_a_pilot_shows_evidence_margins_funnel_and_how_long_it_takes(workspace_root: Path) -> None:
    migrate(workspace_root, Target.PILOT)
    write_looks(workspace_root, drift=0.002)
    write_exposures(workspace_root)
    decision = write_artifacts(workspace_root)["hybrid"]
    clicks = next(one for one in decision.verdicts if one.requirement.metric == "ctr")
    assert clicks.n is not None
    assert clicks.needed_n is not None
    html, text = page(workspace_root)
    assert "9.5 % of the users get lists in which the generative model has a part" in text
    assert "6 of 8 requirements are still open; at today's traffic that takes about" in text
    assert "the generative path may lose at most 0.50 points against the cascade" in text
    assert html.count('class="band') == 3
    # Treatment and control are 95 % of the 95 % who are not held back: the others do not count in the comparison.
    assert f"{math.ceil((clicks.needed_n - clicks.n) / 0.95**2):,} more users" in text
    assert "two mixed lists (interleaved, bundle" in text
    assert "the cascade (holdback, bundle" in text
    assert "Control (the cascade)" in text
    assert "Treatment (the generative path)" in text
    assert "of late" in text
    assert "Does any group pay for the others?" in text
    assert "Half within" in text  # live latencies
    assert "declared price of 0.10 USD" in text
    assert "One stage on: stage pilot" in text
    again, _ = page(workspace_root)
    assert again == html  # equal state, equal bytes


def test_a_rollback_says_which_guardrail_and_that_the_recipe_is_barred(workspace_root: Path) -> None:
    migrate(workspace_root, Target.PILOT)
    write_looks(workspace_root, drift=-0.02)
    decision = write_artifacts(workspace_root)["hybrid"]
    assert decision.outcome is Outcome.ROLLBACK
    at = machine(workspace_root, BEGIN + timedelta(days=9))
    at.record(decision)
    reason = f"guardrail: {decision.reasons[0]}"
    assert at.rollback(actor="segue", reason=reason, experiment=True, decision=decision).changed
    html, text = page(workspace_root)
    assert "Everybody is served by the cascade" in text
    assert "a guardrail was crossed, clicks on an item shown: −2" in text
    assert "barred Revision 3 took this recipe out of stage pilot." in text
    workspace = Workspace(workspace_root)
    view = gather_view(workspace, DATASET, load_params(workspace, DATASET))
    passed = view.decisions["pilot"].model_copy(update={"outcome": Outcome.PROMOTE})
    said = lead(replace(view, decisions={"pilot": passed}), Stage.PILOT, [])
    assert "The evidence would allow the next stage, pilot, but its recipe is barred from it." in said
    of_another = passed.model_copy(update={"recipe": "another"})
    said = lead(replace(view, decisions={"pilot": of_another}), Stage.PILOT, [])
    assert said.endswith("The evidence allows the next stage, pilot.")
    assert 'class="band bad"' in html
    assert "rolled back" in html
    assert "Revoked by revision 3." in text  # beside the decision that had begun the pilot
    assert "and ended on 11 February 2026" in text


def test_a_simulation_says_so_in_words_and_colour_and_promises_no_days(workspace_root: Path) -> None:
    migrate(workspace_root, Target.PILOT, Target.HYBRID)
    write_looks(workspace_root, drift=0.006)
    write_exposures(workspace_root)
    write_artifacts(workspace_root)
    write_json(Workspace(workspace_root).state(DATASET) / "simulation.json", {"truth": "better", "seed": 7})
    html, text = page(workspace_root)
    assert "SIMULATION Simulated users of planted behaviour (seed: 7, truth: better)." in text
    assert "Nothing on this page was measured on real people." in text
    assert "<title>SIMULATION" in html
    assert "border: solid #7a1fa2" in html
    assert "at today's traffic that takes" not in text
    assert "A simulation's clock is no calendar" in text


def test_the_last_stage_lacks_nothing(workspace_root: Path) -> None:
    migrate(workspace_root, Target.PILOT, Target.HYBRID, Target.FULL)
    _, text = page(workspace_root)
    assert "This is the last stage." in text
    assert "What is missing for" not in text


def test_the_newest_experiment_begins_and_ends_where_the_stage_says(workspace_root: Path) -> None:
    migrate(workspace_root, Target.PILOT, Target.HYBRID)
    running = newest_experiment(machine(workspace_root, BEGIN).state.revisions)
    assert running is not None
    assert (running.begun.deployment.revision, running.ended) == (2, None)
    machine(workspace_root, BEGIN + timedelta(days=3)).demote(actor="ann", reason="a holiday")
    machine(workspace_root, BEGIN + timedelta(days=4)).rollback(actor="ann", reason="enough")
    ended = newest_experiment(machine(workspace_root, BEGIN).state.revisions)
    assert ended is not None
    assert ended.ended is not None
    assert ended.ended.deployment.reason == "enough"
    _, text = page(workspace_root)
    assert "The experiment was rolled back: enough." in text


def test_costs_follow_from_mean_latency_and_the_declared_price() -> None:
    check = {
        "concurrency": 4,
        "paths": {
            "generative": {"latency_mean_ms": 80.0, "latency_p50_ms": 1.0},
            "cascade": {"latency_p50_ms": 40.0},
            "rerank": {"latency_p50_ms": None},
        },
    }
    cascade, generative = path_costs(check, Costs(machine_hour=3.6, currency="EUR"))
    assert (cascade.path, cascade.requests_per_second, cascade.exact) == ("cascade", 100.0, False)
    assert (generative.requests_per_second, generative.exact) == (50.0, True)
    assert generative.seconds_per_thousand == pytest.approx(20.0)
    assert generative.money_per_thousand == pytest.approx(0.02)  # 20 s at 0.001 a second


@given(low=st.floats(-5, 5), width=st.floats(0, 5), margin=st.floats(-5, 5), at_least=st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_picture_is_coloured_as_the_gate_judges_and_never_breaks(
    low: float, width: float, margin: float, at_least: bool
) -> None:
    high = low + width
    judged = tone(low, high, margin, at_least=at_least)
    kept = low >= margin if at_least else high <= margin
    broken = high < margin if at_least else low > margin
    assert judged == ("good" if kept else "bad" if broken else "open")
    assert f'class="{judged}"' in margin_ruler((low + high) / 2, low, high, margin, at_least=at_least)
    points = [Point(BEGIN, None, None, None), Point(BEGIN + timedelta(1), (low + high) / 2, low, high)]
    for looks in (points, points[:1], points[1:], []):
        assert "nan" not in sequence_chart(looks, caption="c", say=str, margin=margin, at_least=at_least)


def test_figures_and_demands_in_plain_words() -> None:
    assert figure("ctr", -0.005, difference=True) == "\N{MINUS SIGN}0.50 points"
    assert figure("fallback_rate", 0.0) == "0\u00a0%"
    assert figure("latency_p99_ms", 96.13) == "96 ms"
    assert figure("ndcg@10", None) == "\N{EM DASH}"
    ask = Requirement(metric="invalid_rate", kind="serving", direction="at_most", margin=0.0)
    assert requirement_demand(ask) == "the generative path: none at all"
    gain = Requirement(metric="ctr", kind="online", direction="at_least", margin=0.01, against="cascade")
    assert requirement_demand(gain) == "the generative path must gain 1.0 points against the cascade"
    assert [days_in_words(days) for days in (1, 14, 35, 300, 1500)] == [
        "1 day", "14 days", "about 5 weeks", "about 10 months", "about 4 years",
    ]  # fmt: skip
