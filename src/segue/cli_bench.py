"""``segue bench``: benchmarks on any profile."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from segue.errors import ConfigurationError
from segue.workspace import Workspace

app = typer.Typer(no_args_is_help=True, help="Benchmarks, on any profile.")


@app.callback()
def bench() -> None:
    """Benchmarks, on any profile."""


@app.command()
def quality(
    dataset: Annotated[
        str, typer.Option("--dataset", "--data", "--profile", "-d", help="A profile: profiles/<dataset>.yaml")
    ] = "ml-100k",
    models: Annotated[str, typer.Option(help="Names with commas between them; default: all")] = "all",
    seeds: Annotated[int, typer.Option(min=1, help="So many: 1, 2, …")] = 3,
    trials: Annotated[
        int, typer.Option(min=0, help="Of each model's study; 0: the settings as they stand")
    ] = 0,
    settings: Annotated[
        Path | None,
        typer.Option(help="Settings tuned elsewhere; default: benchmarks/settings/quality/<dataset>.yaml"),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="A cap for all models; default: their own")
    ] = None,
    part: Annotated[
        Literal["test", "validation"],
        typer.Option(
            help="validation: judged by validation, test is not read, nothing is written to results"
        ),
    ] = "test",
    users: Annotated[
        int | None, typer.Option(min=2, help="So many are judged, drawn by a seed; default: all")
    ] = None,
    validation_users: Annotated[
        int | None, typer.Option(min=1, help="So many choose epochs and weights; default: all")
    ] = None,
    validation_gap: Annotated[
        bool,
        typer.Option(
            help="Leave the last training event of each validation user out of training; the history that is judged has it"
        ),
    ] = False,
    filter_seen: Annotated[
        Literal["both", "yes", "no"], typer.Option(help="Whether lists hide what was seen")
    ] = "both",
    threads: Annotated[int, typer.Option(min=1)] = 1,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="That trains and decodes")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="Default: reports/<dataset>/quality.json")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="section.key=value")] = None,
) -> None:
    """Train every model under one protocol and write one table, with intervals. What is finished is not repeated."""
    from segue.benchmarking.chosen import ChosenSettings, read_settings
    from segue.benchmarking.contenders import CONTENDERS
    from segue.benchmarking.quality import Benchmark, Plan
    from segue.benchmarking.report import printed, write_quality
    from segue.benchmarking.world import load_world
    from segue.params import load_params

    workspace = Workspace.find()
    params = load_params(workspace, dataset, overrides or [])
    own = workspace.root / "benchmarks" / "settings" / "quality" / f"{dataset}.yaml"
    file = settings or (own if own.is_file() else None)
    plan = Plan(
        models=list(CONTENDERS) if models == "all" else [name for name in models.split(",") if name],
        seeds=range(1, seeds + 1),
        trials=trials,
        epochs=epochs,
        part=part,
        users=users,
        filter_seen={"both": (True, False), "yes": (True,), "no": (False,)}[filter_seen],
    )
    chosen = ChosenSettings() if file is None else read_settings(file)
    if part == "validation" and out is not None:
        raise ConfigurationError("--part validation writes no results: leave --out away, or judge by test")
    world = load_world(
        workspace,
        dataset,
        params,
        validation_users=validation_users,
        validation_gap=validation_gap,
        device=device,
        threads=threads,
    )
    folder = workspace.state(dataset) / "benchmarks" / "quality"
    records = Benchmark(
        world, plan, chosen, folder, lambda line: print(line, file=sys.stderr, flush=True)
    ).records()
    if part == "test":
        path = write_quality(workspace, world, plan, chosen, records, sys.argv[1:], out)
        print(f"wrote {path}")
    print(printed(records))
