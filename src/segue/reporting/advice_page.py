"""``reports/<dataset>/advice.html``: which way to migrate, the votes behind it, what it takes, and the plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from segue.advisor.advice import Advice
from segue.advisor.framework import Framework, Strategy
from segue.advisor.plan import as_yaml
from segue.reporting.plain import PATHS, days_in_words
from segue.reporting.render import count, number, words, write_page

PAGE: Final = "advice.html"
_COLOURS: Final = {Strategy.GRADUAL: "c1", Strategy.FUSION: "c2", Strategy.REPLACEMENT: "c0"}


def write_advice_page(reports: Path, advice: Advice, table: Framework, *, dataset: str, title: str) -> Path:
    """Render the page. Equal advice gives equal bytes. Returns its path."""
    found, capacity = advice.recommendation, advice.capacity
    return write_page(
        reports / PAGE,
        "advice.html.j2",
        dataset=dataset,
        title=title,
        chosen=table.strategies[found.strategy].title,
        headline=advice.headline,
        counts=[
            {
                "title": table.strategies[one].title,
                "firm": table.strategies[one].firm,
                "votes": found.counts[one],
                "width": f"{100 * found.counts[one] / len(found.votes):.1f}",
                "colour": _COLOURS[one],
                "chosen": one is found.strategy,
                "ruled_out": [veto.because for veto in found.vetoes if veto.strategy is one],
            }
            for one in Strategy
        ],
        votes=[
            {
                "title": table.factors[vote.factor].title,
                "level": vote.level.value if vote.level is not None else "not known",
                "strategy": "abstains" if vote.votes is None else table.strategies[vote.votes].title,
                "chosen": vote.votes is found.strategy,
                "told": vote.told,
                "because": vote.because,
            }
            for vote in found.votes
        ],
        checks=advice.checks,
        answers=[(words(name), _answer(value)) for name, value in advice.answers.model_dump().items()],
        capacity=capacity,
        requests=count(capacity.requests_a_month),
        serving=[
            {
                "path": PATHS.get(one.path, words(one.path)),
                "rate": number(one.requests_per_second, 0),
                "machines": count(one.machines),
                "money": f"{one.money_a_month:,.2f}",
            }
            for one in capacity.serving
        ],
        training=[
            {
                "step": words(one.step)
                + ("" if one.taken_over is None else f" (weights taken over from {words(one.taken_over)})"),
                "hours": number(one.hours, 2),
                "here": number(one.measured_hours, 3),
                "scale": f"{one.scale:,.3g}",
            }
            for one in capacity.training
        ],
        stages=[
            {
                "name": one.stage.value,
                "path": PATHS.get(one.path, words(one.path)),
                "share": f"{one.share:.0%}",
                "takes": ("" if one.days is None else days_in_words(one.days))
                + ("" if one.out_of_reach is None else " (not feasible: over a year)"),
                "entered": "" if one.entered is None else count(one.entered),
                "told": one.told,
            }
            for one in advice.plan.stages
        ],
        wanting=advice.wanting,
        assumptions=[*capacity.assumptions, *advice.plan.assumptions],
        plan=as_yaml(advice.plan, {}),
    )


def _answer(value: Any) -> str:
    if isinstance(value, int):
        return count(value)
    return f"{value:,.4g}" if isinstance(value, float) else words(str(value))
