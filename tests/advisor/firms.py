"""The three kinds of firm: what each answers, and what was measured at each."""

from __future__ import annotations

from typing import Any

from segue.advisor.answers import Answers
from segue.advisor.facts import Facts
from segue.migration.decide import Target, decide
from segue.migration.settings import Costs, MigrationSettings
from tests.migration.builders import NOON, SETTINGS, bundle, evidence

TRADITIONAL: dict[str, Any] = {
    "monthly_users": 20_000, "items": 2_000, "requests_per_second": 2.0, "skills": "basic", "risk_tolerance": "low",
    "monthly_budget": 20.0, "latency_p99_ms": 50.0, "months": 3,
}  # fmt: skip
MID_SIZE: dict[str, Any] = {
    "monthly_users": 800_000, "items": 40_000, "requests_per_second": 60.0, "skills": "machine_learning",
    "risk_tolerance": "medium", "monthly_budget": 230.0, "latency_p99_ms": 200.0, "months": 9,
}  # fmt: skip
LARGE: dict[str, Any] = {
    "monthly_users": 30_000_000, "items": 3_000_000, "requests_per_second": 5000.0, "skills": "research",
    "risk_tolerance": "high", "monthly_budget": 500_000.0, "latency_p99_ms": 200.0, "months": 18,
}  # fmt: skip


def answers(firm: dict[str, Any], **changes: Any) -> Answers:
    return Answers.model_validate(firm | changes)


def readiness(
    *, possible: bool = True, median: float = 40.0, title: float = 1.0, times: bool = True
) -> dict[str, Any]:
    return {
        "size": {"interactions": 100_000, "items": 2_000},
        "splits": {"leave_one_out": {"possible": possible, "reason": None if possible else "no order"}},
        "sequence_length": {"quantiles": {"0.5": median}, "mean": 50.0},
        "catalogue": {"title": title, "text": 0.0},
        "ties": {"known": times},
        "detectable": {
            "users": 800, "target_difference": 0.005,
            "metrics": {"ndcg@10": {"difference": 0.015, "users_needed": 7000}},
        },
    }  # fmt: skip


def facts(*, served: bool = True, settings: MigrationSettings = SETTINGS, **changes: Any) -> Facts:
    """Everything measured and in order; ``served``: lists and feedback were logged."""
    contender = bundle("b" * 64)
    path = {"errors": 0, "invalid_items": 0, "seen_items": 0, "requests": 200}
    fields: dict[str, Any] = {
        "settings": settings,
        "readiness": readiness(),
        "pilot": decide(
            [evidence(recipe_a=contender.recipe)], settings.pilot, NOON, target=Target.PILOT,
            recipe=contender.recipe, bundle_id=contender.bundle_id,
        ),
        "check": {
            "concurrency": 4,
            "paths": {
                "cascade": path | {"latency_mean_ms": 40.0, "latency_p99_ms": 70.0},
                "generative": path | {"latency_mean_ms": 64.0, "latency_p99_ms": 96.0},
            },
        },
        "records": {
            "refit": {"seconds": 72.0, "throughput": {"tokens_per_second": 7762.0}}, "incumbent_refit": {"seconds": 36.0}
        },
        "exposures": 500 if served else 0,
        "feedback": 100 if served else 0,
    }  # fmt: skip
    return Facts(**(fields | changes))


MONEY = Costs(machine_hour=0.1)
LARGE_FACTS = facts()
MID_FACTS = facts(served=False)
TRADITIONAL_FACTS = facts(
    served=False, readiness=readiness(possible=False, median=3.0, title=0.2, times=False), pilot=None
)
