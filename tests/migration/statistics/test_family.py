from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.migration.settings import Policy
from segue.migration.statistics.asymptotic import p_values, tuned_rho
from segue.migration.statistics.family import bonferroni, confidence_of, holm
from tests.migration.builders import requirement


@given(p=st.lists(st.floats(0, 0.2), min_size=1, max_size=6), alpha=st.sampled_from([0.05, 0.1]))
@settings(max_examples=100, deadline=None)
def test_holm_is_the_closed_test_of_bonferroni(p: list[float], alpha: float) -> None:
    """Rejected is what every intersection with it rejects, each by Bonferroni (Marcus, Peritz & Gabriel 1976)."""
    members = range(len(p))
    subsets = [chosen for size in range(1, len(p) + 1) for chosen in combinations(members, size)]
    expected = [
        all(min(p[j] for j in chosen) <= alpha / len(chosen) for chosen in subsets if i in chosen)
        for i in members
    ]
    assert holm(p, alpha).tolist() == expected


def test_guardrails_share_their_error_and_nothing_else_does() -> None:
    guard = {"kind": "online", "guardrail": True}
    policy = Policy(
        requirements=(
            requirement(metric="ctr", **guard),
            requirement(metric="fallback_rate", against=None, direction="at_most", **guard),
            requirement(metric="interleaving_preference", kind="online", against=None),
        )
    )
    assert [confidence_of(one, policy) for one in policy.requirements] == [
        pytest.approx(0.975), pytest.approx(0.975), 0.95
    ]  # fmt: skip
    assert bonferroni(0.95, 5) == pytest.approx(0.99)
    with pytest.raises(ValueError, match="one member"):
        bonferroni(0.95, 0)


def test_holm_on_running_p_values_keeps_the_family_wise_rate_under_optional_stopping() -> None:
    """Four dependent streams without any effect, stopped whenever the smallest p-value looks best."""
    random = np.random.default_rng(0)
    common = random.standard_normal((400, 1, 2000))
    steps = 0.6 * common + 0.8 * random.standard_normal((400, 4, 2000))
    n = np.arange(1.0, 2001)
    z = np.cumsum(steps, axis=2) / np.sqrt(n)
    p = p_values(z, n, rho=tuned_rho(1000, 0.95)).min(axis=2)
    assert np.mean([holm(one, 0.05).any() for one in p]) <= 0.05
