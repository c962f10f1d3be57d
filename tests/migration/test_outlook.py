"""What a policy lacks: every unmet requirement once, days from the traffic, and no days where there is none."""

from __future__ import annotations

import pytest

from segue.migration.outlook import Traffic, longest, outlook
from segue.migration.policy import Status, evaluate
from segue.migration.settings import Policy, Requirement
from tests.migration.builders import NOON, online, requirement

CLICKS = requirement(metric="ctr", kind="online", margin=-0.005, minimum_n=1000, guardrail=True)
FALLBACKS = Requirement(
    metric="fallback_rate", kind="online", direction="at_most", margin=0.02, minimum_n=500
)
DAYS = Requirement(metric="duration_days", kind="online", direction="at_least", margin=14.0)
OFFLINE = requirement()
POLICY = Policy(requirements=(CLICKS, FALLBACKS, DAYS, OFFLINE))


def traffic(**changes: object) -> Traffic:
    fields: dict[str, object] = {
        "users_per_day": 2000.0, "share": 0.1, "expected": {"fallback_rate": 0.001}, "sd": {"ctr": 0.1},
    }  # fmt: skip
    return Traffic(**(fields | changes))  # type: ignore[arg-type]


def verdict(estimate: float, low: float, high: float) -> object:
    found = online(estimate=estimate, low=low, high=high)
    return evaluate(CLICKS, [found], NOON, recipe="R1", bundle=None, target="hybrid")


def test_every_open_requirement_is_told_with_users_and_days() -> None:
    lacking = outlook(POLICY, [], traffic())
    assert [one.requirement for one in lacking] == list(POLICY.requirements)
    clicks, fallbacks, days, offline = lacking
    assert clicks.status is Status.MISSING
    assert clicks.entered is not None
    assert clicks.days == -(-clicks.entered // 2000) + 1
    assert fallbacks.users is not None
    assert fallbacks.entered == 10 * fallbacks.users  # a tenth of the users is treated
    assert days.days == 14
    assert (offline.days, offline.entered) == (None, None)
    assert longest(lacking) == max(one.days for one in (clicks, fallbacks, days) if one.days is not None)


def test_users_are_told_without_traffic_but_no_days() -> None:
    clicks, *_ = outlook(POLICY, [], traffic(users_per_day=None))
    assert clicks.entered is not None
    assert clicks.days is None
    assert longest(outlook(POLICY, [], traffic(users_per_day=None))) is None


def test_what_was_measured_goes_before_what_is_assumed() -> None:
    undecided = verdict(0.001, -0.008, 0.01)
    assert undecided.status is Status.UNDERPOWERED  # type: ignore[attr-defined]
    lack = outlook(Policy(requirements=(CLICKS,)), [undecided], traffic())[0]  # type: ignore[list-item]
    needed = undecided.needed_n  # type: ignore[attr-defined]
    assert (lack.users, lack.entered) == (needed, needed - 9000)
    met = verdict(0.004, 0.001, 0.007)
    assert outlook(Policy(requirements=(CLICKS,)), [met], traffic()) == []  # type: ignore[list-item]
    broken = outlook(Policy(requirements=(CLICKS,)), [verdict(-0.02, -0.03, -0.01)], traffic())[0]  # type: ignore[list-item]
    assert "more data alone does not mend it" in broken.says
    assert broken.days is None


def test_what_cannot_be_told_says_why() -> None:
    unknown = outlook(Policy(requirements=(CLICKS,)), [], traffic(sd={}))[0]
    assert "not known before something was measured" in unknown.says
    assert unknown.entered is None
    no_loss = Policy(requirements=(requirement(metric="ctr", kind="online", margin=0.0),))
    assumed = outlook(no_loss, [], traffic())[0]
    assert "truth 0.005" in assumed.says  # equal paths would never be decided
    would_fail = outlook(Policy(requirements=(FALLBACKS,)), [], traffic(expected={"fallback_rate": 0.2}))[0]
    assert "it would fail" in would_fail.says


def test_beyond_reach_is_said_and_not_guessed() -> None:
    fine = Policy(requirements=(requirement(metric="ctr", kind="online", margin=-0.00005),))
    lack = outlook(fine, [], traffic(), reach=5000)[0]
    assert lack.beyond
    assert "more than 5,000 users" in lack.says


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_a_larger_share_needs_fewer_users_to_enter(share: float) -> None:
    own = Policy(requirements=(FALLBACKS,))
    entered = outlook(own, [], traffic(share=share))[0].entered
    more = outlook(own, [], traffic(share=share * 1.5))[0].entered
    assert entered is not None
    assert more is not None
    assert more < entered
