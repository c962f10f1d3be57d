"""The advice, whole: recommendation, maturity, capacity, plan, and what is still wanting."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict

from segue.advisor.answers import Answers
from segue.advisor.capacity import Capacity, project
from segue.advisor.facts import Facts
from segue.advisor.findings import find_levels
from segue.advisor.framework import Framework, Recommendation, load_framework, recommend
from segue.advisor.maturity import Check, maturity_checks
from segue.advisor.plan import DAYS_A_MONTH, REACH, Plan, make_plan

PLAUSIBLE_REQUESTS: Final = 3000.0  # of one user a month: a hundred a day


class Advice(BaseModel):
    """``wanting``: what data or measurements are missing, each with its mend."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recommendation: Recommendation
    headline: str
    answers: Answers
    checks: tuple[Check, ...]
    capacity: Capacity
    plan: Plan
    wanting: tuple[str, ...]


def advise(facts: Facts, answers: Answers, table: Framework | None = None, *, reach: int = REACH) -> Advice:
    """Pure: equal facts and answers give equal advice. ``reach``: users up to whom power is calculated."""
    table = table or load_framework()
    checks = maturity_checks(facts, answers)
    capacity = project(facts, answers, table.assumptions)
    found = recommend(find_levels(answers, checks, capacity, table), table)
    plan = make_plan(found.strategy, answers, facts.settings, table, reach=reach)
    return Advice(
        recommendation=found,
        headline=_headline(found, table),
        answers=answers,
        checks=tuple(checks),
        capacity=capacity,
        plan=plan,
        wanting=(
            *_wanting(checks, facts, answers, capacity.requests_a_month),
            *(f"traffic: {why}." for one in plan.stages if (why := one.out_of_reach) is not None),
            *_against_months(plan, answers.months),
        ),
    )


def _against_months(plan: Plan, months: float) -> list[str]:
    """What is to be said where the plan outlasts the time in which it must pay off: its stages come one after another."""
    days = sum(one.days if one.days is not None else one.least_days or 0 for one in plan.stages)
    if days <= months * DAYS_A_MONTH:
        return []
    return [
        f"months: the plan's evidence takes {days:,} days or more, and within {months:g} months ({months * DAYS_A_MONTH:.0f} "
        "days) it must have paid off. Mend: see what shortens a stage, or allow it more time."
    ]


def _headline(found: Recommendation, table: Framework) -> str:
    row = table.strategies[found.strategy]
    said = f"{row.title}: {found.counts[found.strategy]} of 6 factors speak for it. {row.what}"
    if found.tie:
        others = " and ".join(
            table.strategies[one].title.lower() for one in found.tie if one is not found.strategy
        )
        said += f" As many speak for {others}; of equals the more cautious one is recommended."
    stopped = [veto for veto in found.vetoes if found.counts[veto.strategy] >= found.counts[found.strategy]]
    for strategy in dict.fromkeys(veto.strategy for veto in stopped):
        why = "; ".join(veto.because for veto in stopped if veto.strategy is strategy)
        said += f" {table.strategies[strategy].title} had {found.counts[strategy]} and is ruled out: {why}."
    return said


def _wanting(checks: list[Check], facts: Facts, answers: Answers, requests_a_month: float) -> list[str]:
    found = [f"{check.name}: {check.told}. Mend: {check.mend}." for check in checks if not check.passed]
    if facts.readiness is not None:
        report = facts.readiness
        for metric, one in report["detectable"]["metrics"].items():
            if one["difference"] is not None and one["users_needed"] > report["detectable"]["users"]:
                found.append(
                    f"test users: {report['detectable']['users']:,} resolve a difference of {one['difference']:.3f} in {metric}; "
                    f"{report['detectable']['target_difference']:g} would take {one['users_needed']:,}."
                )
        here = int(report["size"]["items"])
        if answers.items > 2 * here:
            found.append(f"your catalogue: {answers.items:,} items are served, these data hold {here:,}.")
    if (busy := requests_a_month / answers.monthly_users) > PLAUSIBLE_REQUESTS:
        found.append(
            f"requests_per_second or monthly_users: {requests_a_month:,.0f} requests a month of {answers.monthly_users:,} "
            f"users are {busy:,.0f} requests a user. Mend: say the peak of this surface, and everybody who comes in a month."
        )
    if not facts.records:
        found.append("training times: no step that trains was run here, so hours cannot be projected.")
    return found
