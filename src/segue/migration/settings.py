"""Settings of policies and experiments."""

from __future__ import annotations

from typing import Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from segue.blending.weights import checked_weights
from segue.errors import ConfigurationError
from segue.schema import PathName
from segue.settings import Settings

LEAST_SHARE: Final = 1e-6  # of an arm that there must be: shares are written with nine digits


class Requirement(Settings):
    """One thing that evidence must show.

    ``direction`` ``at_least``: the interval's low end must reach ``margin`` (of a difference: -0.01 tolerates
    a loss of one point); ``at_most``: its high end must not exceed it. ``against`` set: the evidence is the
    paired difference *path minus against*; null: it is the path's own value. A ``guardrail`` that online
    evidence shows to be broken asks for ROLLBACK, everything else that is not met for HOLD.
    """

    metric: str
    kind: Literal["offline", "serving", "online"]
    direction: Literal["at_least", "at_most"]
    margin: float = Field(allow_inf_nan=False)
    slice: str = "all"
    path: str = "generative"
    against: str | None = None
    minimum_n: int = Field(1, ge=1)
    maximum_age_days: float | None = Field(None, allow_inf_nan=False)
    guardrail: bool = False


class Costs(Settings):
    """What a machine costs. A declared price, never a measured one: pages that show money say so."""

    machine_hour: float = Field(0.10, ge=0, allow_inf_nan=False)  # of a machine like the serving check's
    currency: str = Field("USD", min_length=1)


class Policy(Settings):
    """What evidence must show before a stage is entered: every requirement, each by its interval."""

    requirements: tuple[Requirement, ...] = ()


class OnlineSettings(Settings):
    """When a user of an experiment counts: once, when their window has closed (docs/statistics.md).

    ``window_seconds``: what they are shown and do from their first list on; ``late_seconds`` after that for
    feedback to arrive. What needs no feedback (fallbacks, latency, what the lists hold) has its own, shorter
    ``serving_window_seconds``, so that a guardrail need not wait a day. 0: the first list alone.

    The click-through rate of what serves is held, one ``performance_period_days`` after the other, against that of the
    first; a loss that surely exceeds ``performance_tolerance`` (a share of it) asks for a retrain.
    """

    window_seconds: float = Field(86_400.0, ge=0, allow_inf_nan=False)
    late_seconds: float = Field(3_600.0, ge=0, allow_inf_nan=False)
    serving_window_seconds: float = Field(600.0, ge=0, allow_inf_nan=False)
    performance_period_days: float = Field(7.0, gt=0, allow_inf_nan=False)
    performance_tolerance: float = Field(0.05, ge=0, lt=1)


class MigrationSettings(Settings):
    """Policies by what they admit, and which share of the users each arm gets (docs/adr/0013).

    ``pilot_share`` (also a canary's), ``hybrid_share`` and ``interleaved_share`` are of the users who are not held back;
    ``holdback_share`` is of all users. What is left is the control.
    """

    automatic: bool = True  # false: a PROMOTE waits until somebody moves the alias in MLflow
    # second_person: what goes forward waits as a proposal until somebody other than its proposer approves of it
    approval: Literal["none", "second_person"] = "none"
    shadow: Policy = Policy()
    pilot: Policy = Policy()
    hybrid: Policy = Policy()
    full: Policy = Policy()
    refresh_data: Policy = Policy()
    refresh_retrain: Policy = Policy()
    refresh_recipe: Policy = Policy()
    canary_incumbent: Policy = Policy()  # its online requirements guard the canary, they do not admit it
    costs: Costs = Costs()
    online: OnlineSettings = OnlineSettings()
    shadow_rate: float = Field(0.01, ge=0, le=1)
    pilot_share: float = Field(0.05, ge=LEAST_SHARE, lt=1)
    pilot_path: PathName = PathName.GENERATIVE
    hybrid_share: float = Field(0.9, ge=LEAST_SHARE, lt=1)
    hybrid_path: PathName = PathName.BLENDED  # stage full serves what was measured then (docs/adr/0016)
    interleaved_share: float = Field(0.05, ge=0, lt=1)  # 0: no such arm
    holdback_share: float = Field(0.05, ge=0, lt=0.5)  # on the cascade at every stage; 0: nobody
    blend: dict[str, float] | None = None
    # Declared segments of requests: the values that `scenario` may have in a request's context.
    scenarios: tuple[str, ...] = ()
    scenario: str | None = None  # the one that a pilot is confined to; null: every request
    salt: str = "segue"

    @field_validator("blend")
    @classmethod
    def _weights(cls, blend: dict[str, float] | None) -> dict[str, float] | None:
        try:
            checked_weights(blend)
        except ConfigurationError as error:
            raise ValueError(str(error)) from error
        return blend

    @model_validator(mode="after")
    def _routable(self) -> Self:
        for name in ("pilot_share", "hybrid_share"):
            if (taken := getattr(self, name) + self.interleaved_share) > 1 - LEAST_SHARE:
                raise ValueError(
                    f"{name} and interleaved_share take {taken:g} of the users and leave no control: "
                    "together they must stay below 1"
                )
        if self.scenario is not None and self.scenario not in self.scenarios:
            declared = ", ".join(self.scenarios) or "none"
            raise ValueError(
                f"scenario {self.scenario!r} is not declared (declared: {declared}): add it to scenarios"
            )
        return self
