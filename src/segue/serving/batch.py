"""The same lists as the endpoint gives, for many users at once, as a table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import get_args

import polars as pl

from segue.errors import DataError
from segue.schema import Interactions
from segue.serving.requests import ExplainAnswer, ExplainRequest, RecommendRequest, ServedPath
from segue.serving.service import Service
from segue.workspace import Workspace

COLUMNS = {
    "user_id": pl.String,
    "position": pl.Int32,  # from 0
    "item_id": pl.String,
    "title": pl.String,
    "score": pl.Float64,
    "source": pl.String,
    "path": pl.String,
    "bundle": pl.String,
    "deployment": pl.Int64,
    "arm": pl.String,
    "fallback": pl.String,
}
_BATCH = 64


def recommend_to_parquet(
    service: Service, users: Iterable[str], out: Path, *, k: int = 10, path: ServedPath | None = None
) -> int:
    """Write one list per user, one row per item (:data:`COLUMNS`); the number of users.

    ``path`` None: each user's arm, as at the endpoint. Nothing is logged as an exposure: when a list is
    shown, if ever, is known to whoever shows it.
    """
    rows: list[tuple[object, ...]] = []
    count = 0
    for batch in _batches(users):
        requests = [RecommendRequest(user_id=user, k=k, path=path) for user in batch]
        for user, answer in zip(batch, service.recommend_batch(requests, expose=False), strict=True):
            rows.extend(
                (
                    user,
                    position,
                    item.item_id,
                    item.title,
                    item.score,
                    item.source,
                    answer.path,
                    answer.bundle,
                    answer.deployment,
                    answer.arm,
                    answer.fallback,
                )
                for position, item in enumerate(answer.items)
            )
        count += len(batch)
    out.parent.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(rows, schema=COLUMNS, orient="row").write_parquet(out)
    return count


def recommend_file(
    workspace: Workspace, dataset: str, users: Path, out: Path, *, k: int = 10, path: str | None = None
) -> str:
    """``segue recommend``: lists for the users in a CSV or Parquet file with a column ``user_id``.

    Follows the deployment as the server does. Raises DataError where the file is missing, has no such
    column or holds an empty id, or where the path is unknown.
    """
    names = read_users(users)
    _check_path(path)
    service = Service.following(workspace, dataset, poll_seconds=3600)
    try:
        count = recommend_to_parquet(service, names, out, k=k, path=path)  # type: ignore[arg-type]  # checked above
    finally:
        service.close()
    return f"{count} lists in {out}"


def explain_to(
    workspace: Workspace, dataset: str, user: str, item: str, *, path: str | None = None
) -> ExplainAnswer:
    """``segue explain``: why the item, for the user's stored history, as the server answers.

    Raises DataError for an item that the catalogue lacks, or where the path is unknown.
    """
    _check_path(path)
    service = Service.following(workspace, dataset, poll_seconds=3600)
    try:
        return service.explain(ExplainRequest(user_id=user, item_id=item, path=path))
    finally:
        service.close()


def _check_path(path: str | None) -> None:
    if path is not None and path not in get_args(ServedPath):
        raise DataError(f"--path {path!r}: it is one of {', '.join(get_args(ServedPath))}")


def read_users(path: Path) -> list[str]:
    """The ids in a table's column ``user_id``, in order, each once."""
    column = Interactions.USER
    try:
        table = pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path, infer_schema=False)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing") from error
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{path} cannot be read as {path.suffix or 'CSV'}: {error}") from error
    if column not in table.columns:
        raise DataError(f"{path} has no column {column!r} (it has {', '.join(table.columns)})")
    names = table[column].cast(pl.String)
    for row, name in enumerate(names):
        if not name:
            raise DataError(f"{path}, data row {row + 1}: {column} is empty")
    return names.unique(maintain_order=True).to_list()


def _batches(users: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(users)
    while batch := list(islice(iterator, _BATCH)):
        yield batch
