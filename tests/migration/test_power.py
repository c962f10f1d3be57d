from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from segue.errors import ConfigurationError
from segue.migration.policy import evaluate
from segue.migration.power import (
    Need,
    Plan,
    named_numbers,
    policy_power,
    refuse_unused,
    requirement_power,
    share_before,
    shares_before,
)
from segue.migration.settings import MigrationSettings, Policy, Requirement
from segue.migration.simulation import CLICKS, REQUESTS, Effect, Population, Schedule, simulate
from segue.migration.statistics import asymptotic, bounded, sample_ratio
from segue.migration.statistics.difference import difference
from segue.migration.statistics.linearised import arm_estimate
from segue.migration.statistics.quantile import Requests, quantile
from tests.migration.builders import NOON, requirement
from tests.migration.builders import online as online_item


def online(metric: str, direction: str = "at_least", margin: float = -0.01, **changes: Any) -> Requirement:
    return requirement(
        **{"metric": metric, "kind": "online", "direction": direction, "margin": margin, "against": None}
        | changes
    )


def ctr(margin: float, **changes: Any) -> Requirement:
    return online("ctr", margin=margin, against="cascade", **changes)


def need(rule: Requirement, **plan: Any) -> Need:
    fields: dict[str, Any] = {"users_per_day": 1000.0, "share": 0.5, "lag_days": 0.0, "max_days": 3650}
    return requirement_power(rule, Plan(**fields | plan), 0.95)


@pytest.mark.parametrize(("effect", "share"), [(0.8, 0.5), (0.75, 0.2)])
def test_the_users_it_tells_are_those_that_simulated_experiments_take(effect: float, share: float) -> None:
    """A planted loss of clicks, on clustered heavy-tailed users: by the users told, four in five are found out."""
    people = Population()
    pilot = simulate(people, Schedule(1, 1, 200_000), np.random.default_rng(0))
    arm = arm_estimate(pilot.control, CLICKS, REQUESTS)
    base = people.ctr * people.reported
    told = need(
        ctr(0.0),
        expected={"ctr": (effect - 1) * base},
        sd={"ctr": float(np.sqrt(arm.variance[0, 0]))},
        share=share,
    )
    assert told.outcome == "failed"
    assert told.users is not None
    looks = 40
    schedule = Schedule(240, looks, math.ceil(told.users / looks))
    random, lost = np.random.default_rng(1), []
    for piece in schedule.batches(40):
        trace = simulate(people, piece, random, Effect(clicks=effect), share=share)
        a, b = trace.treatment.cumulative(1), trace.control.cumulative(1)
        found = difference(arm_estimate(a, CLICKS, REQUESTS), arm_estimate(b, CLICKS, REQUESTS))
        high = asymptotic.bounds(
            found.value, found.standard_error, found.n, confidence=0.95, smaller_arm=found.smaller_arm
        ).high
        lost.append((high < 0).any(axis=1))
    # The visits' third moment does not exist, so the standard deviation that is told is itself some percent off.
    assert 0.7 < np.concatenate(lost).mean() < 0.95


def test_a_rate_needs_what_its_betting_sequence_takes() -> None:
    told = need(online("fallback_rate", "at_most", 0.02), expected={"fallback_rate": 0.008})
    assert (told.outcome, told.days) == ("met", math.ceil(told.entered / 1000) if told.entered else None)
    assert told.users is not None
    assert told.entered == 2 * told.users  # only the treated are counted
    cascade = need(
        online("fallback_rate", "at_most", 0.02, path="cascade"), expected={"fallback_rate": 0.008}, share=0.1
    )
    assert (cascade.users, cascade.entered) == (told.users, math.ceil(told.users / 0.9))
    values = (np.random.default_rng(5).random((400, told.users)) < 0.008).astype(float)
    capital = bounded.log_capital(values, bounded.bets(values, 0.95), np.full(400, 0.02), above=False)
    assert 0.7 < (capital >= math.log(40)).any(axis=1).mean() < 0.9


def test_a_latency_needs_what_shows_that_one_list_in_a_hundred_is_not_slower() -> None:
    told = need(online("latency_p99_ms", "at_most", 500.0))
    assert (told.outcome, told.assumes) == ("met", "no list takes longer than 500 ms")
    assert told.users is not None
    fast = Requests(np.full(told.users, 30.0), np.arange(told.users))
    assert quantile(fast, 0.99, confidence=0.95).high <= 500.0
    fewer = Requests(fast.value[:-1], fast.user[:-1])
    assert not quantile(fewer, 0.99, confidence=0.95).high <= 500.0
    with pytest.raises(ConfigurationError, match="leave --expect latency_p99_ms out"):
        need(online("latency_p99_ms", "at_most", 500.0), expected={"latency_p99_ms": 300.0})


def test_the_sample_ratio_needs_what_its_sequence_takes() -> None:
    told = need(online("sample_ratio_deviation", "at_most", 0.01), share=0.3)
    assert told.outcome == "met"
    assert told.users is not None
    random = np.random.default_rng(6)
    within = 0
    for treated in random.binomial(told.users, 0.3, 100):
        counts = np.array([treated, told.users - treated])
        found = sample_ratio.sample_ratio_deviation(counts, np.array([0.3, 0.7]), confidence=0.95)
        within += found.high <= 0.01
    assert 60 < within < 95  # at this look alone; some were there before and are not any more
    skew = need(online("sample_ratio_deviation", "at_most", 0.01), expected={"sample_ratio_deviation": 0.03})
    assert skew.outcome == "failed"


def test_more_is_needed_for_less() -> None:
    def users(**changes: Any) -> int:
        plan: dict[str, Any] = {"sd": {"ctr": 0.2}, "users_per_day": 10_000.0} | changes
        found = need(ctr(-0.01), **plan).users
        assert found is not None
        return found

    assert users() < users(sd={"ctr": 0.3}) < users(sd={"ctr": 0.3}, share=0.1)
    assert users(expected={"ctr": 0.01}) < users() < users(expected={"ctr": -0.005})
    assert users() < users(power=0.95)
    smaller_sample = need(ctr(-0.01), sd={"ctr": 0.2}).users
    assert need(ctr(-0.01, minimum_n=10**6), sd={"ctr": 0.2}).users == 10**6
    assert smaller_sample is not None
    # Twice the spread takes about four times the users: the boundary is nearly proportional to the standard error.
    assert users(sd={"ctr": 0.4}) / users() == pytest.approx(4, rel=0.25)


def test_days_count_the_wait_and_what_is_out_of_reach_is_said() -> None:
    quick = need(ctr(-0.01), sd={"ctr": 0.2})
    slow = need(ctr(-0.01), sd={"ctr": 0.2}, lag_days=7.0)
    assert quick.days is not None
    assert slow.days == quick.days + 7
    never = need(ctr(-0.0001), sd={"ctr": 0.2}, max_days=30)
    assert (never.users, never.entered, never.days) == (None, None, None)
    edge = need(ctr(0.0), sd={"ctr": 0.2})
    assert (edge.outcome, edge.users) == ("undecidable", None)


def test_what_a_verdict_tells_is_near_and_above_what_the_calculator_does() -> None:
    """A verdict that misses its margin names the users; its formula ignores that a sequence may stop early."""
    sd = 0.2 / math.sqrt(0.25)  # of the difference of two equal arms, in units of all users
    formula = asymptotic.users_for(0.01, sd, 0.95, 0.8)
    calculated = need(ctr(-0.01), sd={"ctr": 0.2}).users
    assert calculated is not None
    assert calculated < formula < 1.4 * calculated
    item = online_item(estimate=-0.02, low=-0.03, high=0.001, sd=sd, n=5000)
    verdict = evaluate(ctr(-0.01), [item], NOON, recipe="R1", bundle=None, target="hybrid")
    assert verdict.needed_n == formula


def test_a_policy_waits_for_its_last_requirement() -> None:
    plan = Plan(users_per_day=5000, share=0.5, sd={"ctr": 0.2})
    policy = Policy(
        requirements=(
            requirement(),
            ctr(-0.01, guardrail=True),
            online("interleaving_preference", margin=0.45, guardrail=True),
            online("duration_days", margin=14.0),
        )
    )
    found = policy_power(policy, plan)
    assert [one.outcome for one in found.requirements] == ["met", "met", "met"]
    assert found.requirements[0].confidence == pytest.approx(0.975)  # two guardrails share 5 %
    assert found.days == max(one.days for one in found.requirements if one.days is not None) >= 14
    out_of_reach = policy.model_copy(update={"requirements": (*policy.requirements, ctr(-1e-5))})
    assert policy_power(out_of_reach, plan).days is None


def test_users_who_are_held_back_or_see_mixed_lists_are_not_compared_and_enter_all_the_same() -> None:
    """``users`` is the evidence's own n; who must come for it grows by what the other arms take."""

    def found(rule: Requirement, share: float | None = None, **changes: float) -> Need:
        settings = MigrationSettings(
            **{"pilot_share": 0.2, "hybrid_share": 0.3, "holdback_share": 0.0, "interleaved_share": 0.0}
            | changes
        )  # type: ignore[arg-type]
        plan: dict[str, Any] = {
            "sd": {"ctr": 0.2},
            "users_per_day": 20_000.0,
            "expected": {"fallback_rate": 0.0},
        }
        return need(rule, **plan, **shares_before(settings, "hybrid", share))

    fallbacks = online("fallback_rate", "at_most", 0.02)
    mixed = online("interleaving_preference", margin=0.45)
    for rule, others, factor in (
        (ctr(-0.01), {"holdback_share": 0.4}, 0.6),
        (fallbacks, {"holdback_share": 0.4}, 0.6),
        (fallbacks, {"interleaved_share": 0.5}, 1.0),  # a fifth of all that are free are treated all the same
    ):
        alone, beside = found(rule), found(rule, **others)
        assert alone.entered is not None
        assert beside.entered == pytest.approx(alone.entered / factor, rel=0.08)
        assert (f"{0.6 if 'holdback_share' in others else 0.5:g} of all users are compared") in beside.assumes
        assert "compared" not in alone.assumes
    few = found(mixed, interleaved_share=0.02, holdback_share=0.4)
    assert few.users is not None
    assert few.entered == math.ceil(few.users / 0.012)  # 0.02 of those who are not held back
    assert "0.012 of all users see interleaved lists" in few.assumes
    wide = found(fallbacks, 0.4, holdback_share=0.4)
    assert wide.users is not None
    assert wide.entered == math.ceil(wide.users / (0.4 * 0.6))  # --share stands for the stage's


@pytest.mark.parametrize(
    ("plan", "told"),
    [
        ({"expected": {"bogus": 3.0}}, "--expect bogus.*it uses ctr, fallback_rate$"),
        ({"sd": {"ctr": 0.2, "nix": 2.0}}, "--sd nix.*it uses ctr$"),
        ({"sd": {"fallback_rate": 0.2}}, "--sd fallback_rate"),  # a rate is drawn as the widest there is
        ({"expected": {"duration_days": 3.0}}, "--expect duration_days"),
    ],
)
def test_what_no_requirement_uses_is_refused(plan: dict[str, Any], told: str) -> None:
    policy = Policy(
        requirements=(
            ctr(-0.01),
            online("fallback_rate", "at_most", 0.02),
            online("latency_p99_ms", "at_most", 400.0),
            online("duration_days", margin=14.0),
        )
    )
    sound = {"expected": {"ctr": 0.0, "fallback_rate": 0.0}, "sd": {"ctr": 0.2}}
    refuse_unused(policy, Plan(users_per_day=1, share=0.5, **sound))  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=told):
        refuse_unused(policy, Plan(users_per_day=1, share=0.5, **plan))


@pytest.mark.parametrize(
    ("rule", "plan", "told"),
    [
        (ctr(-0.01), {}, "--sd ctr=VALUE"),
        (online("fallback_rate", "at_most", 0.02), {}, "--expect fallback_rate=VALUE"),
        (online("fallback_rate", "at_most", 0.02), {"expected": {"fallback_rate": 1.5}}, r"outside \[0, 1\]"),
        (
            online("interleaving_preference", margin=0.48),
            {"expected": {"interleaving_preference": 0.9}, "ties": 0.5},
            "say --ties",
        ),
        (ctr(-0.01), {"share": 1.0}, "share must be between 0 and 1"),
        (ctr(-0.01), {"users_per_day": 0.0}, "users_per_day must be above 0"),
    ],
)
def test_what_must_be_said_first_is_asked_for(rule: Requirement, plan: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        need(rule, **plan)


def test_a_policy_without_online_requirements_needs_no_traffic() -> None:
    with pytest.raises(ConfigurationError, match="no online requirement"):
        policy_power(Policy(requirements=(requirement(),)), Plan(users_per_day=1, share=0.5))


def test_options_are_read_as_metric_and_number() -> None:
    assert named_numbers(["ctr=0.1", "fallback_rate=1e-3"], "--sd") == {"ctr": 0.1, "fallback_rate": 0.001}
    for text in ("ctr", "=1", "ctr=much", "ctr=nan"):
        with pytest.raises(ConfigurationError, match=f"--sd {text}: write it as metric=number"):
            named_numbers([text], "--sd")
    settings = MigrationSettings(pilot_share=0.1, hybrid_share=0.8)
    assert (share_before(settings, "hybrid"), share_before(settings, "full")) == (0.1, 0.8)
