"""The position-based click model: P(click on an item at a rank) = examination(rank) · attractiveness(user, item).

The examination hypothesis (Richardson, Dominowska & Ragno 2007; Craswell, Zoeter, Taylor & Ramsey 2008, "An experimental
comparison of click position-bias models", WSDM, section 3: the hypothesis in its product form); examination falls as
``rank ** -decay``, the propensities that Joachims, Swaminathan & Schnabel 2017 ("Unbiased learning-to-rank with biased
feedback", WSDM, section 6.1) plant in their simulations.

Attractiveness is ``min(1, 2 · appeal · draw · factor)``. ``appeal`` is the user's base rate, ``factor`` the planted effect.
``draw`` is uniform in (0, 1) and belongs to the pair of user and item for ever: it is their hash, which no path can know
or learn. So, before anything is planted, lists of any two paths are equally attractive in expectation, and the difference
between two arms is exactly what was planted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from segue.data.splits import stable_uniform

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PositionBasedModel:
    """``seed`` names the users' preferences and their luck; ``decay`` is the exponent of the examination."""

    seed: int
    decay: float = 1.0

    def attractiveness(self, user_id: str, appeal: float, item_ids: Sequence[str], factor: Floats) -> Floats:
        """[K] of one user to each item; ``factor`` [K] is what is planted on each."""
        draws = stable_uniform(self.seed, [f"{user_id}\x00{item}" for item in item_ids])
        return np.minimum(1.0, 2.0 * appeal * draws * factor)

    def clicks(
        self, user_id: str, visit: int, appeal: float, item_ids: Sequence[str], factor: Floats
    ) -> npt.NDArray[np.bool_]:
        """[K] which items the user clicks at a visit. The same user at the same visit has the same luck whatever else
        differs, so that two truths of one seed differ by what was planted alone."""
        luck = stable_uniform(
            self.seed + 1, [f"{user_id}\x00{visit}\x00{rank}" for rank in range(len(item_ids))]
        )
        chance = examination(len(item_ids), self.decay) * self.attractiveness(
            user_id, appeal, item_ids, factor
        )
        return np.asarray(luck < chance)

    def expected_clicks(self, appeal: float, factor: Floats) -> float:
        """Of one list of ``len(factor)`` items, over all preferences: the closed form of :meth:`clicks`.

        With c = 2 · appeal · factor and a uniform draw, E min(1, c · draw) is c / 2 up to c = 1, and 1 - 1 / (2 c) beyond.
        """
        c = np.maximum(2.0 * appeal * factor, 1e-300)
        mean = np.where(c <= 1.0, c / 2.0, 1.0 - 1.0 / (2.0 * c))
        return float(np.sum(examination(len(factor), self.decay) * mean))


@lru_cache(maxsize=64)
def examination(length: int, decay: float) -> Floats:
    """[K] the probability that each rank is looked at; the first one always is."""
    found: Floats = np.arange(1, length + 1, dtype=np.float64) ** -decay
    found.flags.writeable = False
    return found
