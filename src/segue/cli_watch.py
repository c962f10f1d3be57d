"""``segue watch``: guard the running experiment without an orchestrator."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from segue.workspace import Workspace

if TYPE_CHECKING:
    from segue.migration.watch import Crossing

Dataset = Annotated[
    str, typer.Option("--dataset", "--profile", "-d", help="A profile: profiles/<dataset>.yaml")
]
DEFAULT = "ml-100k"


def watch(
    dataset: Dataset = DEFAULT,
    once: Annotated[bool, typer.Option("--once", help="Look once and end")] = False,
    every: Annotated[float, typer.Option(min=0.01, help="Seconds between two looks")] = 0.2,
) -> None:
    """Look at the running experiment's guardrails all the time; roll back, at once and by itself, when one is broken.

    It never raises a stage. Several watchers may run: one of them acts. Ctrl-C ends it.
    """
    from segue.serving.watching import Watch

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    watcher = Watch(Workspace.find(), dataset, told=_tell)
    try:
        if once:
            if watcher.look() is None:
                experiment = watcher.experiment
                print("no experiment runs" if experiment is None else watcher.standing)
            return
        print(f"watching {dataset}, {every:g} s between two looks; Ctrl-C ends it", flush=True)
        watcher.run(every)
    except KeyboardInterrupt:
        print("not watching any more")
    finally:
        watcher.stop()


def _tell(crossing: Crossing) -> None:
    print(
        f"guardrail crossed at {_time(crossing.crossed_at)}: {crossing.decision.reasons[0]}\n"
        f"rolled back at {_time(crossing.acted_at)}, {crossing.seconds:.3f} s later: {crossing.change.message}",
        flush=True,
    )


def _time(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")
