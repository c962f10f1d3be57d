"""What an interval is, and says about itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class Form(StrEnum):
    """Which confidence sequence an interval is a moment of."""

    BETTING = "bounded, betting (Waudby-Smith & Ramdas 2024)"
    EMPIRICAL_BERNSTEIN = "bounded, empirical Bernstein (Waudby-Smith & Ramdas 2024)"
    ASYMPTOTIC = "asymptotic (Waudby-Smith et al. 2024)"
    ASYMPTOTIC_CUPED = "asymptotic (Waudby-Smith et al. 2024), CUPED (Deng et al. 2013)"
    MULTINOMIAL = "multinomial (Lindon & Malek 2022)"
    COUNTED = "counted so far, can only grow"
    EXACT = "read off, not estimated"


@dataclass(frozen=True, slots=True)
class ConfidenceSequence:
    """A confidence sequence at the moment of a look: it covers the truth at *every* look with ``confidence``.

    Estimate and bounds are NaN where they are not defined yet; ``note`` then says why. ``n`` counts users, ``sd`` is
    the standard deviation of one user's value, where the form has one (of a difference: such that its standard
    error is ``sd / sqrt(n)``).
    """

    form: Form
    estimate: float
    low: float
    high: float
    confidence: float
    n: int
    sd: float = math.nan
    note: str = ""

    @property
    def protocol(self) -> str:
        """The words that evidence carries."""
        told = f"confidence sequence over users: {self.form.value}"
        return f"{told}; {self.note}" if self.note else told
