"""Render RESULTS.md from results/*.json: ``python -m benchmarks.render``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from benchmarks.harness import RESULTS, ROOT
from segue.artifacts import read_json, write_text

HEADER = """# Measured

Rendered from `benchmarks/results/*.json` by `python -m benchmarks.render`; nothing here is typed. Ratios compare what
stood side by side in one run on one machine; seconds differ from machine to machine. No GPU but where a row names one.
A command is spelled as the commit beside it had it, and its figures are of that commit's code.
"""


BEGIN, END = "<!-- measured:begin -->", "<!-- measured:end -->"


def cell(value: Any) -> str:
    if value is None:
        return "not measured"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def _made(result: dict[str, Any]) -> str:
    """The command, the day, the machine and the commit."""
    machine = result["machine"]
    command = shlex.join([*result["command"].split(), *result.get("arguments", [])])
    return (
        f"`{command}` · {result['date']} · {machine['processor']}, {machine['cores']} cores"
        f"{', ' + machine['gpu'] if machine['gpu'] else ''} · torch {machine['torch']}"
        f" · commit {str(result['commit'])[:12]}{' with uncommitted changes' if result['uncommitted_changes'] else ''}"
    )


def section(result: dict[str, Any], *, heading: bool = True) -> str:
    lines = [
        *([f"## {result['name']}", ""] if heading else []),
        result["description"],
        "",
        _made(result),
        "",
        "| " + " | ".join(result["columns"]) + " |",
        "|" + "---|" * len(result["columns"]),
        *(
            "| " + " | ".join(cell(row.get(column)) for column in result["columns"]) + " |"
            for row in result["rows"]
        ),
    ]
    if result.get("notes"):
        lines += ["", *(f"- {note}" for note in result["notes"])]
    return "\n".join(lines) + "\n"


def quality_sections(result: dict[str, Any]) -> str:
    """Of the quality benchmark: for each dataset its command, its protocol, the means over seeds and the differences."""
    parts = [f"## {result['name']}", "", result["description"], ""]
    for run in result["runs"]:
        of_dataset = [
            [each for each in result[name] if each["dataset"] == run["dataset"]]
            for name in ("means", "paired")
        ]
        parts += [
            f"### {run['dataset']}",
            "",
            *_how(run),
            "",
            *_means(of_dataset[0]),
            "",
            *_paired(of_dataset[1]),
        ]
    return "\n".join(parts) + "\n"


def _how(run: dict[str, Any]) -> list[str]:
    protocol = run["protocol"]
    return [
        _made(run),
        "",
        f"{protocol['split']}, {protocol['part']} of {protocol['users']:,} users (one target each), "
        f"{protocol['ranking']} of {protocol['items']:,} items; chosen by validation of "
        f"{protocol['validation_users']:,} users{_gap(protocol)}; "
        f"settings: {protocol['settings']}, {protocol['trials']} trials a model; "
        f"test read {protocol['test_reads']}.",
    ]


def _gap(protocol: dict[str, Any]) -> str:
    if not protocol.get("validation_gap"):
        return ""
    return ", of whom training lacks the event before their validation target"


def _means(means: list[dict[str, Any]]) -> list[str]:
    """A line a model, head and filter, with both headline metrics."""
    lines = [
        "| model | head | seen items | NDCG@10 | Recall@10 | of the list found by the beam | weight of the codes | "
        "validation | parameters | training s | core hours | seeds |",
        "|" + "---|" * 12,
    ]
    values = {(row["model"], row["head"], row["filter_seen"], row["metric"]): row for row in means}
    for (model, head, filter_seen, metric), row in values.items():
        if metric != "ndcg@10":
            continue
        recall = values[model, head, filter_seen, "recall@10"]
        cells = [
            model,
            head,
            "hidden" if filter_seen else "shown",
            _estimate(row["value"], row),
            _estimate(recall["value"], recall),
            "" if row["beam_share"] is None else f"{row['beam_share']:.1%}",
            "" if row["code_weight"] is None else f"{row['code_weight']:.2f}",
            f"{row['validation']:.4f}",
            f"{row['parameters']:,}",
            f"{row['train_seconds']:.0f}",
            f"{row['core_hours']:.3f}",
            str(len(row["seeds"])),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _paired(paired: list[dict[str, Any]]) -> list[str]:
    """A line a pair and metric, seen items hidden where that was asked for."""
    hidden = [row for row in paired if row["filter_seen"]] or paired
    if not hidden:
        return []
    return [
        "| paired by user | minus | metric | difference |",
        "|" + "---|" * 4,
        *(
            f"| {row['a']} | {row['b']} | {row['metric']} | {_estimate(row['difference'], row, sign='+')} |"
            for row in hidden
            if row["metric"] in ("ndcg@10", "recall@10")
        ),
        "",
    ]


def _estimate(value: float, row: dict[str, Any], sign: str = "") -> str:
    return f"{value:{sign}.4f} [{row['low']:{sign}.4f}, {row['high']:{sign}.4f}]"


def render(folder: Path = RESULTS) -> str:
    results = [read_json(path) for path in sorted(folder.glob("*.json"))]
    return "\n".join(
        [
            HEADER,
            *(
                quality_sections(result) if "runs" in result else section(result)
                for result in results
                if isinstance(result, dict)
            ),
        ]
    )


def readme(text: str, folder: Path = RESULTS) -> str:
    """``text`` with the demo's table between the two marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    result: Any = read_json(folder / "demo.json")
    return f"{before}{BEGIN}\n{section(result, heading=False)}{END}{after}"


if __name__ == "__main__":
    write_text(ROOT / "RESULTS.md", render())
    readme_file = ROOT.parent / "README.md"
    write_text(readme_file, readme(readme_file.read_text(encoding="utf-8")))
    print(f"wrote {ROOT / 'RESULTS.md'} and the README's table")
