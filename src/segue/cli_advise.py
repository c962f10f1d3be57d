"""``segue advise``: which way to migrate, what it takes, and a plan that ``segue run`` accepts."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from segue.workspace import Workspace

Dataset = Annotated[
    str, typer.Option("--dataset", "--profile", "-d", help="A profile: profiles/<dataset>.yaml")
]


def advise(
    dataset: Dataset = "ml-100k",
    answers: Annotated[
        Path | None, typer.Option(help="A YAML file with what cannot be measured (docs/advisor.md)")
    ] = None,
    answer: Annotated[
        list[str] | None, typer.Option(help="name=value, over the file; may be repeated")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the plan here, for `segue run --set @FILE`")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The whole advice as JSON")] = False,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=value, or @file.yaml with sections")
    ] = None,
) -> None:
    """Recommend full replacement, partial fusion or gradual migration, with reasons, capacity and a plan of stages."""
    from segue.advisor.advice import advise as advised
    from segue.advisor.answers import read_answers
    from segue.advisor.facts import gather_facts
    from segue.advisor.framework import load_framework
    from segue.advisor.plan import as_yaml
    from segue.advisor.text import as_text
    from segue.artifacts import write_text
    from segue.params import load_params
    from segue.reporting.advice_page import write_advice_page

    workspace = Workspace.find()
    params = load_params(workspace, dataset, overrides or [])
    given = read_answers(answers, answer or [], ask=_prompt if _can_ask(as_json=as_json) else None)
    table = load_framework()
    found = advised(gather_facts(workspace, dataset, params), given, table)
    page = write_advice_page(
        workspace.reports(dataset), found, table, dataset=dataset, title=params.data.title or dataset
    )
    plan = as_yaml(
        found.plan,
        {
            "Advice": found.headline,
            "Use": f"segue run --dataset {dataset} --set @FILE, or copy the section into profiles/{dataset}.yaml",
        },
    )
    if as_json:
        print(json.dumps(found.model_dump(mode="json"), indent=1, ensure_ascii=False))
    else:
        print(as_text(found, table))
        print(f"\nwrote {page}")
    if out is not None:
        write_text(out, plan)
        if not as_json:
            print(f"wrote {out}: segue run -d {dataset} --set @{out}")


def _can_ask(*, as_json: bool) -> bool:
    """Whether somebody is there to answer; with --json a program is."""
    return not as_json and sys.stdin.isatty()


def _prompt(name: str, question: str) -> str:
    return str(typer.prompt(f"{question} [{name}]", prompt_suffix=": "))
