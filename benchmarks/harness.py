"""Measuring side by side, and writing down everything that a figure needs to be believed."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import torch

from segue.artifacts import write_json

Size = TypeVar("Size")

ROOT = Path(__file__).resolve().parent
RESULTS = ROOT / "results"


def median_seconds(
    contenders: Mapping[str, Callable[[], Any]], repeats: int, fewer: Mapping[str, int] | None = None
) -> dict[str, dict[str, float]]:
    """Seconds of each contender: median, lowest and highest of ``repeats``, interleaved so that a slow spell of the
    machine hits all of them; one unmeasured warm-up each. ``fewer`` names those that take minutes, and their repeats:
    they are not warmed up."""
    fewer = fewer or {}
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for name, function in contenders.items():
        if name not in fewer:
            function()
    for repeat in range(repeats):
        for name, function in contenders.items():
            if repeat >= fewer.get(name, repeats):
                continue
            started = time.perf_counter()
            function()
            taken[name].append(time.perf_counter() - started)
    return {
        name: {"median": statistics.median(values), "low": min(values), "high": max(values)}
        for name, values in taken.items()
    }


def processor() -> str:
    """The processor's name as the kernel gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )


def commit() -> str | None:
    """The commit that is checked out; None outside a repository."""
    found = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or None


def write(
    name: str, description: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]], **facts: Any
) -> Path:
    """``results/<name>.json``: command, commit, machine, date and rows."""
    dirty = subprocess.run(
        ["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    module = Path(sys.argv[0]).stem
    path = RESULTS / f"{name}.json"
    write_json(
        path,
        {
            "name": name,
            "description": description,
            "command": f"python -m benchmarks.{module}",
            "commit": commit(),
            "uncommitted_changes": bool(dirty.stdout.strip()),
            "machine": {
                "processor": processor(),
                "cores": os.cpu_count(),
                "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "threads": torch.get_num_threads(),
            },
            "date": datetime.now(UTC).date().isoformat(),
            "columns": list(columns),
            "rows": [dict(row) for row in rows],
            **facts,
        },
    )
    return path


def main(
    name: str,
    doc: str,
    columns: Sequence[str],
    measure: Callable[[Size], list[dict[str, Any]]],
    notes: Callable[[Size], list[str]],
    *,
    size: Size,
    quick: Size,
) -> None:
    """A benchmark's command line: measure at ``size`` and write; with ``--quick``, at a toy size, written nowhere.

    The description is the second paragraph of ``doc``, the module's docstring.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a toy size, written nowhere")
    if parser.parse_args().quick:
        print(*measure(quick), sep="\n")
        return
    path = write(name, doc.split("\n\n")[1].replace("\n", " "), columns, measure(size), notes=notes(size))
    print(f"wrote {path}")
