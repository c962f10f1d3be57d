"""``segue approve``: the second pair of eyes."""

from __future__ import annotations

from typing import Annotated

import typer

from segue.errors import ConfigurationError
from segue.workspace import Workspace


def approve(
    actor: Annotated[str, typer.Option(help="Who approves; never the proposer")],
    dataset: Annotated[
        str, typer.Option("--dataset", "--profile", "-d", help="A profile: profiles/<dataset>.yaml")
    ] = "ml-100k",
    decision: Annotated[
        str | None, typer.Option(help="The first characters of what waits; `segue status` lists it")
    ] = None,
    latest: Annotated[bool, typer.Option("--latest", help="The newest that waits")] = False,
) -> None:
    """Let act what waits for a second person (migration.approval: second_person), if its gate still passes."""
    from segue.params import load_params
    from segue.steps.operations import approve as let_act

    if (decision is None) != latest:
        raise ConfigurationError("say of what you approve: --decision with its first characters, or --latest")
    workspace = Workspace.find()
    load_params(workspace, dataset)
    print(let_act(workspace, dataset, actor=actor, decision=decision))
