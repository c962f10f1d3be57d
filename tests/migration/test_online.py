"""Online evidence: which figures there are, what they are bound to, and that planted truths are found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from segue.migration.decide import Outcome, Target
from segue.migration.evidence import Evidence
from segue.migration.gates import gate
from segue.migration.online import About, Measured, online_evidence
from segue.migration.online_experiment import Experiment, running_experiment
from segue.migration.online_users import CatalogueFacts, OnlineUsers
from segue.migration.policy import Status
from segue.migration.settings import MigrationSettings, Policy, Requirement
from tests.migration.builders import SETTINGS, bundle, requirement
from tests.migration.experiments import CONTENDER, at_pilot, online, users

ABOUT = About("toy", "snapshot", "code")
FACTS = CatalogueFacts(
    items=frozenset("abcd"), known=frozenset("abcde"), long_tail=frozenset("b"), new=frozenset("cd")
)


@pytest.fixture
def pilot(tmp_path: Path) -> Experiment:
    found = running_experiment(at_pilot(tmp_path).state)
    assert found is not None
    return found


def one(measured: Measured, metric: str, path: str = "generative", against: str | None = None) -> Evidence:
    (found,) = [
        item
        for item in measured.evidence
        if (item.metric, item.path_a, item.path_b) == (metric, path, against)
    ]
    return found


def measure(
    pilot: Experiment, found: OnlineUsers, settings: MigrationSettings = SETTINGS, **more: Any
) -> Measured:
    return online_evidence(pilot, found, settings, ABOUT, **more)


def test_nobody_gives_no_evidence(pilot: Experiment) -> None:
    assert measure(pilot, OnlineUsers()).evidence == []


def test_every_figure_is_a_confidence_sequence_bound_to_the_recipe(pilot: Experiment) -> None:
    measured = measure(pilot, online(users(800, "treatment"), users(900, "control", 1)), catalogue=FACTS)
    for item in measured.evidence:
        exact = item.metric in ("duration_days", "feedback_coverage")
        assert item.interval == ("exact" if exact else "confidence_sequence")
        assert (item.kind, item.dataset, item.snapshot, item.recipe_a) == ("online", "toy", "snapshot", "R1")
        assert item.measured_at is not None
        assert item.n > 0
    keys = [(item.metric, item.path_a, item.path_b) for item in measured.evidence]
    assert len(set(keys)) == len(keys), "a gate takes the worst of two: one figure, one piece of evidence"
    ctr = one(measured, "ctr", against="cascade")
    assert (ctr.n, ctr.is_finite) == (1700, True)
    assert ctr.sd
    assert "CUPED" in ctr.protocol
    assert one(measured, "long_tail_share").estimate == 0.5
    assert one(measured, "new_item_share").estimate == one(measured, "invalid_rate").estimate == 0.0
    coverage = one(measured, "coverage")
    assert (coverage.low, coverage.high) == (0.5, 1.0)
    assert one(measured, "diversity").estimate == 0.0
    assert one(measured, "duration_days").n == 1700


def test_equal_users_give_equal_evidence_whenever_one_looks(pilot: Experiment) -> None:
    body = online(users(600, "treatment"), users(600, "control", 1))
    assert measure(pilot, body).evidence == measure(pilot, body).evidence


def test_all_of_it_says_of_which_experiment_it_is_and_what_it_was_gathered_for(pilot: Experiment) -> None:
    found = measure(pilot, online(users(600, "treatment"), users(600, "control", 1))).evidence
    assert {(item.experiment, item.gathered_for) for item in found} == {(2, "hybrid")}


def test_the_past_sharpens_the_figure_and_is_refused_where_it_differs(pilot: Experiment) -> None:
    plain = online(
        users(2000, "treatment", past=False, alike=5), users(2000, "control", 1, past=False, alike=5)
    )
    adjusted = online(users(2000, "treatment", alike=5), users(2000, "control", 1, alike=5))

    def width(found: OnlineUsers) -> float:
        ctr = one(measure(pilot, found), "ctr", against="cascade")
        assert ctr.low is not None
        assert ctr.high is not None
        return ctr.high - ctr.low

    assert width(adjusted) < 0.9 * width(plain)
    moved = online(users(2000, "treatment", past_gap=2), users(2000, "control", 1))
    measured = measure(pilot, moved)
    assert "not adjusted by the users' past" in measured.notes[0]
    assert "CUPED" not in one(measured, "ctr", against="cascade").protocol


@pytest.mark.parametrize(
    ("habit", "metric", "against"),
    [
        ({"clicks": 0.3}, "ctr", "cascade"),
        ({"fallback": 0.3}, "fallback_rate", None),
        ({"empty": 0.3}, "error_rate", None),
        ({"latency_ms": 60.0}, "latency_p99_relative", "cascade"),
        ({"latency_ms": 60.0}, "latency_relative", "cascade"),
        ({"lists": [["a", "nowhere"]] * 3000}, "invalid_rate", None),
        ({"lists": [["a", "a2"]] * 3000}, "long_tail_share@2", None),
    ],
)
def test_a_planted_fault_ends_the_pilot(
    pilot: Experiment, habit: dict[str, Any], metric: str, against: str | None
) -> None:
    margins = {"ctr": -0.005, "fallback_rate": 0.05, "error_rate": 0.05, "invalid_rate": 0.1}
    falls = metric.startswith(("ctr", "long"))
    guarded = Requirement(
        metric=metric, kind="online", direction="at_least" if falls else "at_most", guardrail=True,
        margin=margins.get(metric, 0.2), against=against,
    )  # fmt: skip
    settings = SETTINGS.model_copy(update={"hybrid": Policy(requirements=(guarded,))})
    good = online(users(3000, "treatment"), users(3000, "control", 1))
    bad = online(users(3000, "treatment", **habit), users(3000, "control", 1))
    for body, broken in ((good, False), (bad, True)):
        evidence = measure(pilot, body, settings, catalogue=FACTS, only=[guarded]).evidence
        decision = gate(Target.HYBRID, evidence, CONTENDER, settings)
        assert (decision.outcome is Outcome.ROLLBACK) is broken, decision.reasons
        assert decision.verdicts[0].status in (Status.MET, Status.UNDERPOWERED, Status.FAILED)


def test_the_99th_percentile_is_that_of_the_slowest_in_a_hundred(pilot: Experiment) -> None:
    """Two users of a hundred wait; the 98th percentile does not know of them."""
    waits = [[400.0]] + [[20.0]] * 49
    slow = users(2000, "treatment").with_columns(latencies_ms=pl.Series(waits * 40))
    even = users(2000, "control", 1).with_columns(latencies_ms=pl.Series([[20.0]] * 2000))
    measured = measure(pilot, online(slow, even))
    assert one(measured, "latency_p99_ms").estimate == 400.0
    assert one(measured, "latency_p99_relative", against="cascade").estimate == 19.0


@pytest.mark.parametrize("team", ["generative", "cascade"])
def test_interleaving_prefers_the_team_that_is_clicked(tmp_path: Path, team: str) -> None:
    settings = SETTINGS.model_copy(update={"interleaved_share": 0.1})
    experiment = running_experiment(at_pilot(tmp_path, settings).state)
    assert experiment is not None
    table = users(900, "interleaved", team=team)
    found = one(measure(experiment, online(table), settings), "interleaving_preference")
    clicked = float((table["clicks"] > 0).mean() or 0.0)
    assert 0.2 < clicked < 0.9  # the others prefer neither, and stay in the sample
    assert found.n == 900
    assert found.low is not None
    assert found.high is not None
    if team == "generative":
        assert found.estimate == pytest.approx(0.5 + clicked / 2)
        assert found.low > 0.5
    else:
        assert found.estimate == pytest.approx(0.5 - clicked / 2)
        assert found.high < 0.5


def test_the_split_is_judged_by_everybody_who_came(pilot: Experiment) -> None:
    body = online(users(300, "treatment"), users(300, "control", 1))
    planned = measure(pilot, online(users(5, "treatment"), users(95, "control")))
    assert one(planned, "sample_ratio_deviation").low == 0.0
    skewed = one(measure(pilot, body), "sample_ratio_deviation")
    assert skewed.n == 600
    assert skewed.low is not None
    assert skewed.low > 0.1  # 5 % were planned, half came


def test_guardrails_are_measured_at_the_confidence_of_their_family(pilot: Experiment) -> None:
    body = online(users(600, "treatment"), users(600, "control", 1))
    guards = [
        requirement(metric=name, kind="online", direction="at_most", margin=0.5, against=None, guardrail=True)
        for name in ("fallback_rate", "error_rate")
    ]
    settings = SETTINGS.model_copy(
        update={"hybrid": Policy(requirements=tuple(guards)), "full": Policy(requirements=(guards[0],))}
    )
    measured = measure(pilot, body, settings)
    assert one(measured, "fallback_rate").confidence == pytest.approx(0.975)
    assert one(measured, "latency_ms").confidence == 0.95
    only = measure(pilot, body, settings, only=guards)
    assert {item.metric for item in only.evidence} == {"fallback_rate", "error_rate"}


def test_another_recipes_evidence_holds(pilot: Experiment) -> None:
    evidence = measure(pilot, online(users(3000, "treatment"), users(3000, "control", 1))).evidence
    assert gate(Target.HYBRID, evidence, CONTENDER, SETTINGS).outcome is Outcome.PROMOTE
    decision = gate(Target.HYBRID, evidence, bundle("Z", recipe="R2"), SETTINGS)
    assert decision.outcome is Outcome.HOLD
    assert "measured on another recipe" in decision.reasons[0]


def test_lists_of_nobody_alike_are_diverse_and_cover_the_catalogue(pilot: Experiment) -> None:
    lists = [["a", "b"], ["c", "d"]] * 300
    measured = measure(
        pilot, online(users(600, "treatment", lists=lists), users(600, "control", 1)), catalogue=FACTS
    )
    assert one(measured, "diversity").estimate == 1.0
    assert one(measured, "coverage").low == 1.0
    assert one(measured, "diversity", against="cascade").estimate == 1.0
