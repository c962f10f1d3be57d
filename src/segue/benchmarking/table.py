"""From the records of a quality benchmark to its figures: rows, means over seeds, paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segue.benchmarking.answers import SERVED
from segue.benchmarking.world import SEED
from segue.evaluation.bootstrap import Interval, mean_intervals
from segue.evaluation.metrics import Floats

SAMPLES = 2000
CONFIDENCE = 0.95
METRICS = ("ndcg@10", "recall@10", "ndcg@5", "recall@5")

Record = Mapping[str, Any]
Judged = tuple[str, str, bool]  # model, head, filter_seen


def user_metric(ranks: Sequence[int], metric: str) -> Floats:
    """[U] of ``ndcg@k`` or ``recall@k`` for one target a user at ``ranks`` (from 0; -1: not in the list)."""
    name, _, cutoff = metric.partition("@")
    places = np.asarray(ranks, dtype=np.int64)
    hit = (places >= 0) & (places < int(cutoff))
    gains = 1.0 / np.log2(np.maximum(places, 0) + 2.0) if name == "ndcg" else np.ones(len(places))
    return np.where(hit, gains, 0.0)


def rows(records: Sequence[Record]) -> list[dict[str, Any]]:
    """One a model, head, seed, filter and metric, with its user-level bootstrap interval."""
    labels = [
        (record, judged, metric) for record in records for judged in record["judged"] for metric in METRICS
    ]
    intervals = _intervals([user_metric(judged["ranks"], metric) for _, judged, metric in labels])
    return [
        {
            "dataset": record["dataset"],
            "part": record["part"],
            "model": record["model"],
            "head": judged["head"],
            "seed": record["seed"],
            "filter_seen": judged["filter_seen"],
            "metric": metric,
            "value": interval.estimate,
            "low": interval.low,
            "high": interval.high,
            "users": interval.n,
            "beam_share": judged["beam_share"],
            "code_weight": record["facts"].get("code_weight"),
            "parameters": record["parameters"],
            "train_seconds": record["train_seconds"],
            "core_hours": record["train_seconds"] * record["threads"] / 3600,
            "trained_on": record["trained_on"],
            "settings_sha256": record["settings_sha256"],
            "trials": record["trials"],
            "validation": record["validation"],
            "best_epoch": record["best_epoch"],
            "test_reads_in_all": record["test_reads_in_all"],
        }
        for (record, judged, metric), interval in zip(labels, intervals, strict=True)
    ]


def means(records: Sequence[Record]) -> list[dict[str, Any]]:
    """One a model, head, filter and metric: the mean over seeds of each user's value, and its interval."""
    grouped = _grouped(records)
    labels = [(who, metric) for who in grouped for metric in METRICS]
    intervals = _intervals([_mean_over_seeds(grouped[who], metric) for who, metric in labels])
    found = []
    for ((model, head, filter_seen), metric), interval in zip(labels, intervals, strict=True):
        own = [record for record, _ in grouped[model, head, filter_seen]]
        shares = [judged["beam_share"] for _, judged in grouped[model, head, filter_seen]]
        weights = [record["facts"].get("code_weight") for record in own]
        found.append(
            {
                "dataset": own[0]["dataset"],
                "part": own[0]["part"],
                "model": model,
                "head": head,
                "seeds": [record["seed"] for record in own],
                "filter_seen": filter_seen,
                "metric": metric,
                "value": interval.estimate,
                "low": interval.low,
                "high": interval.high,
                "users": interval.n,
                "validation": _mean([record["validation"] for record in own]),
                "beam_share": _mean(shares),
                "code_weight": _mean(weights),
                "parameters": own[0]["parameters"],
                "train_seconds": _mean([record["train_seconds"] for record in own]),
                "core_hours": _mean([record["train_seconds"] * record["threads"] / 3600 for record in own]),
            }
        )
    return found


def paired(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Of every generative model's served list against every other's, user by user, on the means over seeds."""
    grouped = _grouped(records)
    generative = {record["model"] for record in records if record["generative"]}
    labels = [
        (a, b, filter_seen, metric)
        for a, head, filter_seen in grouped
        if a in generative and head == SERVED
        for b, other, hidden in grouped
        if other == SERVED and hidden == filter_seen and b != a
        for metric in METRICS
    ]
    differences = [
        _mean_over_seeds(grouped[a, SERVED, filter_seen], metric)
        - _mean_over_seeds(grouped[b, SERVED, filter_seen], metric)
        for a, b, filter_seen, metric in labels
    ]
    return [
        {
            "dataset": records[0]["dataset"],
            "part": records[0]["part"],
            "a": a,
            "b": b,
            "filter_seen": filter_seen,
            "metric": metric,
            "difference": interval.estimate,
            "low": interval.low,
            "high": interval.high,
            "users": interval.n,
        }
        for (a, b, filter_seen, metric), interval in zip(labels, _intervals(differences), strict=True)
    ]


def _grouped(records: Sequence[Record]) -> dict[Judged, list[tuple[Record, Mapping[str, Any]]]]:
    found: dict[Judged, list[tuple[Record, Mapping[str, Any]]]] = {}
    for record in records:
        for judged in record["judged"]:
            key = (record["model"], judged["head"], judged["filter_seen"])
            found.setdefault(key, []).append((record, judged))
    return found


def _mean_over_seeds(runs: Sequence[tuple[Record, Mapping[str, Any]]], metric: str) -> Floats:
    values: Floats = np.mean([user_metric(judged["ranks"], metric) for _, judged in runs], axis=0)
    return values


def _intervals(values: Sequence[Floats]) -> list[Interval]:
    if not values:
        return []
    return mean_intervals(np.vstack(values), samples=SAMPLES, confidence=CONFIDENCE, seed=SEED)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
