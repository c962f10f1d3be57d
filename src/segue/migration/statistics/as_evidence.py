"""Confidence sequences as evidence, the one form in which a gate takes them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from segue.migration.evidence import Evidence, EvidenceKind
from segue.migration.statistics.interval import ConfidenceSequence
from segue.migration.statistics.off_policy import OffPolicyEstimate


def online_evidence(
    sequence: ConfidenceSequence,
    *,
    metric: str,
    path_a: str,
    path_b: str | None = None,
    recipe_a: str | None,
    recipe_b: str | None = None,
    dataset: str,
    snapshot: str,
    code_version: str,
    measured_at: datetime,
    slice: str = "all",
    bundle: str | None = None,
    kind: EvidenceKind = "online",
) -> Evidence:
    """``sequence`` at the moment of a look. Its kind is ``confidence_sequence``, its form stands in ``protocol``.

    Bounds that are not defined yet (NaN) become null: a gate sees them as non-finite and holds.
    """
    return _evidence(
        sequence,
        kind=kind,
        metric=metric,
        slice=slice,
        path_a=path_a,
        path_b=path_b,
        recipe_a=recipe_a,
        recipe_b=recipe_b,
        bundle=bundle,
        protocol=sequence.protocol,
        dataset=dataset,
        snapshot=snapshot,
        code_version=code_version,
        measured_at=measured_at.isoformat(),
    )


def off_policy_evidence(
    found: OffPolicyEstimate,
    *,
    metric: str,
    path_a: str,
    recipe_a: str | None,
    dataset: str,
    snapshot: str,
    code_version: str,
    slice: str = "all",
) -> Evidence:
    """Offline evidence, metric ``<estimator>_<metric>``, so that no online requirement can be met by it.

    A function of the log alone: it carries no time.
    """
    sequence = found.interval
    return _evidence(
        sequence,
        kind="offline",
        metric=f"{found.estimator.value}_{metric}",
        slice=slice,
        path_a=path_a,
        recipe_a=recipe_a,
        protocol=(
            f"off-policy {found.estimator.value}, effective sample size {found.effective_sample_size:.0f} "
            f"decisions or {found.effective_users:.0f} users, mean weight {found.mean_weight:.3f}; {sequence.protocol}"
        ),
        dataset=dataset,
        snapshot=snapshot,
        code_version=code_version,
    )


def _evidence(sequence: ConfidenceSequence, **about: Any) -> Evidence:
    """The figures of ``sequence``, which are over users, and what they are about."""
    return Evidence(
        unit="user",
        interval="confidence_sequence",
        estimate=sequence.estimate,
        low=sequence.low,
        high=sequence.high,
        confidence=sequence.confidence,
        n=sequence.n,
        sd=sequence.sd,
        **about,
    )
