"""``segue explain``: why an item would be shown to a user."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from segue.workspace import Workspace

if TYPE_CHECKING:
    from segue.serving.requests import ExplainAnswer

DEFAULT = "ml-100k"
SHOWN = 5  # events; what comes after them weighs little and is read by nobody


def explain(
    user: Annotated[str, typer.Option(help="The user_id, as it stands in the data")],
    item: Annotated[str, typer.Option(help="The item_id, likewise")],
    dataset: Annotated[
        str, typer.Option("--dataset", "--profile", "-d", help="A profile: profiles/<dataset>.yaml")
    ] = DEFAULT,
    path: Annotated[
        str | None,
        typer.Option(help="As in docs/paths.md; default: as deployed (of a blend, the generative)"),
    ] = None,
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
    for line in lines_of(answer):
        print(line)


def lines_of(answer: ExplainAnswer) -> Iterator[str]:
    """The explanation for people: which path it is of, the sentence, and the events that speak for the item most."""
    told = f"as the path {answer.path} of bundle {answer.bundle[:12]} explains it"
    yield told + (f", because another could not: {answer.fallback}" if answer.fallback else "")
    yield answer.sentence
    speak_for = sorted((one for one in answer.events if one.importance > 0), key=lambda one: -one.importance)
    if speak_for:
        yield "score lost  without this event"
    for event in speak_for[:SHOWN]:
        yield f"{event.importance:10.4f}  {event.title or event.item_id}"
    more, against = len(speak_for[SHOWN:]), sum(one.importance < 0 for one in answer.events)
    if more or against:
        yield f"{'':10}  and {more} more that speak for it, {against} against it (--json lists all)"
    if answer.theme is not None:
        yield f"theme {answer.theme.prefix}: {', '.join(answer.theme.words) or 'no words'}"
    for warning in answer.warnings:
        yield f"warning: {warning}"
