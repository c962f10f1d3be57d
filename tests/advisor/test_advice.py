"""From facts and answers to advice: the three firms, maturity, capacity, and a plan that loads and lints."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from segue.advisor.advice import advise
from segue.advisor.capacity import project
from segue.advisor.facts import Facts, gather_facts
from segue.advisor.framework import Factor, Level, Strategy, load_framework
from segue.advisor.maturity import maturity, maturity_checks
from segue.advisor.plan import as_yaml, click_spread, make_plan
from segue.advisor.text import as_text
from segue.errors import ConfigurationError
from segue.migration.policy import lint_policies
from segue.migration.settings import Costs, MigrationSettings
from segue.params import expanded, load_params
from segue.reporting.advice_page import write_advice_page
from segue.serving.store import open_store
from segue.serving.store.records import REPLAYED
from segue.workspace import Workspace
from tests.advisor.firms import (
    LARGE,
    LARGE_FACTS,
    MID_FACTS,
    MID_SIZE,
    TRADITIONAL,
    TRADITIONAL_FACTS,
    answers,
    facts,
    readiness,
)
from tests.reporting.test_evaluation_page import Wellformed
from tests.serving.store.builders import click, exposure
from tests.test_cli import segue

TABLE = load_framework()
REACH = 20_000


@pytest.mark.parametrize(
    ("measured", "firm", "strategy", "level"),
    [
        (LARGE_FACTS, LARGE, Strategy.REPLACEMENT, Level.HIGH),
        (MID_FACTS, MID_SIZE, Strategy.FUSION, Level.MEDIUM),
        (TRADITIONAL_FACTS, TRADITIONAL, Strategy.GRADUAL, Level.LOW),
    ],
)
def test_the_three_kinds_of_firm(
    measured: Facts, firm: dict[str, Any], strategy: Strategy, level: Level
) -> None:
    found = advise(measured, answers(firm), TABLE, reach=REACH)
    assert found.recommendation.strategy is strategy
    assert found.headline.startswith(TABLE.strategies[strategy].title)
    at_level = [vote for vote in found.recommendation.votes if vote.level is level]
    assert len(at_level) >= 5
    assert all(vote.because and vote.told for vote in found.recommendation.votes if vote.level is not None)
    stages = [stage.stage.value for stage in found.plan.stages]
    assert stages == (["pilot", "hybrid"] if strategy is Strategy.FUSION else ["pilot", "hybrid", "full"])


@pytest.mark.parametrize(
    ("changes", "strategy"),
    [
        ({"skills": "basic"}, Strategy.GRADUAL),
        ({"risk_tolerance": "low"}, Strategy.GRADUAL),
        ({"monthly_budget": 1.0}, Strategy.GRADUAL),
        ({"months": 1}, Strategy.REPLACEMENT),
        ({"monthly_users": 100, "requests_per_second": 0.1}, Strategy.REPLACEMENT),
    ],
)
def test_one_answer_turns_a_large_platforms_advice_where_the_table_says_so(
    changes: dict[str, Any], strategy: Strategy
) -> None:
    found = advise(LARGE_FACTS, answers(LARGE, **changes), TABLE, reach=REACH)
    assert found.recommendation.strategy is strategy
    if strategy is Strategy.GRADUAL:
        assert "Full replacement had 5 and is ruled out" in found.headline


def test_missing_readiness_rules_a_replacement_out() -> None:
    found = advise(facts(readiness=None), answers(LARGE), TABLE, reach=REACH)
    assert found.recommendation.strategy is Strategy.GRADUAL
    assert any("segue init" in one for one in found.wanting)
    assert any(
        "what is not ready cannot replace what works" in veto.because for veto in found.recommendation.vetoes
    )


def test_maturity_follows_from_what_was_measured() -> None:
    def level(measured: Facts, **changes: Any) -> Level | None:
        return maturity(maturity_checks(measured, answers(LARGE, **changes)), TABLE).level

    assert level(facts()) is Level.HIGH
    assert level(facts(served=False)) is Level.MEDIUM
    assert level(facts(readiness=readiness(possible=False))) is Level.LOW  # essential, whatever else passed
    bad = json.loads(json.dumps(facts().check))
    bad["paths"]["generative"]["invalid_items"] = 1
    assert level(facts(check=bad)) is Level.LOW
    slow = maturity_checks(facts(), answers(LARGE, latency_p99_ms=10.0))
    assert [check.name for check in slow if check.passed is False] == ["answers come in time"]
    assert maturity_checks(facts(check=None), answers(LARGE))[-3].passed is None
    assert level(Facts(settings=MigrationSettings())) is Level.LOW


def test_a_replays_lists_and_hits_are_no_sign_of_maturity(workspace_root: Path) -> None:
    workspace = Workspace(workspace_root)
    store = open_store(workspace, "ml-100k")
    try:
        store.log_exposures([exposure(f"{REPLAYED}e1")])
        store.post_feedback([click("f1", f"{REPLAYED}e1")])
        found = gather_facts(workspace, "ml-100k", load_params(workspace, "ml-100k"))
        assert (found.exposures, found.feedback) == (0, 0)
        store.log_exposures([exposure("e2")])
        found = gather_facts(workspace, "ml-100k", load_params(workspace, "ml-100k"))
        assert (found.exposures, found.feedback) == (1, 0)
    finally:
        store.close()


def test_capacity_is_what_was_measured_times_what_is_stated() -> None:
    given = answers(MID_SIZE, requests_per_second=120.0, retrains_per_month=2.0)
    found = project(facts(), given, TABLE.assumptions)
    generative = found.of("generative")
    assert generative is not None
    assert generative.requests_per_second == pytest.approx(62.5)  # 4 in flight, 64 ms each
    assert generative.machines == 4  # 120 / (62.5 x 0.6) = 3.2
    assert generative.money_a_month == pytest.approx(4 * 730 * 0.1)
    refit = next(one for one in found.training if one.step == "refit")
    assert refit.scale == pytest.approx(800_000 * 50 / 100_000)
    assert refit.hours == pytest.approx(0.02 * 400)
    assert found.training_money_a_month == pytest.approx((0.02 + 0.01) * 400 * 2 * 0.1)
    assert found.replacement_money_a_month == pytest.approx(292 + 2.4)
    assert found.requests_a_month == pytest.approx(120 / 3 * 730 * 3600)
    assert any("softmax" in one for one in found.assumptions)  # twenty times the catalogue
    assert any("7,762 events a second" in one for one in found.assumptions)


def test_nothing_measured_means_nothing_projected_and_no_vote_on_cost() -> None:
    bare = Facts(settings=load_params(Workspace(Path(__file__).parents[2]), "ml-100k").migration)
    found = advise(bare, answers(MID_SIZE), TABLE, reach=REACH)
    assert found.capacity.serving == ()
    assert found.capacity.replacement_money_a_month is None
    cost = next(vote for vote in found.recommendation.votes if vote.factor is Factor.COST)
    assert (cost.level, cost.votes) == (None, None)
    assert "abstains" in as_text(found, TABLE)
    free = facts(settings=MigrationSettings(costs=Costs(machine_hour=0.0)))
    assert project(free, answers(MID_SIZE), TABLE.assumptions).replacement_money_a_month == 0.0


@pytest.mark.parametrize(("strategy", "risk"), zip(Strategy, Level, strict=True))
def test_every_plan_loads_over_the_profile_and_lints(
    workspace_root: Path, strategy: Strategy, risk: str
) -> None:
    workspace = Workspace(workspace_root)
    settings = load_params(workspace, "ml-100k").migration
    given = answers(MID_SIZE, risk_tolerance=risk, latency_p99_ms=180.0)
    plan = make_plan(strategy, given, settings, TABLE, reach=REACH)
    file = workspace_root / "plan.yaml"
    file.write_text(as_yaml(plan, {"Advice": "a long line " * 30}))
    assert all(len(line) <= 120 for line in file.read_text().splitlines() if line.startswith("#"))
    loaded = load_params(workspace, "ml-100k", [f"@{file}"]).migration
    assert loaded == load_params(workspace, "ml-100k", expanded([f"@{file}"])).migration
    assert lint_policies(loaded) == []
    row, factor = TABLE.plans[strategy], TABLE.margins[Level(risk)]
    assert (loaded.pilot_share, loaded.pilot_path) == (row.pilot_share, row.pilot_path)
    before = {(one.metric, one.slice, one.path, one.against): one for one in settings.pilot.requirements}
    # The pilot is admitted by what its own path showed, and that path is measured.
    params = load_params(workspace, "ml-100k", [f"@{file}"])
    checked = [path.value for path in params.serving.check_paths]
    assert lint_policies(loaded, evaluated=params.evaluation.composed, checked=checked) == []
    for one in loaded.pilot.requirements:
        if one.path == row.pilot_path and one.path != "generative":
            was = before[one.metric, one.slice, "generative", one.against]
            assert one == was.model_copy(update={"path": one.path, "margin": one.margin})
        else:
            was = before[one.metric, one.slice, one.path, one.against]
        if one.against is not None:
            assert one.margin == pytest.approx(was.margin * factor)
        elif one.metric == "latency_p99_ms":
            assert one.margin == 180.0
        else:
            assert one == was.model_copy(update={"path": one.path})
    # Most users get a path of which the pilot shows nothing: it is measured offline.
    before_hybrid = {one.path for one in loaded.hybrid.requirements if one.kind == "offline"}
    assert before_hybrid == {row.hybrid_path.value}
    assert loaded.refresh_data == settings.refresh_data  # nothing else is touched
    for policy, served in ((loaded.hybrid, loaded.pilot_path), (loaded.full, loaded.hybrid_path)):
        about = {
            one.path
            for one in policy.requirements
            if one.kind == "online" and one.metric != "interleaving_preference"
        }
        assert about == {served}  # what the stage before serves is what can be measured


def test_the_minimum_n_is_what_the_power_calculation_says() -> None:
    settings = load_params(Workspace(Path(__file__).parents[2]), "ml-100k").migration
    given = answers(MID_SIZE)
    plan = make_plan(Strategy.REPLACEMENT, given, settings, TABLE, reach=200_000)
    hybrid = next(stage for stage in plan.stages if stage.stage.value == "hybrid")
    asked = {one["metric"]: one for one in plan.overrides["migration"]["hybrid"]["requirements"]}
    line = next(line for line in hybrid.told if "ctr" in line)
    assert "ctr of generative minus cascade" in line
    told = re.search(
        r": ([\d,]+) enter, ([\d,]+) counted, \d+ days$", line
    )  # both, for the plan's minimum n is of the latter
    assert told is not None
    entered, counted = (int(one.replace(",", "")) for one in told.groups())
    users = entered * 0.95 * 0.95  # the others are held back, or see interleaved lists
    assert users - 1 <= asked["ctr"]["minimum_n"] <= 1.1 * users  # rounded up to two digits
    assert counted == pytest.approx(users, abs=1)
    assert hybrid.days is not None
    assert hybrid.entered is not None
    assert abs(hybrid.days - (hybrid.entered / (given.monthly_users / 30.4) + 1)) <= 1


def test_a_stage_that_takes_more_than_a_year_is_said_not_to_be_feasible_with_what_would_help() -> None:
    few = advise(MID_FACTS, answers(MID_SIZE, monthly_users=10), TABLE, reach=REACH)
    far = [stage for stage in few.plan.stages if stage.out_of_reach is not None]
    assert far
    assert all(stage.least_days is not None and stage.least_days > 365 for stage in far)
    text = " ".join(as_text(few, TABLE).split())
    assert ": not feasible" in text
    assert "What would help: a wider margin" in text
    assert "which is not feasible" in " ".join(as_yaml(few.plan, {}).replace("\n#", " ").split())
    assert not re.search(
        r"decided in about [\d,]+ days: not feasible \(", as_text(few, TABLE)
    )  # it would say it twice
    many = advise(MID_FACTS, answers(MID_SIZE), TABLE, reach=REACH)
    assert all(stage.out_of_reach is None for stage in many.plan.stages)
    assert "not feasible" not in as_text(many, TABLE)


def test_answers_that_do_not_fit_together_are_wanting() -> None:
    sound = advise(MID_FACTS, answers(MID_SIZE), TABLE, reach=REACH)
    assert not any(one.startswith(("months:", "requests_per_second")) for one in sound.wanting)
    busy = advise(MID_FACTS, answers(MID_SIZE, monthly_users=100), TABLE, reach=REACH)
    assert any(
        "52,560,000 requests a month of 100 users are 525,600 requests a user" in one for one in busy.wanting
    )
    short = advise(MID_FACTS, answers(MID_SIZE, monthly_users=20_000, months=0.5), TABLE, reach=REACH)
    days = sum(stage.days or stage.least_days or 0 for stage in short.plan.stages)
    assert any(f"months: the plan's evidence takes {days:,} days or more" in one for one in short.wanting)


def test_weights_that_were_taken_over_are_said_to_be(workspace_root: Path) -> None:
    trained = advise(MID_FACTS, answers(MID_SIZE), TABLE, reach=REACH)
    assert "taken over" not in as_text(trained, TABLE)
    took = replace(MID_FACTS, taken_over={"refit": "tuning"})
    text = " ".join(as_text(advise(took, answers(MID_SIZE), TABLE, reach=REACH), TABLE).split())
    assert re.search(r"training, refit: .* here, weights taken over from tuning, times", text)
    workspace = Workspace(workspace_root)
    written = workspace.step("ml-100k", "generative_model") / "training.json"
    written.parent.mkdir(parents=True)
    for taken, said in ((False, {}), (True, {"generative_model": "tuning"})):
        written.write_text(json.dumps({"from_trial": taken}))
        found = gather_facts(workspace, "ml-100k", load_params(workspace, "ml-100k"))
        assert found.taken_over == said


def test_the_spread_of_clicks_is_the_simulated_one() -> None:
    import numpy as np

    given = answers(MID_SIZE, ctr=0.1, impressions_per_user=20.0)
    random = np.random.default_rng(0)
    rates = np.minimum(random.exponential(0.1, 200_000), 1.0)  # coefficient of variation 1
    clicks = random.binomial(20, rates) / 20
    # Within a user the mean of p (1 - p) is smaller than at the mean p: the formula is on the safe side, by little.
    assert 0.0 <= click_spread(given, TABLE) / clicks.std() - 1 < 0.03


def test_the_page_is_whole_and_says_the_same(tmp_path: Path) -> None:
    found = advise(MID_FACTS, answers(MID_SIZE), TABLE, reach=REACH)
    page = write_advice_page(tmp_path, found, TABLE, dataset="toys", title="Toys & more")
    parser = Wellformed()
    html = page.read_text(encoding="utf-8")
    parser.feed(html)
    assert parser.open == []
    text = " ".join(" ".join(parser.text).split())
    for said in (
        found.headline,
        "Partial fusion",
        " of 6",
        "a projection, not a measurement",
        "Toys & more",
    ):
        assert said in text
    assert write_advice_page(tmp_path, found, TABLE, dataset="toys", title="Toys & more").read_text() == html


def test_the_command_writes_a_plan_that_the_linter_takes(workspace_root: Path, tmp_path: Path) -> None:
    file, out = tmp_path / "answers.yaml", tmp_path / "plan.yaml"
    file.write_text(yaml.safe_dump(MID_SIZE))
    finished = segue("advise", "--answers", str(file), "--out", str(out), "--json", root=workspace_root)
    assert finished.returncode == 0, finished.stderr
    told = json.loads(finished.stdout)
    assert told["recommendation"]["strategy"] == "gradual_migration"  # nothing was measured here yet
    assert (
        gather_facts(
            Workspace(workspace_root), "ml-100k", load_params(Workspace(workspace_root), "ml-100k")
        ).readiness
        is None
    )
    lint = segue("policy", "lint", "--set", f"@{out}", root=workspace_root)
    assert lint.returncode == 0, lint.stderr


def test_an_override_file_that_is_wrong_is_named(workspace_root: Path, tmp_path: Path) -> None:
    workspace, file = Workspace(workspace_root), tmp_path / "plan.yaml"
    for text, told in (
        (
            "migration: {pilot_shre: 0.1}",
            r"plan\.yaml: migration has no key 'pilot_shre'; did you mean 'pilot_share'",
        ),
        ("migration: 3", r"plan\.yaml: section 'migration' must be a mapping"),
        ("migration: {pilot_share: 7}", r"plan\.yaml: migration\.pilot_share"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigurationError, match=told):
            load_params(workspace, "ml-100k", [f"@{file}"])
    with pytest.raises(ConfigurationError, match="is missing"):
        load_params(workspace, "ml-100k", ["@absent.yaml"])
