"""``segue explain``: why an item would be shown to a user."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from segue.workspace import Workspace

DEFAULT = "ml-100k"


def explain(
    user: Annotated[str, typer.Option(help="The user_id, as it stands in the data")],
    item: Annotated[str, typer.Option(help="The item_id, likewise")],
    dataset: Annotated[
        str, typer.Option("--dataset", "--profile", "-d", help="A profile: profiles/<dataset>.yaml")
    ] = DEFAULT,
    path: Annotated[str | None, typer.Option(help="cascade or generative; default: as deployed")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Everything that the server would answer")] = False,
) -> None:
    """Why this item: the sentence, the events that mattered and the shared theme, as the server answers."""
    from segue.params import load_params
    from segue.serving.batch import explain_to
    from segue.steps.day_two import served_bundle

    workspace = Workspace.find()
    load_params(workspace, dataset)
    served_bundle(workspace, dataset)
    answer = explain_to(workspace, dataset, user, item, path=path)
    if as_json:
        print(json.dumps(answer.model_dump(mode="json"), indent=1, ensure_ascii=False))
        return
    print(answer.sentence)
    for event in answer.events:
        print(f"{event.importance:+9.4f}  {event.title or event.item_id}")
    if answer.theme is not None:
        print(f"theme {answer.theme.prefix}: {', '.join(answer.theme.words) or 'no words'}")
    for warning in (*answer.warnings, *([answer.fallback] if answer.fallback else [])):
        print(f"warning: {warning}")
