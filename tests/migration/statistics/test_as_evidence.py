from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from segue.migration.policy import Status, evaluate
from segue.migration.statistics import sequences
from segue.migration.statistics.as_evidence import off_policy_evidence, online_evidence
from segue.migration.statistics.interleaving import interleaving_preference
from segue.migration.statistics.interval import ConfidenceSequence
from segue.migration.statistics.moments import UserMoments
from segue.migration.statistics.off_policy import Estimator, LoggedDecisions, estimate
from segue.migration.statistics.sample_ratio import sample_ratio_deviation
from tests.migration.builders import NOON, requirement

WHERE: dict[str, Any] = {"recipe_a": "R1", "dataset": "toy", "snapshot": "s", "code_version": "c"}


def status(sequence: ConfidenceSequence, metric: str, path_b: str | None = None, **rule: Any) -> Status:
    item = online_evidence(
        sequence, metric=metric, path_a="generative", path_b=path_b, measured_at=NOON, **WHERE
    )
    asked = requirement(metric=metric, kind="online", against=path_b, maximum_age_days=7.0, **rule)
    item = item.model_copy(update={"gathered_for": "hybrid"})
    return evaluate(asked, [item], NOON, recipe="R1", bundle=None, target="hybrid").status


def arms(n: int, lift: float) -> list[UserMoments]:
    random = np.random.default_rng(0)
    shown = 1 + random.poisson(5, (2, n))
    taste = random.beta(2, 18, (2, n)) * np.array([[1 + lift], [1.0]])
    return [UserMoments.of(*pair) for pair in zip(random.binomial(shown, taste), shown, strict=True)]


@pytest.mark.parametrize(
    ("n", "lift", "expected"),
    [
        (300, 0.0, Status.NON_FINITE),
        (2000, 0.0, Status.UNDERPOWERED),
        (20_000, 0.3, Status.MET),
        (20_000, -0.5, Status.FAILED),
    ],
)
def test_a_gate_reads_a_sequence_as_it_is_meant(n: int, lift: float, expected: Status) -> None:
    a, b = arms(n, lift)
    found = sequences.difference_of_arms(a, b, confidence=0.95, numerator=0, denominator=1)
    assert status(found, "ctr", "cascade", direction="at_least", margin=-0.005) is expected


def test_every_form_is_a_confidence_sequence_to_the_gate() -> None:
    ratio = sample_ratio_deviation(np.array([25_100, 24_900]), np.array([0.5, 0.5]), confidence=0.95)
    assert status(ratio, "sample_ratio_deviation", direction="at_most", margin=0.015) is Status.MET
    random = np.random.default_rng(0)
    likes = interleaving_preference(random.choice([-1, 0, 1], size=4000, p=[0.1, 0.6, 0.3]), confidence=0.95)
    assert status(likes, "interleaving_preference", direction="at_least", margin=0.48) is Status.MET
    rate = sequences.bounded_mean((random.random(4000) < 0.05).astype(float), confidence=0.95)
    assert status(rate, "fallback_rate", direction="at_most", margin=0.01) is Status.FAILED
    item = online_evidence(rate, metric="fallback_rate", path_a="generative", measured_at=NOON, **WHERE)
    assert (item.interval, item.unit, item.n) == ("confidence_sequence", "user", 4000)
    assert "betting" in item.protocol


def test_what_was_estimated_off_policy_meets_no_online_requirement() -> None:
    random = np.random.default_rng(0)
    log = LoggedDecisions(
        user=np.arange(2000), reward=(random.random(2000) < 0.4).astype(float), target=np.full(2000, 0.5),
        logging=np.full(2000, 0.5),
    )  # fmt: skip
    item = off_policy_evidence(estimate(log, Estimator.SNIPS), metric="ctr", path_a="generative", **WHERE)
    assert (item.kind, item.metric, item.measured_at) == ("offline", "snips_ctr", None)
    assert "effective sample size 2000" in item.protocol
    asked = requirement(metric="ctr", kind="online", against=None, margin=0.01)
    assert evaluate(asked, [item], NOON, recipe="R1", bundle=None, target="hybrid").status is Status.MISSING
