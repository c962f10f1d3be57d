"""Several guardrails, one error rate.

A guardrail that is broken by mistake rolls back a sound release, so the chance that *any* of k sound guardrails is ever
declared broken is to stay below alpha. Intervals use **Bonferroni**: each guardrail's confidence sequence has confidence
1 - alpha / k. With probability 1 - alpha all of them cover at all times at once (Boole's inequality on k events, each
"ever misses"), so stopping rules, dependence and the order of looks do not matter. Decisions from p-values may use
**Holm**, which rejects more: its proof asks of each p-value only P(p <= u) <= u at the moment of use, which an
anytime-valid p-value has at every stopping time (Howard, Ramdas, McAuliffe & Sekhon 2021, lemma 3). Used on the running
minimum, what was rejected once stays rejected.

Promotion needs no correction: *all* requirements must be met, and a false promotion needs one that is false to be met
(intersection-union test, Berger 1982), whose own level is alpha.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from segue.migration.settings import Policy, Requirement
from segue.migration.statistics.interval import Floats


def bonferroni(confidence: float, members: int) -> float:
    """The confidence of each of ``members`` sequences that together have ``confidence``."""
    if members < 1:
        raise ValueError(f"a family has one member at least, not {members}")
    return 1.0 - (1.0 - confidence) / members


def confidence_of(requirement: Requirement, policy: Policy, confidence: float = 0.95) -> float:
    """At which confidence the evidence for one requirement of ``policy`` is to be given.

    Guardrails share alpha among themselves, everything else has its own.
    """
    if not requirement.guardrail:
        return confidence
    return bonferroni(confidence, max(1, sum(other.guardrail for other in policy.requirements)))


def holm(p_values: Floats | Sequence[float], alpha: float) -> npt.NDArray[np.bool_]:
    """Which of ``p_values [k]`` are rejected at family-wise ``alpha`` (Holm 1979): in ascending order, the i-th
    (from 0) while it is at most alpha / (k - i)."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    passed = p[order] <= alpha / (len(p) - np.arange(len(p)))
    rejected = np.zeros(len(p), dtype=bool)
    rejected[order] = np.logical_and.accumulate(passed)
    return rejected
