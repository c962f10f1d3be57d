"""``segue blend``: the weights of blended lists."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from segue.cli_store import DEFAULT, Dataset, opened_store
from segue.workspace import Workspace

app = typer.Typer(no_args_is_help=True, help="Blended lists: learn their weights from feedback.")
Kind = Literal["click", "view", "add_to_cart", "like", "purchase"]


@app.callback()
def blend() -> None:
    """A group of commands, though it has one so far."""


@app.command()
def fit(
    dataset: Dataset = DEFAULT,
    kind: Annotated[Kind, typer.Option(help="The feedback that counts")] = "click",
    days: Annotated[float | None, typer.Option(min=0, help="Of the last so many days; default: all")] = None,
) -> None:
    """Print the weights that clicks on interleaved and blended lists ask for. Sets nothing."""
    from segue.steps.blending import fit_blend

    with opened_store(dataset) as store:
        found = fit_blend(Workspace.find(), dataset, store, kind=kind, days=days)
    lists = ", ".join(f"{count} {path}" for path, count in found.lists.items())
    print(
        f"{found.items} items of {lists} lists, {found.users} users, {found.clicks} with a {kind}; generative weight "
        f"{found.weights['generative']:.4f}, 95 % interval {found.low:.4f} to {found.high:.4f} (bootstrap over users)"
    )
    print(f"for profiles/{dataset}.yaml; the next entry of a stage whose path is blended freezes them:")
    print("migration:")
    print(f"  blend: {{{', '.join(f'{name}: {weight}' for name, weight in found.weights.items())}}}")
