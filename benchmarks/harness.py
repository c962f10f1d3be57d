"""Measuring side by side, and writing down everything that a figure needs to be believed."""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from segue.artifacts import write_json
from segue.benchmarking import provenance
from segue.benchmarking.provenance import processor

Size = TypeVar("Size")

__all__ = ["commit", "main", "median_seconds", "processor", "write"]

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


def commit() -> str | None:
    """The commit that is checked out; None outside a repository."""
    return provenance.commit(ROOT)


def write(
    name: str, description: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]], **facts: Any
) -> Path:
    """``results/<name>.json``: command, commit, machine, date and rows."""
    module = Path(sys.argv[0]).stem
    path = RESULTS / f"{name}.json"
    write_json(
        path,
        {
            "name": name,
            "description": description,
            "command": f"python -m benchmarks.{module}",
            **provenance.facts(ROOT),
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
    figure: str | None = None,
) -> None:
    """A benchmark's command line: measure at ``size`` and write; with ``--quick``, at a toy size, written nowhere.

    The description is the second paragraph of ``doc``, the module's docstring. Where a machine cannot measure, no row has the
    column ``figure``, and figures that another one has written stay.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a toy size, written nowhere")
    if parser.parse_args().quick:
        print(*measure(quick), sep="\n")
        return
    rows = measure(size)
    if (
        figure is not None
        and all(row.get(figure) is None for row in rows)
        and (RESULTS / f"{name}.json").is_file()
    ):
        print(f"nothing could be measured here: {RESULTS / name}.json stays as it is")
        return
    path = write(name, doc.split("\n\n")[1].replace("\n", " "), columns, rows, notes=notes(size))
    print(f"wrote {path}")
