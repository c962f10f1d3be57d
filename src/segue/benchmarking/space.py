"""What a study may try of a model's settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import optuna

from segue.settings import Settings

Chosen = TypeVar("Chosen", bound=Settings)


@dataclass(frozen=True)
class Space:
    """Ranges and choices by the name of the setting; each is widened to hold the value that a study begins with."""

    ranges: Mapping[str, tuple[float, float, bool]] = field(default_factory=dict)  # low, high, logarithmic
    choices: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def point(self, settings: Settings) -> dict[str, Any]:
        """``settings`` as a point of the space."""
        return {name: getattr(settings, name) for name in (*self.ranges, *self.choices)}

    def suggest(self, trial: optuna.trial.BaseTrial, settings: Chosen) -> Chosen:
        """``settings`` with what ``trial`` suggests, in four digits: what is written down is what was used."""
        update: dict[str, Any] = {}
        for name, (low, high, logarithmic) in self.ranges.items():
            now = float(getattr(settings, name))
            value = trial.suggest_float(name, min(low, now), max(high, now), log=logarithmic)
            update[name] = float(f"{value:.4g}")
        for name, values in self.choices.items():
            now = getattr(settings, name)
            update[name] = trial.suggest_categorical(name, [now, *(each for each in values if each != now)])
        return type(settings).model_validate({**settings.model_dump(), **update})

    def settings_of(self, params: Mapping[str, Any], settings: Chosen) -> Chosen:
        """``settings`` as a finished trial of these ``params`` had them."""
        return self.suggest(optuna.trial.FixedTrial(dict(params)), settings)
