"""Where the figures of a quality benchmark are written, and how they are printed."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segue.artifacts import read_json, write_json
from segue.benchmarking import provenance, table
from segue.benchmarking.chosen import ChosenSettings
from segue.benchmarking.quality import Plan
from segue.benchmarking.world import World
from segue.errors import ArtifactError, ConfigurationError
from segue.workspace import Workspace

NAME = "quality"
DESCRIPTION = (
    "Every model under one protocol: trained on the training part, chosen by validation, judged by lists over the full "
    "catalogue. A mean is over seeds; its interval is a user-level bootstrap interval."
)
_FEW = 100  # users, whose NDCG@10 is hardly a figure
_ELSEWHERE = "name another file by --out, or move that one away"
_KEPT = ("rows", "means", "paired", "runs")


@dataclass(frozen=True)
class Written:
    path: Path
    replaced: str | None  # the command whose table of the same dataset stood there, where it was another one


def default_place(workspace: Workspace, dataset: str) -> Path:
    return workspace.reports(dataset) / f"{NAME}.json"


def read_tables(path: Path) -> dict[str, Any]:
    """What stands at ``path``; nothing where there is no file. Raises ConfigurationError for a file of something else."""
    if not path.is_file():
        return {}
    try:
        found = read_json(path)
    except ArtifactError as error:
        raise ConfigurationError(
            f"{path} holds no tables of this benchmark ({error}): {_ELSEWHERE}"
        ) from error
    if not isinstance(found, dict) or found.get("name") != NAME or not all(name in found for name in _KEPT):
        raise ConfigurationError(f"{path} holds something else than tables of this benchmark: {_ELSEWHERE}")
    return found


def write_quality(
    workspace: Workspace,
    world: World,
    plan: Plan,
    chosen: ChosenSettings,
    records: Sequence[dict[str, Any]],
    arguments: Sequence[str],
    out: Path | None,
) -> Written:
    """Write ``quality.json``; what stands there of other datasets stays.

    ``rows`` are by seed, ``means`` over seeds, ``paired`` by user on the means; ``runs`` say how each dataset's were made.
    """
    path = out or default_place(workspace, world.dataset)
    found = read_tables(path)
    now: dict[str, list[dict[str, Any]]] = {
        "rows": table.rows(records),
        "means": table.means(records),
        "paired": table.paired(records),
        "runs": [_run(workspace, world, plan, chosen, records, arguments)],
    }
    merged = {
        name: [
            *(each for each in found.get(name, []) if each["dataset"] != world.dataset),
            *now[name],
        ]
        for name in _KEPT
    }
    write_json(
        path,
        {
            "name": NAME,
            "description": DESCRIPTION,
            "command": "segue",
            "arguments": list(arguments),
            **provenance.facts(workspace.root),
            **merged,
        },
    )
    (now_given,) = (_command(run) for run in now["runs"])
    before = [_command(run) for run in found.get("runs", []) if run["dataset"] == world.dataset]
    return Written(path, before[-1] if before and before[-1] != now_given else None)


def _command(run: dict[str, Any]) -> str:
    return shlex.join([run["command"], *run["arguments"]])


def _run(
    workspace: Workspace,
    world: World,
    plan: Plan,
    chosen: ChosenSettings,
    records: Sequence[dict[str, Any]],
    arguments: Sequence[str],
) -> dict[str, Any]:
    """What is the same for all figures of one dataset, and each model's settings and curve."""
    reads = max((int(record["test_reads_in_all"]) for record in records), default=0)
    return {
        "dataset": world.dataset,
        "command": "segue",
        "arguments": list(arguments),
        **provenance.facts(workspace.root),
        "protocol": {
            "split": world.params.splits.primary,
            "part": plan.part,
            "users": len(world.cases(plan.part, plan.users))
            if plan.part == "validation"
            else _users(records),
            "validation_users": len(world.validation_cases()),
            "validation_gap": world.validation_gap,
            "held_back_events": world.held_back,
            "ranking": "full catalogue, list of 10",
            "items": len(world.items),
            "training_events": len(world.training.items),
            "trials": plan.trials,
            "epochs": plan.epochs,
            "settings": chosen.origin,
            "beam_width": world.params.decoding.beam_width,
            "dense_candidates": world.params.decoding.dense_candidates,
            "threads": world.threads,
            "cores": os.cpu_count(),
            "test_reads": "once a model and seed"
            if reads <= 1
            else f"once a model and seed for these figures; up to {reads} times in all, under other settings or code",
        },
        "models": [
            {
                name: record[name]
                for name in (
                    "model",
                    "seed",
                    "settings",
                    "settings_sha256",
                    "trials",
                    "validation",
                    "parameters",
                    "train_seconds",
                    "wall_seconds",
                    "trained_on",
                    "epochs",
                    "best_epoch",
                    "facts",
                    "curve",
                    "test_reads_in_all",
                )
            }
            for record in records
        ],
    }


def _users(records: Sequence[dict[str, Any]]) -> int:
    return len(records[0]["judged"][0]["ranks"])


def warnings(world: World, validation_users: int | None) -> list[str]:
    """What of the command may not be what was meant."""
    found, there = [], len(world.validation_cases())
    if validation_users is not None and validation_users > there:
        found.append(f"--validation-users {validation_users:,}: there are {there:,}, and all of them choose")
    if there < _FEW:
        found.append(f"{there:,} users choose epochs and weights: their NDCG@10 says little")
    if world.validation_gap and validation_users is None:
        found.append(
            "--validation-gap without --validation-users: the last training event of every user is left out of training"
        )
    return found


def printed(world: World, plan: Plan, records: Sequence[dict[str, Any]]) -> str:
    """How it was judged, the means as text (NDCG@10 and Recall@10), and by how much generative models are ahead."""
    found = table.means(records)
    gap = f", {world.held_back:,} events before their targets held back" if world.validation_gap else ""
    lines = [
        f"{plan.part} of {found[0]['users']:,} users; chosen by validation of {len(world.validation_cases()):,} users{gap}",
        f"{'model':18}{'head':8}{'seen':7}{'NDCG@10':28}{'Recall@10':28}{'beam':>6}{'codes':>7}{'validation':>12}",
    ]
    for row in found:
        if row["metric"] != "ndcg@10":
            continue
        recall = next(
            each
            for each in found
            if each["metric"] == "recall@10"
            and all(each[name] == row[name] for name in ("model", "head", "filter_seen"))
        )
        share = "" if row["beam_share"] is None else f"{row['beam_share']:.0%}"
        weight = "" if row["code_weight"] is None else f"{row['code_weight']:.2f}"
        lines.append(
            f"{row['model']:18}{row['head']:8}{'hidden' if row['filter_seen'] else 'shown':7}"
            f"{_interval(row):28}{_interval(recall):28}{share:>6}{weight:>7}{row['validation']:>12.4f}"
        )
    lines += [
        f"{pair['a']} minus {pair['b']}, {'hidden' if pair['filter_seen'] else 'shown'}: "
        f"{pair['difference']:+.4f} [{pair['low']:+.4f}, {pair['high']:+.4f}] NDCG@10"
        for pair in table.paired(records)
        if pair["metric"] == "ndcg@10"
    ]
    return "\n".join(lines)


def _interval(row: dict[str, Any]) -> str:
    return f"{row['value']:.4f} [{row['low']:.4f}, {row['high']:.4f}]"
