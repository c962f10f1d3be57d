"""A small evaluation, run for real through everything but the models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from segue.artifacts import read_json, write_json
from segue.data.sequences import Sequences
from segue.evaluation.assessment import Assessment, Catalogue, assess, to_evidence, user_metrics
from segue.evaluation.protocol import Cases, build_cases, evaluate_path, slices
from segue.evaluation.results import choose_examples, write_results
from segue.evaluation.settings import EvaluationSettings
from segue.items import Items
from segue.migration.decide import Target, decide, write_decision
from segue.migration.deployment import Arm, CurrentDeployment, Deployment
from segue.migration.evidence import Evidence, read_evidence, write_evidence
from segue.migration.settings import Policy, Requirement
from segue.paths import ListRules, RankedList, Request
from segue.schema import PathName, Stage, UserGroup

CONTENDERS = (
    "popularity", "item_knn", "two_tower", "sasrec", "cascade",
    "generative", "generative_code", "generative_dense",
)  # fmt: skip


class NoisyOracle:
    """Knows every target, and puts it where chance and ``skill`` say."""

    name = PathName.CASCADE

    def __init__(
        self, targets: dict[str, int], items: int, skill: float, sources: tuple[str, ...], seed: int
    ):
        self.targets, self.items, self.skill, self.sources = targets, items, skill, sources
        self.generator = np.random.default_rng(seed)

    def recommend(self, requests: Sequence[Request], k: int, rules: ListRules) -> list[RankedList]:
        answers = []
        for request in requests:
            scores = self.generator.random(self.items)
            scores[self.targets[request.user_id or ""]] += self.skill
            if rules.filter_seen:
                scores[request.history] = -np.inf
            chosen = np.argsort(-scores, kind="stable")[:k]
            answers.append(
                RankedList(
                    items=chosen,
                    scores=scores[chosen].astype(np.float32),
                    sources=tuple(self.sources[int(item) % len(self.sources)] for item in chosen),
                )
            )
        return answers


def make_sequences(users: int, items: int, length: int, prefix: str, seed: int) -> Sequences:
    generator = np.random.default_rng(seed)
    events = [generator.permutation(items)[: generator.integers(4, length + 1)] for _ in range(users)]
    sizes = np.array([len(own) for own in events])
    return Sequences(
        items=np.concatenate(events).astype(np.int32),
        timestamps=np.concatenate([np.arange(size) * 60 for size in sizes]).astype(np.int64),
        offsets=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        validation_at=(sizes - 2).astype(np.int32),
        test_at=(sizes - 1).astype(np.int32),
        user_ids=[f"{prefix}{user}" for user in range(users)],
    )


def make_items(items: int, train_counts: np.ndarray) -> Items:
    return Items(
        pl.DataFrame(
            {
                "item_index": np.arange(items, dtype=np.int32),
                "item_id": [f"i{index:03d}" for index in range(items)],
                "title": [None if index == 0 else f"Title <{index}>" for index in range(items)],
                "train_count": train_counts,
            }
        )
    )


def write_synthetic_results(
    folder: Path, *, users: int = 80, new_users: int = 12, items: int = 60, samples: int = 200
) -> tuple[Assessment, Cases]:
    """Every file of an ``offline_evaluation`` folder."""
    settings = EvaluationSettings(list_length=20, bootstrap_samples=samples, batch_size=32)
    regular = make_sequences(users, items, 20, "u", seed=1)
    new = make_sequences(new_users, items, 20, "n", seed=2)
    cases = build_cases({UserGroup.REGULAR: regular, UserGroup.NEW: new}, "test")
    counts = np.bincount(regular.training_part().items, minlength=items).astype(np.int64)
    counts[int(cases.targets[0])] = 0
    vectors = np.random.default_rng(0).normal(size=(items, 8))
    catalogue = Catalogue(
        train_counts=counts,
        audience=counts,
        training_users=users,
        vectors=vectors,
        present=np.ones(items, dtype=bool),
        active=np.ones(items, dtype=bool),
    )
    table = make_items(items, counts)
    rules = ListRules()
    targets = dict(zip(cases.user_ids, cases.targets.tolist(), strict=True))
    answers, per_user = {}, {}
    for number, name in enumerate(CONTENDERS):
        beam = name.startswith("generative")
        sources = ("beam", "beam+dense", "dense") if beam else ("item_knn", "sasrec", "two_tower+sasrec")
        path = NoisyOracle(targets, items, 0.1 + 0.08 * number, sources, seed=number)
        answers[name] = evaluate_path(path, cases, rules, settings.list_length, settings.batch_size)
        per_user[name] = user_metrics(
            answers[name], cases, catalogue, settings, filter_seen=True, proposes_by_beam=beam
        )
    members = slices(cases, counts, long_tail_share=0.8, short_history=settings.short_history)
    pairs = [("generative", other) for other in CONTENDERS if other != "generative"]
    assessment = assess(per_user, answers, members, pairs, catalogue, settings)
    evidence = to_evidence(
        assessment,
        recipe="r" * 64,
        values_of=("generative", "cascade"),
        confidence=settings.confidence,
        protocol="leave_one_out, test, full catalogue, seen items hidden",
        dataset="toy",
        snapshot="s" * 64,
        code_version="c" * 64,
    )
    write_results(
        folder,
        assessment=assessment,
        evidence=evidence,
        per_user=per_user,
        answers=answers,
        cases=cases,
        slices=members,
        examples=choose_examples(
            cases, members["all"], answers, table, shown=("cascade", "generative"), users=3, k=10, seed=17
        ),
        protocol={
            "part": "test",
            "split": {
                "protocol": "leave_one_out",
                "users": users + new_users,
                "items": items,
                "interactions": int(regular.offsets[-1] + new.offsets[-1]),
                "new_users": new_users,
                "replay_users": 9,
                "tied_last_steps": 7,
            },
            "catalogue": items,
            "retired": 0,
            "never_trained_on": int((counts == 0).sum()),
            "users": assessment.users,
            "filter_seen": True,
            "head_agreement": {name: {"share": 1.0, "users": 64} for name in CONTENDERS},
            "recipe": "r" * 64,
            **settings.model_dump(mode="json"),
        },
    )
    return assessment, cases


Run = tuple[dict[str, Path], Path, dict[str, dict[str, object]]]


def write_synthetic_run(root: Path, *, margin: float = -0.02, users: int = 80) -> Run:
    """Every input of the summary under ``root``: (inputs by step, the deployments' folder, run records)."""
    steps = (
        "readiness", "offline_evaluation", "refit_check", "serving_check", "drift", "bundle", "bento", "item_map",
        "refresh_decision", "pilot_decision", "hybrid_decision", "full_decision",
    )  # fmt: skip
    inputs = {name: root / name for name in steps}
    for folder in inputs.values():
        folder.mkdir(parents=True)
    write_synthetic_results(inputs["offline_evaluation"], users=users)
    protocol = read_json(inputs["offline_evaluation"] / "protocol.json")
    assert isinstance(protocol, dict)
    split = protocol["split"]
    write_json(inputs["readiness"] / "readiness.json", _readiness(split))
    write_json(
        inputs["item_map"] / "quality.json",
        {
            "items": 60,
            "collisions": 6,
            "full_prefixes": 1,
            "levels": [{"usage": 1.0}, {"usage": 0.9}, {"usage": 0.1}],
            "reconstruction_error": 0.21,
            "neighbour_agreement": 0.61,
            "neighbour_agreement_by_chance": 0.05,
        },
    )
    write_json(
        inputs["item_map"] / "item_map.json",
        {"codebook_id": "c" * 64, "revision": 1, "inserted": 0, "retired": 0, "level_sizes": [64, 32, 32]},
    )
    write_json(inputs["drift"] / "drift.json", {"verdict": "retrain", "reasons": ["nothing is kept yet"]})
    write_json(inputs["bundle"] / "bundle.json", {"bundle_id": "b" * 64})
    write_json(inputs["bento"] / "bento.json", {"tag": "segue:abc"})
    offline = read_evidence(inputs["offline_evaluation"] / "evidence.json")
    serving = [
        Evidence(
            kind="serving", metric=metric, path_a="generative", bundle="b" * 64, unit="request",
            interval="exact", estimate=value, low=value, high=value, confidence=0.95, n=200, protocol="load",
            dataset="toy", snapshot="s" * 64, code_version="c" * 64, measured_at="2026-01-31T12:00:00+00:00",
        )
        for metric, value in (("invalid_rate", 0.0), ("latency_p95_ms", 31.25))
    ]  # fmt: skip
    write_evidence(inputs["serving_check"] / "evidence.json", serving)
    write_evidence(inputs["refit_check"] / "evidence.json", [])
    pilot = Policy(
        requirements=(
            Requirement(
                metric="ndcg@10", kind="offline", direction="at_least", margin=margin, against="cascade"
            ),
            Requirement(metric="invalid_rate", kind="serving", direction="at_most", margin=0.0),
        )
    )
    later = Policy(
        requirements=(
            Requirement(metric="ctr", kind="online", direction="at_least", margin=-0.01, against="cascade"),
        )
    )
    for name, target, policy in (
        ("pilot", Target.PILOT, pilot),
        ("hybrid", Target.HYBRID, later),
        ("full", Target.FULL, later),
        ("refresh", Target.REFRESH_DATA, later),
    ):
        decision = decide(
            [*offline, *serving], policy, None, target=target, recipe="r" * 64, bundle_id="b" * 64
        )
        write_decision(inputs[f"{name}_decision"] / "decision.json", decision)
    deployments = root / "deployment"
    document = Deployment(
        revision=1, parent=None, stage=Stage.CASCADE, salt="segue", actor="segue", reason="bootstrap",
        at="2026-01-31T12:00:00+00:00",
        arms=(Arm(name="control", bundle="b" * 64, path=PathName.CASCADE, share=1.0),),
    )  # fmt: skip
    current = CurrentDeployment(
        deployment=document, known_decisions=(), bundles_root="bundles", ledger_head="h" * 64
    )
    write_json(deployments / "current.json", current.model_dump(mode="json"))
    records: dict[str, dict[str, object]] = {
        "ingest": {"seconds": 1.5},
        "offline_evaluation": {"seconds": 42.0, "test_reads_in_all": 1},
        "deployment": {"seconds": 2.0, "model_version": 3},
        "summary": {"seconds": 9.0},
    }
    return inputs, deployments, records


def _readiness(split: dict[str, int]) -> dict[str, object]:
    return {
        "size": {"density": 0.06},
        "sequence_length": {"shortest": 4, "longest": 20, "quantiles": {"0.5": 11.0}},
        "cold": {
            "items": 3, "item_share": 0.05,
            "test_targets": 80, "cold_test_targets": 1, "cold_test_share": 0.0125,
        },
        "ties": {"known": True, "last_share": 0.08, "broken_by": "a seeded hash of (user, item)"},
        "splits": {
            "leave_one_out": {"possible": True, "reason": None},
            "global_time": {"possible": False, "reason": "only 12 test users"},
        },
        "detectable": {"metrics": {"ndcg@10": {"difference": 0.02}, "recall@10": {"difference": None}}},
    }  # fmt: skip
