"""Faults injected on purpose, for drills and simulations: ``SEGUE_INJECT_DELAY_MS=generative=300`` delays a path.

Whoever guards a migration wants to have seen the guard act. Paths that are made of a delayed one are late with it. A server
that injects something says so in ``/health``, whose status is then ``degraded``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from segue.errors import ConfigurationError
from segue.schema import PathName

DELAY_VARIABLE: Final = "SEGUE_INJECT_DELAY_MS"


def injected_delays(environment: Mapping[str, str]) -> dict[PathName, float]:
    """Milliseconds by path, as ``SEGUE_INJECT_DELAY_MS`` says (``generative=300,cascade=20``); empty where it is not set.

    Raises ConfigurationError naming the variable and what is wrong with it.
    """
    found = {}
    for part in filter(None, environment.get(DELAY_VARIABLE, "").split(",")):
        name, _, text = part.strip().partition("=")
        try:
            path, milliseconds = PathName(name), float(text)
        except ValueError as error:
            raise ConfigurationError(
                f"{DELAY_VARIABLE} holds {part!r}: write path=milliseconds, such as generative=300"
            ) from error
        if not (math.isfinite(milliseconds) and milliseconds >= 0):
            raise ConfigurationError(f"{DELAY_VARIABLE} holds {part!r}: no path takes that much longer")
        found[path] = milliseconds
    return found
