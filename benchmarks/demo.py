"""The demo's figures, from the last `make demo`: ``python -m benchmarks.demo``.

Copies ``reports/<dataset>/summary.json`` into ``results/demo.json``; measures nothing itself.
"""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks import harness
from segue.artifacts import read_json
from segue.workspace import Workspace


def rows(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """One row a contender: estimate and interval of NDCG@10 and recall@10."""
    found = []
    for name, figures in summary["contenders"].items():
        row: dict[str, Any] = {"contender": name}
        for metric in ("ndcg@10", "recall@10"):
            value = figures[metric]
            row[metric] = f"{value['estimate']:.4f} [{value['low']:.4f}, {value['high']:.4f}]"
        found.append(row)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", default="ml-100k")
    dataset = parser.parse_args().dataset
    workspace = Workspace.find()
    summary: Any = read_json(workspace.reports(dataset) / "summary.json")
    protocol: Any = read_json(workspace.step(dataset, "offline_evaluation") / "protocol.json")
    sources: Any = read_json(workspace.step(dataset, "offline_evaluation") / "sources.json")
    differences: Any = read_json(workspace.step(dataset, "offline_evaluation") / "differences.json")
    counts = summary["dataset"]
    notes = [
        f"{counts['users']} users ({counts['new_users']} new and {counts['replay_users']} for replay set aside), "
        f"{counts['items']} items, {counts['interactions']} interactions; {counts['tied_last_steps']} last steps tied in time",
        "leave-one-out, full ranking, seen items filtered, the un-refitted models, user-level bootstrap intervals, one seed",
        f"pilot: {summary['decisions']['pilot']['outcome']}: {summary['decisions']['pilot']['reasons'][0]}",
        f"steps took {sum(summary['seconds'].values()):.0f} s in all",
    ]
    path = harness.write(
        "demo",
        "ML-100K, what each path would serve to the regular users. The run reads the test part once; while defaults were being "
        "chosen, on validation, early explorations printed test figures of the same data.",
        ["contender", "ndcg@10", "recall@10"],
        rows(summary),
        notes=notes,
        protocol=protocol,
        sources=sources,
        differences=differences,
        decisions=summary["decisions"],
        seconds=summary["seconds"],
    )
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
