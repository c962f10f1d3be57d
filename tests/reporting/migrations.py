"""A workspace that has migrated: a real ledger, a real online store, evidence and looks of an experiment."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from segue.artifacts import write_json
from segue.migration.decide import Decision, Target, write_decision
from segue.migration.evidence import Evidence, write_evidence
from segue.migration.gates import gate
from segue.migration.ledger import Ledger
from segue.migration.settings import MigrationSettings
from segue.migration.state_machine import StateMachine
from segue.params import load_params
from segue.serving.requests import Feedback
from segue.serving.store import Exposure, Store
from segue.workspace import Workspace
from tests.migration.builders import bundle, evidence, promote, serving

DATASET = "ml-100k"
BEGIN = datetime(2026, 2, 2, 9, tzinfo=UTC)
INCUMBENT_ALONE, CONTENDER = bundle("a" * 64, model=None), bundle("b" * 64)


def settings_of(root: Path) -> MigrationSettings:
    return load_params(Workspace(root), DATASET).migration


def machine(root: Path, at: datetime) -> StateMachine:
    return StateMachine(Ledger.open(Workspace(root), DATASET), settings_of(root), clock=at.isoformat)


def migrate(root: Path, *targets: Target) -> None:
    """Bootstrap on the day before, then one stage a day."""
    machine(root, BEGIN - timedelta(days=1)).bootstrap(INCUMBENT_ALONE)
    for day, target in enumerate(targets):
        decided = promote(target, CONTENDER)
        at = machine(root, BEGIN + timedelta(days=day))
        at.record(decided)
        assert at.advance(decided, CONTENDER).changed


def online(
    metric: str, estimate: float, half: float, n: int, at: datetime, against: str | None = None
) -> Evidence:
    return evidence(
        kind="online", metric=metric, path_b=against, interval="confidence_sequence", estimate=estimate,
        low=estimate - half, high=estimate + half, n=n, sd=0.3, measured_at=at.isoformat(), dataset=DATASET,
        experiment=2, gathered_for="hybrid",
    )  # fmt: skip


def write_looks(root: Path, *, drift: float, looks: int = 40, days: float = 9.0) -> None:
    """``drift``: the planted difference in clicks; the last look is also written as evidence."""
    random = np.random.default_rng(3)
    folder = Workspace(root).state(DATASET) / "online"
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.cumsum(random.standard_normal(looks)) / np.arange(1, looks + 1)
    last: list[Evidence] = []
    with (folder / "looks.jsonl").open("w", encoding="utf-8") as file:
        for look in range(1, looks + 1):
            at, n = BEGIN + timedelta(days=days * look / looks), 220 * look
            half = 0.27 / n**0.5 * 3.2
            found = [
                online("ctr", drift + 0.004 * noise[look - 1], half, n, at, "cascade"),
                online("fallback_rate", 0.004 + 0.3 / n, 0.3 / n**0.5, n, at),
                online("sample_ratio_deviation", 0.3 / n**0.5, 0.29 / n**0.5, n, at),
            ]
            last = found
            for item in found:
                bare = n * 0.05 < 50 and item.metric == "ctr"
                file.write(
                    json.dumps(
                        {
                            "at": at.isoformat(), "metric": item.metric, "path_a": item.path_a, "path_b": item.path_b,
                            "slice": "all", "estimate": item.estimate, "low": None if bare else item.low,
                            "high": None if bare else item.high, "n": n, "form": "left alone",
                        }
                    ) + "\n"
                )  # fmt: skip
    write_evidence(Workspace(root).step(DATASET, "online_evidence") / "evidence.json", last)


def write_exposures(root: Path, *, users: int = 400, days: float = 9.0, lift: float = 0.0) -> None:
    """Lists of both arms, some of nobody's, some clicked; every exposure three items long."""
    random = np.random.default_rng(5)
    store = Store.at(Workspace(root).state(DATASET) / "online.sqlite")
    shown, feedback = [], []
    for user in range(users):
        treated = user % 10 == 0
        first = float(random.uniform(0, days))
        for number in range(int(random.geometric(0.4))):
            moment = (BEGIN + timedelta(days=min(first + 0.01 * number, days))).timestamp()
            identity = f"{user}-{number}"
            shown.append(
                Exposure(
                    exposure_id=identity, user_id=None if user % 50 == 49 else f"u{user}",
                    arm="treatment" if treated else "control", path="generative" if treated else "cascade",
                    bundle=CONTENDER.bundle_id, deployment=2, item_ids=["1", "2", "3"], fallback=None, warnings=[],
                    latency_ms=float(random.gamma(9, 7 if treated else 4)), shown_at=moment,
                )
            )  # fmt: skip
            if user % 50 != 49 and random.random() < 0.25 + lift * treated:
                feedback.append(
                    Feedback(
                        feedback_id=f"f{identity}", kind="click", item_id="2", exposure_id=identity,
                        timestamp=moment + 20,
                    )
                )  # fmt: skip
    store.log_exposures(shown)
    store.post_feedback(feedback)
    store.close()


def write_artifacts(root: Path, *, at: datetime = BEGIN + timedelta(days=9)) -> dict[str, Decision]:
    """Offline and serving evidence, the serving check, and every stage's decision on what there is."""
    workspace = Workspace(root)
    offline = [
        evidence(slice=name, estimate=estimate, low=estimate - half, high=estimate + half, n=n, dataset=DATASET)
        for name, estimate, half, n in (
            ("all", 0.015, 0.012, 774), ("new_users", -0.025, 0.04, 80), ("long_tail", 0.025, 0.017, 337),
        )
    ]  # fmt: skip
    served = [
        serving(CONTENDER.bundle_id, metric, value, measured_at=at.isoformat())
        for metric, value in (("invalid_rate", 0.0), ("fallback_rate", 0.002), ("latency_p99_ms", 96.0))
    ]
    write_evidence(workspace.step(DATASET, "offline_evaluation") / "evidence.json", offline)
    write_evidence(workspace.step(DATASET, "serving_check") / "evidence.json", served)
    latencies = {"cascade": (41.0, 58.0, 71.0, 42.0), "generative": (66.0, 90.0, 96.0, 68.0)}
    write_json(
        workspace.step(DATASET, "serving_check") / "check.json",
        {
            "concurrency": 4,
            "paths": {
                path: dict(
                    zip(
                        ("latency_p50_ms", "latency_p95_ms", "latency_p99_ms", "latency_mean_ms"),
                        figures,
                        strict=True,
                    )
                )
                for path, figures in latencies.items()
            },
        },
    )
    live = workspace.step(DATASET, "online_evidence") / "evidence.json"
    everything = [*offline, *served]
    if live.is_file():
        from segue.migration.evidence import read_evidence

        everything += read_evidence(live)
    decisions = {}
    for name in ("pilot", "hybrid", "full"):
        decisions[name] = gate(Target(name), everything, CONTENDER, settings_of(root), as_of=at)
        write_decision(workspace.step(DATASET, f"{name}_decision") / "decision.json", decisions[name])
    return decisions
