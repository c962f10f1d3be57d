"""Step ``serving_check``: the built Bento behind a real server, asked for real users' lists."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from segue.artifacts import read_json, write_json
from segue.errors import ArtifactError
from segue.items import Items
from segue.migration.evidence import EVIDENCE_FILE, Evidence, write_evidence
from segue.registry.bundle import BundleManifest, read_bundle
from segue.schema import PathName
from segue.serving.check import PERCENTILES, ask, overlap, sample_cases, server, summarize
from segue.serving.engine import Engine
from segue.serving.packaging import build_bento
from segue.steps.runner import StepContext, code_version

COMPARED = (PathName.GENERATIVE, PathName.CASCADE)  # with the lists of the bundle that is kept
OVERLAP_K = 10
RATES = ("error_rate", "invalid_rate", "seen_rate", "empty_rate", "fallback_rate")


def run(context: StepContext) -> None:
    """Write ``check.json`` and ``evidence.json``."""
    settings = context.params.serving
    bundle = context.inputs["bundle"]
    manifest = read_bundle(bundle)
    items = Items.load(bundle)
    cases = sample_cases(context.inputs["splits"], settings.check_requests, settings.check_seed)
    if not cases:
        raise ArtifactError(
            f"{context.inputs['splits']} holds no regular user to ask for: look at the splits"
        )
    tag = _tag(context, manifest)
    log = context.reports / "serving_check.log"
    started = time.monotonic()
    results: dict[str, dict[str, float | int]] = {}
    home = context.workspace.root / "state" / "bentoml"
    with server(
        tag,
        environment={"BENTOML_HOME": str(home), "SEGUE_MODE": "baked", "SEGUE_STORE": ""},
        log=log,
        start_seconds=settings.check_start_seconds,
        folder=home,
    ) as url:
        start_seconds = time.monotonic() - started
        context.progress(f"{tag} was ready after {start_seconds:.1f} s; {len(cases)} requests to each path")
        for path in settings.check_paths:
            findings = ask(
                url,
                path,
                cases,
                k=settings.default_k,
                concurrency=settings.check_concurrency,
                catalogue=items.index_of,
                filter_seen=context.params.rules.filter_seen,
            )
            results[path.value] = summarize(findings)
    overlaps = _overlaps(context, manifest, cases)
    check: dict[str, Any] = {
        "bundle": manifest.bundle_id,
        "tag": tag,
        "k": settings.default_k,
        "concurrency": settings.check_concurrency,
        "start_seconds": round(start_seconds, 3),
        **{
            name: sum(int(result[name]) for result in results.values())
            for name in ("requests", "errors", "invalid_items", "seen_items", "fallbacks")
        },
        "paths": {name: {key: _finite(value) for key, value in row.items()} for name, row in results.items()},
        "overlap": {path: float(np.mean(shares)) for path, shares in overlaps.items()},
    }
    write_json(context.output / "check.json", check)
    write_evidence(context.output / EVIDENCE_FILE, _evidence(context, manifest, results, overlaps))
    for name, row in results.items():
        context.metrics[f"{name}/latency_p50_ms"] = round(float(row["latency_p50_ms"]), 2)
        context.metrics[f"{name}/latency_p99_ms"] = round(float(row["latency_p99_ms"]), 2)
    for name in ("invalid_items", "seen_items", "errors", "fallbacks"):
        context.metrics[name] = check[name]
    context.progress(
        f"{check['requests']} requests: {check['invalid_items']} invalid and {check['seen_items']} seen "
        f"items, {check['errors']} errors, {check['fallbacks']} fallbacks; p50 / p99 "
        + ", ".join(
            f"{name} {row['latency_p50_ms']:.0f} / {row['latency_p99_ms']:.0f} ms"
            for name, row in results.items()
        )
    )


def _tag(context: StepContext, manifest: BundleManifest) -> str:
    """The Bento of the step before; built again where the store (which is no artifact) has lost it."""
    described = read_json(context.inputs["bento"] / "bento.json")
    if not isinstance(described, dict) or described.get("bundle") != manifest.bundle_id:
        raise ArtifactError(
            f"{context.inputs['bento']} was built from another bundle: run the step bento again"
        )
    root = context.workspace.root
    built = build_bento(
        context.inputs["bundle"], context.dataset, root, root / "state" / "bentoml", image=described["image"]
    )
    return built.tag


def _overlaps(context: StepContext, manifest: BundleManifest, cases: Sequence[Any]) -> dict[str, list[float]]:
    kept = context.kept("bundle")
    if kept is None:
        return {}
    before, after = Engine.load(kept), Engine.load(context.inputs["bundle"])
    context.progress(
        f"lists of {manifest.bundle_id[:12]} beside those of {before.bundle_id[:12]}, which is kept"
    )
    try:
        return {
            path.value: overlap(before, after, path, cases, OVERLAP_K)
            for path in COMPARED
            if before.has(path) and after.has(path)
        }
    finally:
        before.close()
        after.close()


def _evidence(
    context: StepContext,
    manifest: BundleManifest,
    results: dict[str, dict[str, float | int]],
    overlaps: dict[str, list[float]],
) -> list[Evidence]:
    settings = context.params.serving
    measured = datetime.now(UTC).isoformat(timespec="seconds")
    code = code_version((*context.step.code, f"steps.{context.step.name}"))

    def one(metric: str, path: str, value: float, n: int, unit: str, sd: float | None = None) -> Evidence:
        return Evidence.model_validate(
            {
                "kind": "serving",
                "metric": metric,
                "path_a": path,
                "recipe_a": manifest.recipe,
                "bundle": manifest.bundle_id,
                "unit": unit,
                "interval": "exact",
                "estimate": value,
                "low": value,
                "high": value,
                "confidence": 1.0,
                "n": n,
                "protocol": f"a server on loopback, {settings.check_concurrency} requests at a time",
                "dataset": context.dataset,
                "snapshot": manifest.histories_snapshot,
                "code_version": code,
                "sd": sd,
                "measured_at": measured,
            }
        )

    found = []
    for path, row in results.items():
        for metric in (*RATES, *(f"latency_p{percent}_ms" for percent in PERCENTILES)):
            found.append(one(metric, path, float(row[metric]), int(row["requests"]), "request"))  # noqa: PERF401
    for path, shares in overlaps.items():
        sd = float(np.std(shares, ddof=1)) if len(shares) > 1 else None
        found.append(one(f"list_overlap@{OVERLAP_K}", path, float(np.mean(shares)), len(shares), "user", sd))
    return found


def _finite(value: float | int) -> float | int | None:
    return round(value, 4) if np.isfinite(value) else None
