"""``segue bench``: benchmarks on any profile."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from segue.errors import ConfigurationError
from segue.workspace import Workspace

_READ = (
    "tokenizer",
    "decoding",
    "generative",
    "cascade",
)  # of the parameters; the others are those of the steps that ran

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
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help=f"section.key=value, of the sections {', '.join(_READ)}"),
    ] = None,
) -> None:
    """Train every model under one protocol and write one table, with intervals. What is finished is not repeated."""
    from segue.benchmarking.chosen import ChosenSettings, read_settings
    from segue.benchmarking.contenders import CONTENDERS
    from segue.benchmarking.quality import Benchmark, Plan
    from segue.benchmarking.report import default_place, printed, read_tables, warnings, write_quality
    from segue.benchmarking.world import load_world
    from segue.params import load_params
    from segue.training.device import check_device

    workspace = Workspace.find()
    params = load_params(workspace, dataset, overrides or [])
    _check_overrides(overrides or [])  # which are known and well formed by now
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
    check_device(device, "--device")
    if part == "test":
        read_tables(_checked(out or default_place(workspace, dataset)))
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
    for line in warnings(world, validation_users):
        _say(line)
    try:
        records = Benchmark(world, plan, chosen, folder, _say).records()
    except KeyboardInterrupt:
        _say("stopped: the same command goes on where this one was")
        raise typer.Exit(130) from None
    if part == "test":
        written = write_quality(workspace, world, plan, chosen, records, sys.argv[1:], out)
        if written.replaced is not None:
            _say(
                f"{written.path} held another table of {dataset}, which is replaced; for that one repeat "
                f"`{written.replaced}`: what is on record is not trained again"
            )
        print(f"wrote {written.path}")
    print(printed(world, plan, records))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _check_overrides(overrides: list[str]) -> None:
    """Raises ConfigurationError for a section that the benchmark reads as the steps have it, so that setting it does nothing."""
    from segue.params import expanded

    for override in expanded(overrides):
        section = override.partition("=")[0].partition(".")[0]
        if section not in _READ:
            raise ConfigurationError(
                f"--set {override}: the benchmark takes {section} from the steps that ran; it reads {', '.join(_READ)} alone. "
                "Put it into the profile and run the steps again, or see the options of this command"
            )


def _checked(out: Path) -> Path:
    """Raises ConfigurationError for a place that nothing can be written to, before hours of training."""
    if out.is_dir():
        raise ConfigurationError(
            f"--out {out} is a folder: name a file in it, such as {out / 'quality.json'}"
        )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"--out {out} cannot be written: {error}") from error
    if not os.access(out.parent, os.W_OK):
        raise ConfigurationError(f"--out {out} cannot be written: {out.parent} is not writable")
    return out
