"""What a truth plants on a list, and which users it loses."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from segue.blending.sources import team_of
from segue.data.splits import stable_uniform
from segue.migration.deployment import Arm
from segue.schema import PathName
from segue.serving.requests import Answer
from segue.simulation.settings import Truth

Floats = npt.NDArray[np.float64]


def factors(truth: Truth, answer: Answer) -> Floats:
    """[K] on the attractiveness of each item of ``answer``.

    The effect lies on what the contender made: on all items of its arm's lists, on its own items of an interleaved list, and
    on nothing where the cascade had to make the list in its place.
    """
    ones = np.ones(len(answer.items))
    path = PathName(answer.path)
    if answer.fallback is not None or path in (PathName.CASCADE, PathName.POPULARITY):
        return ones
    effect = 1.0 + truth.attractiveness
    if path is PathName.INTERLEAVED:
        own = [team_of(item.source) == PathName.GENERATIVE for item in answer.items]
        return np.where(own, effect, 1.0)
    return ones * effect


def is_lost(truth: Truth, seed: int, user_id: str, arm: Arm) -> bool:
    """Whether the user never gets to see their first list: a share of those whom the contender would serve, always the
    same ones."""
    if truth.lost_users == 0.0 or arm.path is PathName.CASCADE:
        return False
    return bool(stable_uniform(seed, [user_id])[0] < truth.lost_users)
