"""Small tables and step contexts for the tests of data and encoders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from segue.params import SECTIONS, Params
from segue.steps.registry import get
from segue.steps.runner import StepContext
from segue.workspace import Workspace

DATA = {"title": "A tiny world", "interactions": {"path": "nowhere.csv"}}
INTERACTIONS = {
    "user_id": pl.String,
    "item_id": pl.String,
    "timestamp": pl.Int64,
    "order": pl.Int64,
    "action": pl.String,
    "weight": pl.Float64,
}
CATALOGUE = {
    "item_id": pl.String,
    "title": pl.String,
    "text": pl.String,
    "categories": pl.List(pl.String),
    "year": pl.Int32,
    "price": pl.Float64,
    "created_at": pl.Int64,
    "image_path": pl.String,
}


def interactions(rows: Sequence[tuple[str, str, int | None]]) -> pl.DataFrame:
    """(user, item, timestamp) in the order of the source."""
    return pl.DataFrame(
        [(user, item, time, order, None, None) for order, (user, item, time) in enumerate(rows)],
        schema=INTERACTIONS,
        orient="row",
    )


def catalogue(ids: Sequence[str], **columns: Sequence[Any]) -> pl.DataFrame:
    """Items with the given columns, everything else null."""
    empty = [None] * len(ids)
    return pl.DataFrame(
        {name: ids if name == "item_id" else columns.get(name, empty) for name in CATALOGUE}, schema=CATALOGUE
    )


def random_interactions(
    users: int, items: int, events: int, *, seed: int = 0, span: int = 10_000
) -> pl.DataFrame:
    """Events at random seconds of ``span``; ties and repeats occur."""
    rng = np.random.default_rng(seed)
    columns = (
        rng.integers(users, size=events),
        rng.integers(items, size=events),
        rng.integers(span, size=events),
    )
    return interactions(
        [(f"u{user}", f"i{item}", int(time)) for user, item, time in zip(*columns, strict=True)]
    )


def context(
    root: Path, step: str, inputs: dict[str, Path], *, kept: dict[str, str] | None = None, **sections: Any
) -> StepContext:
    """A context as the runner makes it, with defaults for every section that is not given."""
    output = root / "out" / step
    output.mkdir(parents=True, exist_ok=True)
    return StepContext(
        workspace=Workspace(root),
        dataset="tiny",
        step=get(step),
        params=Params.model_validate({name: sections.get(name, {}) for name in SECTIONS} | {"data": DATA}),
        inputs=inputs,
        input_hashes={},
        output=output,
        identity="0" * 64,
        base=dict(kept or {}),
    )
