"""``segue report``: make a page anew from what lies there, without running the graph."""

from __future__ import annotations

from typing import Annotated

import typer

from segue.workspace import Workspace

app = typer.Typer(no_args_is_help=True, help="Pages for people, made anew at any time.")
Dataset = Annotated[
    str, typer.Option("--dataset", "--profile", "-d", help="A profile: profiles/<dataset>.yaml")
]
DEFAULT = "ml-100k"


@app.callback()
def _pages() -> None:
    """So that a page is a subcommand even while there is only one."""


@app.command()
def migration(
    dataset: Dataset = DEFAULT,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=value, or @file.yaml with sections")
    ] = None,
) -> None:
    """The migration page: where it stands, the evidence, every decision, what the next stage lacks, what requests cost."""
    from segue.params import load_params
    from segue.steps.migration_report import report_migration

    workspace = Workspace.find()
    print(f"wrote {report_migration(workspace, dataset, load_params(workspace, dataset, overrides or []))}")
