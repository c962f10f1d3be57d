"""``segue store``: look after the online store."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from segue.errors import ConfigurationError
from segue.workspace import Workspace

if TYPE_CHECKING:
    from segue.serving.store import Store

app = typer.Typer(
    no_args_is_help=True, help="The online store: retention, erasure, exports, schema upgrades."
)
Dataset = Annotated[
    str, typer.Option("--dataset", "--profile", "-d", help="A profile: profiles/<dataset>.yaml")
]
Days = Annotated[float | None, typer.Option(min=0, help="Keep so many days; default: for ever")]
Exported = Literal["users", "exposures", "feedback", "events"]
DEFAULT = "ml-100k"
_DAY = 86_400


@contextmanager
def opened_store(dataset: str) -> Iterator[Store]:
    """The dataset's store. Raises ConfigurationError where it has none yet."""
    from segue.params import load_params
    from segue.serving.store import open_store, store_exists

    workspace = Workspace.find()
    load_params(workspace, dataset)
    if not store_exists(workspace, dataset):
        raise ConfigurationError(
            f"{dataset} has no online store yet: the server makes it (`make serve DATASET={dataset}`)"
        )
    store = open_store(workspace, dataset)
    try:
        yield store
    finally:
        store.close()


@app.command()
def status(dataset: Dataset = DEFAULT) -> None:
    """Where the store is, its schema version, and how many rows each table has."""
    with opened_store(dataset) as store:
        print(f"{store.where}, schema version {store.version}")
        for name, count in store.counts().items():
            print(f"{name:10} {count}")


@app.command()
def upgrade(dataset: Dataset = DEFAULT) -> None:
    """Bring the store's tables up to date now; every opening does it, so this is for a moment of your choice."""
    with opened_store(dataset) as store:
        if store.version_found == store.version:
            print(f"{store.where} has schema version {store.version} already")
        else:
            print(f"{store.where}: upgraded from schema version {store.version_found} to {store.version}")


@app.command()
def prune(
    dataset: Dataset = DEFAULT,
    events: Days = None,
    exposures: Days = None,
    feedback: Days = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many rows would go")] = False,
) -> None:
    """Remove what is older than so many days, table by table."""
    from segue.serving.store import Retention

    if events is exposures is feedback is None:
        raise ConfigurationError(
            "nothing to prune: give --events, --exposures or --feedback a number of days"
        )
    with opened_store(dataset) as store:
        retention = Retention(events=events, exposures=exposures, feedback=feedback)
        for table, count in store.prune(retention, dry_run=dry_run).items():
            print(f"{table:10} {count} rows {'would be removed' if dry_run else 'removed'}")


@app.command()
def erase(
    user: Annotated[str, typer.Argument(help="The user_id, as it stands in the data")],
    dataset: Dataset = DEFAULT,
) -> None:
    """Erase a user: store, appended events, kept splits, and every later ingestion. No later data bring them back."""
    from segue.params import load_params
    from segue.steps.erasing import Swept, erase_user

    workspace = Workspace.find()
    load_params(workspace, dataset)
    if not user:
        raise ConfigurationError("the user_id is empty: name whom to erase")
    erased = erase_user(workspace, dataset, user)
    for table, count in erased.rows.items():
        print(f"{table:10} {count} rows removed")
    if erased.swept is None:
        print("a run holds the dataset: appended events and kept splits are swept when the next one begins")
    else:
        print(f"appended   {erased.swept.appended_rows} rows removed")
        print(f"kept       {erased.swept.kept_splits} copies of the splits rewritten")
    if not any(erased.rows.values()) and (
        erased.swept is None or erased.swept == Swept(appended_rows=0, kept_splits=0)
    ):
        print(
            f"nothing was known of {user!r} here: is it written as in the data? It is barred from now on "
            "(`segue store readmit` takes that back)"
        )
    print(
        f"next: `segue run --dataset {dataset}` makes data/{dataset}/ anew without them. Kept weights were trained "
        "before: `segue keep --retrain` lets them go. docs/store.md says what is yours to erase"
    )


@app.command()
def readmit(user: Annotated[str, typer.Argument(help="The user_id")], dataset: Dataset = DEFAULT) -> None:
    """Keep data of an erased user from now on. What was erased stays gone."""
    from segue.params import load_params
    from segue.steps.erasing import readmit_user

    workspace = Workspace.find()
    load_params(workspace, dataset)
    found = readmit_user(workspace, dataset, user)
    print("data of this user are kept from now on" if found else "this user had not been erased")


@app.command()
def export(
    table: Annotated[Exported, typer.Argument(help="users: sums by user, arm and deployment")],
    out: Annotated[Path, typer.Option(help="A Parquet file")],
    dataset: Dataset = DEFAULT,
    window_hours: Annotated[
        float, typer.Option(min=0, help="users: how old an exposure may be that feedback names by no id")
    ] = 24.0,
    days: Annotated[float | None, typer.Option(min=0, help="users: of the last so many days")] = None,
) -> None:
    """Write a table as Parquet; `users` is what online evidence is made from."""
    with opened_store(dataset) as store:
        if table != "users":
            print(f"{store.export(table, out)} rows in {out}")
            return
        since = None if days is None else time.time() - days * _DAY
        sums = store.user_sums(window_seconds=int(window_hours * 3600), since=since)
        out.parent.mkdir(parents=True, exist_ok=True)
        sums.table.write_parquet(out)
        coverage = sums.coverage
        print(f"{sums.table.height} rows in {out}")
        print(
            f"{coverage.exposures} exposures ({coverage.anonymous_exposures} of no named user); {coverage.feedback} "
            f"feedback: {coverage.stated} by exposure, {coverage.inferred} by user and item, "
            f"{coverage.unattributed} unattributed"
        )
