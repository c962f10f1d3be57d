"""The weights of a blend: what ``deployment.blend`` holds, frozen for as long as its deployment serves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from segue.errors import ConfigurationError
from segue.schema import PathName

PARTS: Final = (PathName.CASCADE, PathName.GENERATIVE)


def checked_weights(blend: Mapping[str, float] | None) -> dict[PathName, float]:
    """Each part's weight, adding up to 1. None: one half each. A part that is not named has none.

    Raises ConfigurationError for another name, a weight that is negative or no number, and for weights that are all 0.
    """
    if blend is None:
        return dict.fromkeys(PARTS, 1 / len(PARTS))
    names = " and ".join(PARTS)
    if unknown := sorted(set(blend) - set(PARTS)):
        raise ConfigurationError(f"blend.{unknown[0]}: a blend has weights of {names} alone")
    for name, weight in blend.items():
        if not math.isfinite(weight) or weight < 0:
            raise ConfigurationError(f"blend.{name} is {weight}: a weight is a number of at least 0")
    total = math.fsum(blend.values())
    if total <= 0:
        raise ConfigurationError(f"blend: no part has a weight; give {names} numbers, one of them above 0")
    return {part: blend.get(part, 0.0) / total for part in PARTS}
