"""``segue replay``, ``segue simulate`` and ``segue migrate-demo``: two ways to watch a migration work."""

from __future__ import annotations

from typing import Annotated

import typer

from segue.errors import SegueError
from segue.simulation.settings import TruthName
from segue.workspace import Workspace

Dataset = Annotated[
    str, typer.Option("--dataset", "--profile", "-d", help="A profile: profiles/<dataset>.yaml")
]
DEFAULT = "ml-100k"


class NotAsPlanted(SegueError):
    """A simulation ended otherwise than its truth says, or exposures were lost."""


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command()(replay)
    app.command()(simulate)
    app.command("migrate-demo")(migrate_demo)


def replay(
    dataset: Dataset = DEFAULT,
    url: Annotated[str, typer.Option(help="Of the running service")] = "http://127.0.0.1:3000",
    events: Annotated[
        int | None, typer.Option(min=1, help="The first so many events of each user; default: all")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, max=256, help="Lists a call")] = 128,
    users_per_day: Annotated[
        float, typer.Option(min=1, help="New users a day, for the power calculation")
    ] = 1000.0,
) -> None:
    """Send held-back users' real events to the running service, a list before each; then the honest verdict."""
    from segue.params import load_params
    from segue.replay.command import replay as run
    from segue.traffic.client import HttpClient

    workspace = Workspace.find()
    params = load_params(workspace, dataset)
    with HttpClient(url) as client:
        done, _ = run(
            workspace, dataset, params, client, most=events, batch=batch, users_per_day=users_per_day
        )
    if done.exposures.lost:
        raise NotAsPlanted(f"{done.exposures.lost} exposures were lost: look at the server's log and /health")


def simulate(
    truth: Annotated[TruthName, typer.Option(help="What is planted (simulation.yaml)")],
    dataset: Dataset = DEFAULT,
    users: Annotated[
        int | None, typer.Option(min=1, help="Who come at most; default: as simulation.yaml says")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of users, preferences and luck")] = 0,
    name: Annotated[str | None, typer.Option(help="Of its folder; default: <truth>-<seed>")] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Put it in the place of a finished one of its name")
    ] = False,
) -> None:
    """SIMULATION: drive a service of its own with simulated users of known preference, under a planted truth."""
    from segue.simulation.signals import ended_by_sigterm
    from segue.simulation.simulate import simulate as run
    from segue.simulation.telling import summary, verdict_of

    with ended_by_sigterm():
        found = run(Workspace.find(), dataset, truth, users=users, seed=seed, name=name, again=again)
    for line in summary(found):
        print(line)
    if (wrong := verdict_of(found)) is not None:
        raise NotAsPlanted(wrong)


def migrate_demo(
    dataset: Dataset = DEFAULT,
    truths: Annotated[
        list[TruthName] | None,
        typer.Option("--truth", help="Which simulations; may be repeated; default: all"),
    ] = None,
    events: Annotated[int, typer.Option(min=1, help="Replayed events of each held-back user")] = 40,
    seed: Annotated[int, typer.Option(help="Of the simulations")] = 0,
) -> None:
    """Serve, replay real users, simulate the planted truths, and leave the migration pages. Needs a finished run."""
    from segue.steps.migrate_demo import migrate_demo as run

    if failures := run(Workspace.find(), dataset, truths or list(TruthName), events=events, seed=seed):
        raise NotAsPlanted("; ".join(failures))
