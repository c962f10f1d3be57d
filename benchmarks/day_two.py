"""The day-two loop on ML-100K, three rounds, the engines alternating: ``python -m benchmarks.day_two``.

A seeded 5 % of the items with at least 20 events is withheld with all its events. The graph runs without them. Then they
arrive in three appends; after each, ``segue day-two`` takes them in (Dagster, DVC, Dagster), the new items are served,
and a rollback is made that neither the next ``dvc repro`` nor the next Dagster run undoes. For every user with an event on
an inserted item, the last such event is a target, the events before it the history: recall@50 of the served generative
list, beside content-kNN and popularity, over the full catalogue with seen items filtered.

It works in a scratch workspace (``--workspace``, default a new temporary folder) and leaves this checkout alone.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

from benchmarks import harness
from segue.artifacts import write_json, write_text
from segue.bases import KEEPABLE
from segue.params import SECTIONS
from segue.workspace import Workspace

DATASET = "ml-100k-withheld"
ROUNDS = 3
ENGINES = ("dagster", "dvc", "dagster")
SEED = 17
TRACKED = (
    "params.yaml",
    "dvc.yaml",
    "profiles",
    "bases",
    "orchestration",
    "assets",
    "bento",
    "src",
    "constraints.txt",
    "pyproject.toml",
    ".dvcignore",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspace", type=Path)
    parser.add_argument(
        "--source", type=Path, default=harness.ROOT.parent, help="a checkout that ran `make demo`"
    )
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], help="section.key=value of the profile"
    )
    arguments = parser.parse_args()
    root = arguments.workspace or Path(tempfile.mkdtemp(prefix="segue-day-two-"))
    rounds = prepare(arguments.source, root, arguments.overrides)
    rows = [
        play(Workspace(root), number, events, items) for number, (events, items) in enumerate(rounds, start=1)
    ]
    path = harness.write(
        "day_two",
        __doc__.split("\n\n")[1].replace("\n", " "),
        [
            "round",
            "engine",
            "inserted",
            "targets",
            "recall@50 generative",
            "recall@50 content_knn",
            "recall@50 popularity",
            "drift",
            "revision",
            "rolled_back_to",
            "seconds",
        ],
        rows,
        notes=[
            f"settings of the profile ml-100k{', but ' + '; '.join(arguments.overrides) if arguments.overrides else ''}",
            "content-kNN: cosine of text and attribute vectors with the mean of the history's; popularity counts the "
            "appended events of other users, which the generative model has not seen",
            "one seed; the inserted items' events were never trained on; the serving model's weights stayed the same",
            f"after round {ROUNDS} a rollback; a DVC run and a Dagster run then left it so",
        ],
        arguments=arguments.overrides,  # where the workspace lay is of no interest
        ledger=segue(Workspace(root), "ledger").splitlines(),
    )
    print(f"wrote {path}; workspace {root}")


def prepare(source: Path, root: Path, overrides: list[str]) -> list[tuple[Path, Path]]:
    """A workspace without the withheld items, its first run, and the files of each round."""
    root.mkdir(parents=True, exist_ok=True)
    for name in TRACKED:
        place = source / name
        if place.is_dir():
            shutil.copytree(
                place, root / name, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(place, root / name)
    write_text(root / "dvc.lock", "schema: '2.0'\nstages: {}\n")
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet", "--force"], cwd=root, check=True)
    ingest = source / "data" / "ml-100k" / "ingest"
    events, items = (
        pl.read_parquet(ingest / "interactions.parquet"),
        pl.read_parquet(ingest / "catalogue.parquet"),
    )
    counts = events.group_by("item_id").len().filter(pl.col("len") >= 20).sort("item_id")["item_id"].to_list()
    withheld = np.random.default_rng(SEED).choice(counts, size=round(0.05 * len(counts)), replace=False)
    parts = [part.tolist() for part in np.array_split(withheld, ROUNDS)]
    raw = root / "raw"
    raw.mkdir(exist_ok=True)
    events.filter(~pl.col("item_id").is_in(withheld.tolist())).drop("order").write_parquet(
        raw / "interactions.parquet"
    )
    items.filter(~pl.col("item_id").is_in(withheld.tolist())).write_parquet(raw / "catalogue.parquet")
    files = []
    for number, part in enumerate(parts, start=1):
        event_file, item_file = raw / f"events-{number}.parquet", raw / f"items-{number}.parquet"
        events.filter(pl.col("item_id").is_in(part)).drop("order").write_parquet(event_file)
        items.filter(pl.col("item_id").is_in(part)).write_parquet(item_file)
        files.append((event_file, item_file))
    profile: dict[str, Any] = {section: {} for section in SECTIONS}
    committed = yaml.safe_load((root / "profiles" / "ml-100k.yaml").read_text(encoding="utf-8"))
    profile |= {section: value for section, value in committed.items() if section != "data"}
    profile["data"] = {
        "title": "ML-100K without the withheld items",
        "interactions": {"path": str(raw / "interactions.parquet")},
        "catalogue": {"path": str(raw / "catalogue.parquet")},
    }
    for override in overrides:
        key, _, value = override.partition("=")
        section, _, name = key.partition(".")
        profile[section] = {**profile[section], name: yaml.safe_load(value)}
    write_text(root / "profiles" / f"{DATASET}.yaml", yaml.safe_dump(profile))
    write_json(root / "bases" / f"{DATASET}.json", dict.fromkeys(KEEPABLE))
    params = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    params["datasets"] = [DATASET]
    write_text(root / "params.yaml", yaml.safe_dump(params, sort_keys=False))
    segue(Workspace(root), "run")
    return files


def play(workspace: Workspace, number: int, events: Path, items: Path) -> dict[str, Any]:
    """One round: append, take in, serve, roll back, and see that it stays rolled back; then take it in again."""
    engine = ENGINES[(number - 1) % len(ENGINES)]
    before = deployment(workspace)
    began = time.monotonic()
    segue(workspace, "data", "append", "--events", str(events), "--items", str(items))
    segue(workspace, "day-two", "--engine", engine)
    seconds = time.monotonic() - began
    after = deployment(workspace)
    if after["revision"] <= before["revision"]:
        raise SystemExit(f"round {number}: the refresh was not deployed: {segue(workspace, 'ledger')}")
    inserted = pl.read_parquet(items)["item_id"].to_list()
    figures = recall_of_inserted(workspace, inserted)
    report = json.loads((workspace.step(DATASET, "drift") / "drift.json").read_text(encoding="utf-8"))
    row: dict[str, Any] = {
        "round": number,
        "engine": engine,
        "inserted": len(inserted),
        **figures,
        "drift": report["verdict"],
        "revision": after["revision"],
        "rolled_back_to": None,
        "seconds": seconds,
    }
    if number == ROUNDS:
        row["rolled_back_to"] = roll_back_and_look(workspace, before)
    return row


def roll_back_and_look(workspace: Workspace, before: dict[str, Any]) -> int:
    """Roll back; the former lists are served; two more runs, one of each engine, leave it so."""
    segue(workspace, "rollback", "--reason", "the benchmark's rollback")
    rolled = deployment(workspace)
    if bundles(rolled) != bundles(before):
        raise SystemExit(f"the rollback serves {bundles(rolled)}, not {bundles(before)}")
    for engine in ("dvc", "dagster"):
        segue(workspace, "run", "--engine", engine)
        if deployment(workspace)["revision"] != rolled["revision"]:
            raise SystemExit(f"the {engine} run undid the rollback")
    return int(rolled["restores"])


def bundles(document: dict[str, Any]) -> list[str]:
    shadow = [document["shadow"]["bundle"]] if document.get("shadow") else []
    return [arm["bundle"] for arm in document["arms"]] + shadow


def recall_of_inserted(workspace: Workspace, inserted: list[str], k: int = 50) -> dict[str, Any]:
    """recall@k of the inserted items as targets: served generative list, content-kNN, popularity."""
    from segue.data.sequences import Sequences
    from segue.generative.path import load_path
    from segue.items import Items, ItemVectors
    from segue.params import load_params
    from segue.paths import ListRules, Request
    from segue.tokenizers.item_map import bound_items

    items = Items.load(workspace.step(DATASET, "splits"))
    new = set(items.indices(inserted)[0].tolist())
    sequences = Sequences.load(workspace.step(DATASET, "sequences") / "regular")
    requests, targets = [], []
    for user in range(len(sequences)):
        events, times = sequences.user(user)
        hits = [position for position, item in enumerate(events.tolist()) if item in new and position > 0]
        if hits:
            position = hits[-1]
            history = np.asarray(events[:position], dtype=np.int64)
            requests.append(Request(history=history, timestamps=np.asarray(times[:position], dtype=np.int64)))
            targets.append(int(events[position]))
    path = load_path(
        workspace.step(DATASET, "refit"),
        bound_items(workspace.step(DATASET, "item_map")),
        load_params(workspace, DATASET).decoding,
    )
    served = path.recommend(requests, k, ListRules(filter_seen=True))
    content = np.concatenate(
        [
            ItemVectors.load(workspace.step(DATASET, f"{name}_embeddings")).vectors
            for name in ("text", "attribute")
        ],
        axis=1,
    )
    content /= np.maximum(np.linalg.norm(content, axis=1, keepdims=True), 1e-9)
    counts = np.bincount(sequences.items, minlength=len(items)).astype(np.float64)
    found = {"generative": 0, "content_knn": 0, "popularity": 0}
    for request, target, ranked in zip(requests, targets, served, strict=True):
        others = counts.copy()
        others[target] -= 1  # the event that is asked for has not happened yet
        found["generative"] += int(target in ranked.items)
        for name, scores in {
            "content_knn": content @ content[request.history].mean(axis=0),
            "popularity": others,
        }.items():
            scores[request.history] = -np.inf
            found[name] += int(target in np.argpartition(-scores, k)[:k])
    return {
        "targets": len(targets),
        **{f"recall@{k} {name}": hits / max(1, len(targets)) for name, hits in found.items()},
    }


def deployment(workspace: Workspace) -> dict[str, Any]:
    path = workspace.state(DATASET) / "deployment" / "current.json"
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["deployment"]
    return document


def segue(workspace: Workspace, *arguments: str) -> str:
    """Run the command line in the workspace; its progress goes to this process's stderr."""
    finished = subprocess.run(
        [sys.executable, "-m", "segue.cli", *arguments, "--dataset", DATASET],
        cwd=workspace.root,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if finished.returncode:
        raise SystemExit(f"segue {' '.join(arguments)} failed:\n{finished.stdout}")
    return finished.stdout


if __name__ == "__main__":
    main()
