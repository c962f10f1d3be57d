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
"""


BEGIN, END = "<!-- measured:begin -->", "<!-- measured:end -->"


def cell(value: Any) -> str:
    if value is None:
        return "not measured"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def section(result: dict[str, Any], *, heading: bool = True) -> str:
    machine = result["machine"]
    command = shlex.join([*result["command"].split(), *result.get("arguments", [])])
    lines = [
        *([f"## {result['name']}", ""] if heading else []),
        result["description"],
        "",
        f"`{command}` · {result['date']} · {machine['processor']}, {machine['cores']} cores"
        f"{', ' + machine['gpu'] if machine['gpu'] else ''} · torch {machine['torch']}"
        f" · commit {str(result['commit'])[:12]}{' with uncommitted changes' if result['uncommitted_changes'] else ''}",
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


def render(folder: Path = RESULTS) -> str:
    results = [read_json(path) for path in sorted(folder.glob("*.json"))]
    return "\n".join([HEADER, *(section(result) for result in results if isinstance(result, dict))])


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
