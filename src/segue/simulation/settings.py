"""``simulation.yaml``: who the simulated users are, what can be planted, and what a simulation's policies ask for."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from pydantic import Field, ValidationError

from segue.errors import ConfigurationError
from segue.settings import Settings
from segue.yaml_files import read_yaml

SETTINGS_FILE: Final = "simulation.yaml"


class TruthName(StrEnum):
    """What is planted."""

    BETTER = "better"
    EQUAL = "equal"
    WORSE = "worse"
    SLOWER = "slower"
    SKEWED = "skewed"


class Truth(Settings):
    """What the contender's arm does that the control's does not.

    ``attractiveness``: relative change of how attractive the contender's items are (0.3: a click is 1.3 times as
    likely). ``delay_ms``: what its path takes longer. ``lost_users``: share of its users who are lost before their first
    list, as by a redirect that fails. ``expect``: the stage at which the simulation should end, or ``rollback``.
    ``guardrail``: the metric of the guardrail that a rollback should answer; null: any. ``users``: how many come at most, where
    not as many as for the others.
    """

    attractiveness: float = Field(0.0, gt=-1.0, allow_inf_nan=False)
    delay_ms: float = Field(0.0, ge=0.0, allow_inf_nan=False)
    lost_users: float = Field(0.0, ge=0.0, lt=1.0)
    expect: str
    guardrail: str | None = None
    users: int | None = Field(None, ge=1)


class Population(Settings):
    """Who comes, how often, and how readily they click.

    ``visits_mean``: lists a user asks for beyond the first, Lomax over users with ``visits_tail`` (at 2.5 the variance is
    finite, the third moment is not). ``appeal``: mean base attractiveness of an item, Beta over users with
    ``appeal_concentration``. ``examination_decay``: the click model's exponent. ``list_length``: items a list.
    ``arrivals_per_second``: new users, as long as the service keeps up. ``visit_gap_seconds``, ``feedback_delay_seconds``:
    means of exponential waits. ``unreported``: share of the clicks that never arrive.
    """

    visits_mean: float = Field(2.0, gt=0)
    visits_tail: float = Field(2.5, gt=1)
    visits_most: int = Field(40, ge=1)
    appeal: float = Field(0.25, gt=0, lt=1)
    appeal_concentration: float = Field(20.0, gt=0)
    examination_decay: float = Field(1.0, ge=0)
    list_length: int = Field(10, ge=1)
    history_length: int = Field(30, ge=1)
    arrivals_per_second: float = Field(100.0, gt=0)
    visit_gap_seconds: float = Field(0.5, gt=0)
    feedback_delay_seconds: float = Field(0.5, ge=0)
    unreported: float = Field(0.05, ge=0, lt=1)


class SimulationSettings(Settings):
    """``users``: how many come at most; ``batch``: requests a call at most; ``call_seconds``: what a call should take, so that a
    slow machine gets smaller ones and reports are not held up; ``look_every_seconds``: how often the gates look;
    ``poll_seconds``: the service its deployment; ``overrides``: of ``params.yaml`` and the profile, in the same keys."""

    users: int = Field(4000, ge=1)
    batch: int = Field(128, ge=1, le=256)
    call_seconds: float = Field(0.25, gt=0)
    look_every_seconds: float = Field(1.0, gt=0)
    poll_seconds: float = Field(0.1, gt=0)
    population: Population = Population()
    truths: dict[TruthName, Truth]
    overrides: dict[str, Any] = Field(default_factory=dict)


def load_settings(path: Path) -> SimulationSettings:
    """Raises ConfigurationError naming the file and the key that is missing, unknown or wrong."""
    value = read_yaml(
        path,
        absent="it declares what simulations plant and what their policies ask for; restore it from the repository",
    )
    try:
        settings = SimulationSettings.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "file"
        raise ConfigurationError(f"{path}: {where}: {first['msg']}") from error
    if missing := [name.value for name in TruthName if name not in settings.truths]:
        raise ConfigurationError(f"{path}: truths lacks {missing[0]!r}")
    return settings
