"""The decision framework as data, and the vote over it.

``framework.yaml`` holds the table; this module reads it, refuses one that contradicts itself, and counts votes. It knows neither
files nor measurements: levels in, recommendation out.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from segue.schema import PathName

TABLE: Final = "framework.yaml"


class Strategy(StrEnum):
    """From the most cautious to the least: of equally many votes the earlier one wins."""

    GRADUAL = "gradual_migration"
    FUSION = "partial_fusion"
    REPLACEMENT = "full_replacement"


class Factor(StrEnum):
    """The six factors of the table."""

    MATURITY = "technical_maturity"
    SCALE = "business_scale"
    SKILLS = "skills"
    RISK = "risk_tolerance"
    COST = "cost"
    TIME = "time"


class Level(StrEnum):
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StrategyRow(_Row):
    title: str
    firm: str
    what: str


class LevelRow(_Row):
    votes: Strategy
    because: str


class FactorRow(_Row):
    """``answers``, ``thresholds``, ``ratios`` or ``shares``: how a level is found, one of them a factor."""

    title: str
    question: str | None
    levels: dict[Level, LevelRow]
    answers: dict[str, Level] | None = None
    thresholds: dict[Level, dict[str, float]] | None = None
    ratios: dict[Level, float] | None = None
    shares: dict[Level, float] | None = None


class Veto(_Row):
    strategy: Strategy
    factor: Factor
    level: Level
    because: str


class Firm(_Row):
    levels: dict[Factor, Level]
    advice: Strategy


class PlanRow(_Row):
    pilot_path: PathName
    pilot_share: float = Field(gt=0, lt=1)
    hybrid_path: PathName
    hybrid_share: float = Field(gt=0, lt=1)
    holdback: float = Field(gt=0, lt=1)
    last: Literal["hybrid", "full"]
    automatic: bool


class Assumptions(_Row):
    hours_a_month: float
    machine_utilisation: float = Field(gt=0, le=1)
    peak_to_mean: float = Field(ge=1)
    user_spread: float = Field(ge=0)
    fallback_rate: float = Field(ge=0, le=1)


class Framework(_Row):
    """The whole table. Every strategy, factor and level is there, and each factor can be the one that decides."""

    strategies: dict[Strategy, StrategyRow]
    factors: dict[Factor, FactorRow]
    vetoes: tuple[Veto, ...]
    firms: dict[str, Firm]
    plans: dict[Strategy, PlanRow]
    margins: dict[Level, float]
    assumptions: Assumptions

    @model_validator(mode="after")
    def _whole(self) -> Framework:
        for name, found, wanted in (
            ("strategies", self.strategies, Strategy),
            ("factors", self.factors, Factor),
            ("plans", self.plans, Strategy),
            ("margins", self.margins, Level),
        ):
            if set(found) != set(wanted):
                raise ValueError(f"{name} must be exactly {', '.join(wanted)}")
        for factor, row in self.factors.items():
            if set(row.levels) != set(Level):
                raise ValueError(f"{factor} must have the levels {', '.join(Level)}")
        if any(veto.strategy is Strategy.GRADUAL for veto in self.vetoes):
            raise ValueError(
                "the most cautious strategy cannot be vetoed: something must be left to recommend"
            )
        return self


class Vote(_Row):
    """One factor's vote. ``level`` is null where it could not be found; then it votes for nothing, and ``told`` says why."""

    factor: Factor
    level: Level | None
    votes: Strategy | None
    told: str
    because: str = ""


class Finding(_Row):
    """At which level a factor stands, and the figures or answers that put it there."""

    level: Level | None
    told: str


class Recommendation(_Row):
    """``vetoes``: those that apply; ``tie``: the strategies that had equally many votes, if several."""

    strategy: Strategy
    votes: tuple[Vote, ...]
    counts: dict[Strategy, int]
    vetoes: tuple[Veto, ...]
    tie: tuple[Strategy, ...] = ()

    @property
    def decisive(self) -> tuple[Vote, ...]:
        """The votes for what is recommended."""
        return tuple(vote for vote in self.votes if vote.votes is self.strategy)


@cache
def load_framework() -> Framework:
    """The committed table."""
    text = files("segue.advisor").joinpath(TABLE).read_text(encoding="utf-8")
    return Framework.model_validate(yaml.safe_load(text))


def recommend(findings: Mapping[Factor, Finding], table: Framework) -> Recommendation:
    """Count the votes. Pure: equal levels give an equal recommendation.

    A factor that ``findings`` lacks abstains. Without any vote the most cautious strategy is recommended.
    """
    votes = tuple(_vote(factor, findings.get(factor), table) for factor in Factor)
    levels = {vote.factor: vote.level for vote in votes}
    vetoes = tuple(veto for veto in table.vetoes if levels[veto.factor] is veto.level)
    forbidden = {veto.strategy for veto in vetoes}
    counts = {strategy: sum(vote.votes is strategy for vote in votes) for strategy in Strategy}
    allowed = [strategy for strategy in Strategy if strategy not in forbidden]
    most = max(counts[strategy] for strategy in allowed)
    tied = tuple(strategy for strategy in allowed if counts[strategy] == most)
    return Recommendation(
        strategy=tied[0], votes=votes, counts=counts, vetoes=vetoes, tie=tied if len(tied) > 1 else ()
    )


def _vote(factor: Factor, finding: Finding | None, table: Framework) -> Vote:
    if finding is None or finding.level is None:
        told = "nothing is known of it" if finding is None else finding.told
        return Vote(factor=factor, level=None, votes=None, told=told)
    row = table.factors[factor].levels[finding.level]
    return Vote(factor=factor, level=finding.level, votes=row.votes, told=finding.told, because=row.because)
