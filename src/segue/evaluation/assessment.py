"""From lists to figures: every metric of every path, on every slice, with its interval, and as evidence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segue.evaluation import metrics
from segue.evaluation.bootstrap import Interval, coverage_interval, mean_intervals
from segue.evaluation.metrics import Floats, Mask
from segue.evaluation.protocol import Cases, PathLists
from segue.evaluation.settings import EvaluationSettings
from segue.migration.evidence import Evidence
from segue.paths import IndexArray

ACCURACY = ("recall", "ndcg", "mrr")


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """What the list statistics need to know of the N items."""

    train_counts: IndexArray  # [N] events in the training part
    audience: IndexArray  # [N] training users who have the item
    training_users: int
    vectors: npt.NDArray[np.floating]  # [N, D]
    present: Mask  # [N] has a vector
    active: Mask  # [N] not retired

    def __len__(self) -> int:
        return len(self.train_counts)


def user_metrics(
    answers: PathLists,
    cases: Cases,
    catalogue: Catalogue,
    settings: EvaluationSettings,
    *,
    filter_seen: bool,
    proposes_by_beam: bool,
) -> dict[str, Floats]:
    """One value a user and metric, ``float64 [U]`` each, named as in evidence (``ndcg@10``).

    Accuracy at every cutoff; what the list is like at the headline cutoff; ``invalid_rate`` over all of it.
    """
    lists, k = answers.lists, settings.headline_cutoff
    hit, counts = metrics.relevance(lists, cases.targets)
    found: dict[str, Floats] = {}
    for cutoff in settings.cutoffs:
        found[f"recall@{cutoff}"] = metrics.recall(hit, counts, cutoff)
        found[f"ndcg@{cutoff}"] = metrics.ndcg(hit, counts, cutoff)
        found[f"mrr@{cutoff}"] = metrics.mrr(hit, counts, cutoff)
    tail = metrics.long_tail(catalogue.train_counts, settings.long_tail_share)
    found[f"diversity@{k}"] = metrics.diversity(lists, catalogue.vectors, catalogue.present, k)
    found[f"novelty@{k}"] = metrics.novelty(lists, catalogue.audience, catalogue.training_users, k)
    found[f"long_tail_share@{k}"] = metrics.share_of(lists, tail, k)
    found[f"new_item_share@{k}"] = metrics.share_of(lists, catalogue.train_counts == 0, k)
    if proposes_by_beam:
        found[f"beam_share@{k}"] = metrics.source_share(answers.sources, answers.source_names, "beam", k)
    found["invalid_rate"] = metrics.invalid_rate(
        lists, catalogue.active, cases.histories if filter_seen else None
    )
    return found


@dataclass(frozen=True)
class Assessment:
    """Intervals by slice, contender and metric; differences by slice and pair, ``a`` minus ``b``."""

    users: dict[str, int]  # by slice
    values: dict[str, dict[str, dict[str, Interval]]]
    differences: dict[str, dict[tuple[str, str], dict[str, Interval]]]


def assess(
    per_user: Mapping[str, Mapping[str, Floats]],
    answers: Mapping[str, PathLists],
    slices: Mapping[str, Mask],
    pairs: Sequence[tuple[str, str]],
    catalogue: Catalogue,
    settings: EvaluationSettings,
) -> Assessment:
    """Bootstrap every contender and pair on every slice; within a slice all figures share their resamples."""
    users: dict[str, int] = {}
    values: dict[str, dict[str, dict[str, Interval]]] = {}
    differences: dict[str, dict[tuple[str, str], dict[str, Interval]]] = {}
    for name, members in slices.items():
        users[name] = int(members.sum())
        labels: list[tuple[tuple[str, str] | str, str]] = []
        rows: list[Floats] = []
        for contender, figures in per_user.items():
            for metric, row in figures.items():
                labels.append((contender, metric))
                rows.append(row[members])
        for a, b in pairs:
            for metric in per_user[a]:
                if metric.partition("@")[0] in ACCURACY:
                    labels.append(((a, b), metric))
                    rows.append(per_user[a][metric][members] - per_user[b][metric][members])
        intervals = mean_intervals(
            np.vstack(rows),
            samples=settings.bootstrap_samples,
            confidence=settings.confidence,
            seed=settings.seed,
        )
        values[name] = {contender: {} for contender in per_user}
        differences[name] = {pair: {} for pair in pairs}
        for (who, metric), interval in zip(labels, intervals, strict=True):
            if isinstance(who, tuple):
                differences[name][who][metric] = interval
            else:
                values[name][who][metric] = interval
        k = settings.headline_cutoff
        for contender in per_user:
            values[name][contender][f"coverage@{k}"] = coverage_interval(
                answers[contender].lists[members], len(catalogue), k, confidence=settings.confidence
            )
    return Assessment(users, values, differences)


def to_evidence(
    assessment: Assessment,
    *,
    recipe: str,
    values_of: Sequence[str],
    confidence: float,
    protocol: str,
    dataset: str,
    snapshot: str,
    code_version: str,
) -> list[Evidence]:
    """Offline evidence: every paired difference, and the own values of the paths ``values_of``.

    All of it is bound to ``recipe``, the one that says how both paths were made. The intervals are bootstrap
    intervals over users (coverage: their jackknife approximation).
    """
    found: list[Evidence] = []

    def add(slice_name: str, metric: str, a: str, b: str | None, interval: Interval) -> None:
        found.append(
            Evidence(
                kind="offline",
                metric=metric,
                slice=slice_name,
                path_a=a,
                path_b=b,
                recipe_a=recipe,
                recipe_b=None if b is None else recipe,
                unit="user",
                interval="bootstrap",
                estimate=rounded(interval.estimate),
                low=rounded(interval.low),
                high=rounded(interval.high),
                sd=rounded(interval.sd),
                confidence=confidence,
                n=interval.n,
                protocol=protocol,
                dataset=dataset,
                snapshot=snapshot,
                code_version=code_version,
            )
        )

    for slice_name, by_pair in assessment.differences.items():
        for (a, b), figures in by_pair.items():
            for metric, interval in figures.items():
                add(slice_name, metric, a, b, interval)
    for slice_name, by_contender in assessment.values.items():
        for contender in values_of:
            for metric, interval in by_contender[contender].items():
                add(slice_name, metric, contender, None, interval)
    return found


def rounded(value: float) -> float | None:
    """Nine decimals, so that the last bit of a sum decides nothing; None for NaN, which JSON lacks."""
    return None if not math.isfinite(value) else round(value, 9) + 0.0  # + 0.0: no negative zero


def interval_json(interval: Interval) -> dict[str, Any]:
    """``{estimate, low, high}``."""
    return {
        "estimate": rounded(interval.estimate),
        "low": rounded(interval.low),
        "high": rounded(interval.high),
    }
