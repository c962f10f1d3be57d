"""What a policy still lacks, and how many users and days that takes at a given traffic.

Where evidence exists, its own verdict says how many users would resolve it. Where none exists yet, the power calculation
(:mod:`segue.migration.power`) draws the very sequences that the gate will use. Users are what is computed; days follow
from the traffic, and are left out where no traffic of at least a day was seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from segue.errors import ConfigurationError
from segue.migration.policy import Status, Verdict
from segue.migration.power import Plan, requirement_power
from segue.migration.settings import Policy, Requirement
from segue.migration.statistics.family import confidence_of
from segue.schema import PathName

REACH: Final = 200_000  # users up to whom sequences are drawn; more is told as "more than"
ASSUMED_GAIN: Final = 0.005  # where a policy tolerates no loss: a true gain that is assumed, and told
_DAYS_OF_REACH: Final = 365


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """``users_per_day``: who come for the first time, in all arms; null: less than a day was seen. ``share``, ``compared``,
    ``interleaved``, ``expected``, ``sd``, ``ties`` and ``lag_days`` are those of :class:`segue.migration.power.Plan`."""

    users_per_day: float | None
    share: float
    compared: float = 1.0
    interleaved: float | None = None
    expected: Mapping[str, float] = field(default_factory=dict)
    sd: Mapping[str, float] = field(default_factory=dict)
    ties: float = 0.6
    lag_days: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lack:
    """One requirement that is not met yet.

    ``users``: the evidence's n that it takes; ``entered``: who must come for that, from now on; ``days``: how long that is.
    Null: not known, for the reason in ``says``. ``beyond``: it takes more users than :data:`REACH`.
    """

    requirement: Requirement
    status: Status
    says: str
    users: int | None = None
    entered: int | None = None
    days: int | None = None
    beyond: bool = False


def outlook(
    policy: Policy, verdicts: Sequence[Verdict], traffic: Traffic, *, reach: int = REACH
) -> list[Lack]:
    """A :class:`Lack` for every requirement of ``policy`` that ``verdicts`` does not find met, in the policy's order.

    A requirement without a verdict counts as missing.
    """
    known = {verdict.requirement: verdict for verdict in verdicts}
    lacking = []
    for requirement in policy.requirements:
        verdict = known.get(requirement)
        if verdict is None:
            verdict = Verdict(
                requirement=requirement, status=Status.MISSING, reason="nothing was measured yet"
            )
        if verdict.status is not Status.MET:
            lacking.append(_lack(verdict, policy, traffic, reach))
    return lacking


def longest(lacking: Iterable[Lack]) -> int | None:
    """Days until the last of them is decided; null where one of them cannot be told."""
    days = [lack.days for lack in lacking if lack.requirement.kind == "online"]
    known = [one for one in days if one is not None]
    return max(known, default=None) if len(known) == len(days) else None


def _lack(verdict: Verdict, policy: Policy, traffic: Traffic, reach: int) -> Lack:
    requirement = verdict.requirement
    if requirement.kind != "online":
        return _offline(verdict)
    if verdict.status is Status.FAILED:
        return _told(verdict, "it is broken: more data alone does not mend it")
    if verdict.status in (Status.STALE, Status.NOT_VALID):
        return _told(verdict, "it must be measured again")
    if requirement.metric == "duration_days":
        had = verdict.estimate or 0.0
        left = max(1, math.ceil(requirement.margin - had))
        return Lack(
            requirement=requirement, status=verdict.status, days=left,
            says=f"{had:.0f} of {requirement.margin:g} days have passed",
        )  # fmt: skip
    if verdict.needed_n is not None and verdict.n is not None:
        further = max(0, verdict.needed_n - verdict.n)
        entered = math.ceil(further / _counted(requirement, traffic))
        return Lack(
            requirement=requirement, status=verdict.status, users=verdict.needed_n, entered=entered,
            days=_days(entered, traffic), says="if what was measured so far holds",
        )  # fmt: skip
    return _drawn(verdict, policy, traffic, reach)


def _offline(verdict: Verdict) -> Lack:
    if verdict.status is Status.UNDERPOWERED and verdict.needed_n is not None:
        says = "a larger test set decides it, not live traffic"
    elif verdict.status is Status.FAILED:
        says = "a better model, or a wider margin, not more traffic"
    else:
        says = "the graph measures it: run it again"
    return Lack(requirement=verdict.requirement, status=verdict.status, users=verdict.needed_n, says=says)


def _told(verdict: Verdict, says: str) -> Lack:
    return Lack(requirement=verdict.requirement, status=verdict.status, says=says)


def _drawn(verdict: Verdict, policy: Policy, traffic: Traffic, reach: int) -> Lack:
    requirement = verdict.requirement
    expected = dict(traffic.expected)
    if requirement.against is not None and requirement.margin == expected.get(requirement.metric, 0.0):
        # Equal paths would leave the interval around the margin for ever.
        gain = ASSUMED_GAIN if requirement.direction == "at_least" else -ASSUMED_GAIN
        expected[requirement.metric] = requirement.margin + gain
    plan = Plan(
        users_per_day=reach / _DAYS_OF_REACH, share=traffic.share, compared=traffic.compared,
        interleaved=traffic.interleaved, expected=expected, sd=traffic.sd,
        ties=traffic.ties, lag_days=traffic.lag_days, max_days=math.ceil(_DAYS_OF_REACH + traffic.lag_days),
    )  # fmt: skip
    try:
        need = requirement_power(requirement, plan, confidence_of(requirement, policy))
    except ConfigurationError as error:  # what is not known yet is told as such, it stops no page
        return _told(
            verdict, f"not known before something was measured: {str(error).partition(': ')[2] or error}"
        )
    if need.outcome == "failed":
        return _told(verdict, f"assumed: {need.assumes}; it would fail")
    if need.entered is None:
        return Lack(
            requirement=requirement, status=verdict.status, beyond=True,
            says=f"assumed: {need.assumes}; more than {reach:,} users",
        )  # fmt: skip
    return Lack(
        requirement=requirement,
        status=verdict.status,
        users=need.users,
        entered=need.entered,
        days=_days(need.entered, traffic),
        says=f"assumed: {need.assumes}; {plan.power:.0%} of such experiments are decided by then",
    )


def _counted(requirement: Requirement, traffic: Traffic) -> float:
    """The share of all users who count in the requirement's n."""
    if requirement.metric == "sample_ratio_deviation":
        return 1.0
    if requirement.metric == "interleaving_preference" and traffic.interleaved is not None:
        return traffic.interleaved
    if requirement.against is not None:
        return traffic.compared
    return traffic.compared * (1.0 - traffic.share if requirement.path == PathName.CASCADE else traffic.share)


def _days(entered: int, traffic: Traffic) -> int | None:
    if traffic.users_per_day is None or traffic.users_per_day <= 0:
        return None
    return math.ceil(entered / traffic.users_per_day + traffic.lag_days)
