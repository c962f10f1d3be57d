"""Settings of policies and experiments."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from segue.blending.weights import checked_weights
from segue.errors import ConfigurationError
from segue.schema import PathName
from segue.settings import Settings


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


class MigrationSettings(Settings):
    """Policies by what they admit, and how much of the traffic each stage's treatment arm takes."""

    automatic: bool = True  # false: a PROMOTE waits until somebody moves the alias in MLflow
    shadow: Policy = Policy()
    pilot: Policy = Policy()
    hybrid: Policy = Policy()
    full: Policy = Policy()
    refresh_data: Policy = Policy()
    refresh_retrain: Policy = Policy()
    refresh_recipe: Policy = Policy()
    canary_incumbent: Policy = Policy()
    costs: Costs = Costs()
    shadow_rate: float = Field(0.01, ge=0, le=1)
    pilot_share: float = Field(0.05, gt=0, lt=1)
    pilot_path: PathName = PathName.GENERATIVE
    hybrid_share: float = Field(0.9, gt=0, lt=1)
    hybrid_path: PathName = PathName.BLENDED
    full_share: float = Field(0.95, gt=0, lt=1)
    blend: dict[str, float] | None = None
    scenario: str | None = None  # a declared segment of requests; null: everybody
    salt: str = "segue"

    @field_validator("blend")
    @classmethod
    def _weights(cls, blend: dict[str, float] | None) -> dict[str, float] | None:
        try:
            checked_weights(blend)
        except ConfigurationError as error:
            raise ValueError(str(error)) from error
        return blend
