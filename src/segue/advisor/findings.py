"""At which level each factor stands: answers and measurements against the table's thresholds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from segue.advisor.answers import Answers
from segue.advisor.capacity import Capacity
from segue.advisor.framework import Factor, Finding, Framework, Level
from segue.advisor.maturity import Check, maturity


def find_levels(
    answers: Answers, checks: Sequence[Check], capacity: Capacity, table: Framework
) -> dict[Factor, Finding]:
    """One finding a factor; a level is null where nothing was measured that it needs."""
    return {
        Factor.MATURITY: maturity(checks, table),
        Factor.SCALE: _by_thresholds(
            table,
            Factor.SCALE,
            {"monthly_users": answers.monthly_users, "requests_per_second": answers.requests_per_second},
            f"{answers.monthly_users:,} users a month, {answers.requests_per_second:g} requests a second at the peak",
        ),
        Factor.SKILLS: _by_answer(table, Factor.SKILLS, answers.skills),
        Factor.RISK: _by_answer(table, Factor.RISK, answers.risk_tolerance),
        Factor.COST: _cost(table, answers, capacity),
        Factor.TIME: _by_thresholds(
            table,
            Factor.TIME,
            {"months": answers.months},
            f"it must have paid off in {answers.months:g} months",
        ),
    }


def _by_thresholds(table: Framework, factor: Factor, values: Mapping[str, float], told: str) -> Finding:
    """The highest level of which one threshold is reached; low where none is."""
    thresholds = table.factors[factor].thresholds
    assert thresholds is not None
    for level in (Level.HIGH, Level.MEDIUM):
        if any(values[name] >= least for name, least in thresholds[level].items()):
            return Finding(level=level, told=told)
    return Finding(level=Level.LOW, told=told)


def _by_answer(table: Framework, factor: Factor, answer: str) -> Finding:
    answers = table.factors[factor].answers
    assert answers is not None
    return Finding(level=answers[answer], told=f"the answer is {answer.replace('_', ' ')}")


def _cost(table: Framework, answers: Answers, capacity: Capacity) -> Finding:
    whole = capacity.replacement_money_a_month
    if whole is None:
        return Finding(
            level=None, told="no serving check or training was measured here, so nothing can be projected"
        )
    ratios = table.factors[Factor.COST].ratios
    assert ratios is not None
    told = (
        f"the budget is {answers.monthly_budget:,.0f} {capacity.currency} a month, full replacement is projected to cost "
        f"{whole:,.2f}"
    )
    if whole <= 0:  # a declared price of nothing
        return Finding(level=Level.HIGH, told=told)
    ratio = answers.monthly_budget / whole
    for level in (Level.HIGH, Level.MEDIUM):
        if ratio >= ratios[level]:
            return Finding(level=level, told=told)
    return Finding(level=Level.LOW, told=told)
