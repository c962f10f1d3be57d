"""The advice on a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from segue.advisor.advice import Advice
from segue.advisor.framework import Framework

WIDTH = 100


def as_text(advice: Advice, table: Framework) -> str:
    """What is recommended, why, what it takes, the plan, what is wanting, and everything that was assumed."""
    return "\n".join(
        [
            *_wrapped(advice.headline),
            "",
            *_votes(advice, table),
            "",
            *_capacity(advice),
            "",
            *_plan(advice),
            "",
            "Still wanting:",
            *(line for text in advice.wanting or ("nothing",) for line in _wrapped(text, "  - ")),
            "",
            "Assumed:",
            *(
                line
                for text in (*advice.capacity.assumptions, *advice.plan.assumptions)
                for line in _wrapped(text, "  - ")
            ),
        ]
    )


def _votes(advice: Advice, table: Framework) -> Iterator[str]:
    for vote in advice.recommendation.votes:
        title = table.factors[vote.factor].title
        voted = "abstains" if vote.votes is None else table.strategies[vote.votes].title.lower()
        yield f"{title:19} {vote.level or '-':7} {voted}"
        yield from _wrapped(vote.told + (f": {vote.because}" if vote.because else ""), " " * 28)
    for veto in advice.recommendation.vetoes:
        yield from _wrapped(
            f"ruled out: {table.strategies[veto.strategy].title.lower()}, because {veto.because}", ""
        )


def _capacity(advice: Advice) -> Iterator[str]:
    capacity = advice.capacity
    yield f"At {capacity.requests_a_month:,.0f} requests a month:"
    if not capacity.serving:
        yield "  serving: not measured here, so not projected"
    for one in capacity.serving:
        yield (
            f"  serving, {one.path.replace('_', ' ')}: {one.machines:,} machines for the peak "
            f"({one.requests_per_second:.0f} requests a second each, measured), "
            f"{one.money_a_month:,.2f} {capacity.currency} a month"
        )
    if not capacity.training:
        yield "  training: not measured here, so not projected"
    for hours in capacity.training:
        yield (
            f"  training, {hours.step.replace('_', ' ')}: {hours.hours:,.2f} machine-hours "
            f"({hours.measured_hours:.3f} here{_taken_over(hours.taken_over)}, times {hours.scale:,.3g})"
        )
    if capacity.replacement_money_a_month is not None:
        money = f"{capacity.replacement_money_a_month:,.2f} {capacity.currency} a month"
        yield f"  generation for everybody, retrains included: {money}"


def _plan(advice: Advice) -> Iterator[str]:
    yield "The plan:"
    for number, one in enumerate(advice.plan.stages, start=1):
        takes = "" if one.days is None else f", decided in about {one.days:,} days"
        if one.out_of_reach is not None:
            takes += ": not feasible" + (
                "" if one.days is not None else f" ({one.least_days:,} days or more)"
            )
        yield f"  {number}. {one.stage.value}: {one.path.replace('_', ' ')} for {one.share:.0%} of the users{takes}"
        for text in one.told:
            yield from _wrapped(text, "       ")


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=" " * len(indent))


def _taken_over(step: str | None) -> str:
    return "" if step is None else f", weights taken over from {step}"
