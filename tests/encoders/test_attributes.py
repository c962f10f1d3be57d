"""Attributes: the columns, and that a kept space never moves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from segue.artifacts import write_json
from segue.bases import keep
from segue.encoders.attributes import AttributeSpace
from segue.errors import ArtifactError
from segue.items import ItemVectors
from segue.steps import attribute_embeddings as step
from segue.workspace import Workspace
from tests.data.examples import catalogue, context

ITEMS = catalogue(
    list("abcde"),
    categories=[["Drama", "Crime"], ["Drama"], None, [], ["Comedy", "Comedy", ""]],
    year=[1990, 2000, 1995, None, None],
    price=[1.0, None, -5.0, None, float("nan")],
)


def test_columns_and_presence() -> None:
    space = AttributeSpace.fit(ITEMS, 10)
    assert space.categories == ("Comedy", "Crime", "Drama")
    vectors, present = space.encode(ITEMS)
    assert vectors.shape == (5, 6)
    assert present.tolist() == [True, True, False, False, True]  # c: the mean year and nothing else
    assert not vectors[~present].any()
    assert np.linalg.norm(vectors[present], axis=1) == pytest.approx(1)
    raw = np.array(
        [0, 1, 1, 0, (1990 - 1995) / np.std([1990, 2000, 1995]), 0]
    )  # the only price is its own mean
    assert vectors[0] == pytest.approx(raw / np.linalg.norm(raw), abs=1e-6)
    assert vectors[4].tolist() == [1, 0, 0, 0, 0, 0]
    assert np.isfinite(vectors).all()


def test_rare_categories_share_a_column() -> None:
    space = AttributeSpace.fit(ITEMS, 1)
    assert space.categories == ("Drama",)
    vectors, _ = space.encode(ITEMS.tail(1))
    assert vectors[0].tolist() == [0, 1, 0, 0]


def test_items_without_any_attribute() -> None:
    vectors, present = AttributeSpace.fit(catalogue(["a", "b"]), 10).encode(catalogue(["a", "b"]))
    assert vectors.shape == (2, 3)
    assert not present.any()


def write_items(folder: Path, items: pl.DataFrame) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    items.with_row_index("item_index").with_columns(train_count=pl.lit(0)).write_parquet(
        folder / "items.parquet"
    )
    return folder


def seal(root: Path, name: str, made: Path) -> str:
    """Make ``made`` the current artifact of a step and keep it."""
    from segue.artifacts import commit

    workspace = Workspace(root)
    commit(
        made,
        workspace.step("tiny", name),
        step=name,
        dataset="tiny",
        params_sha256="",
        inputs={},
        code_version="",
    )
    return str(keep(workspace, "tiny", [name])[name])


def test_the_kept_space_never_moves(tmp_path: Path) -> None:
    name = "attribute_embeddings"
    first = context(tmp_path, name, {"splits": write_items(tmp_path / "one", ITEMS)})
    step.run(first)
    before = ItemVectors.load(first.output)
    encoder = (first.output / "encoder.json").read_bytes()
    kept = seal(tmp_path, name, first.output)

    new = catalogue(
        ["0new", "znew"], categories=[["Western", "Drama"], ["Noir"]], year=[2050, None], price=[9e9, None]
    )
    grown = pl.concat([ITEMS, new]).sort("item_id")
    second = context(tmp_path, name, {"splits": write_items(tmp_path / "two", grown)}, kept={name: kept})
    step.run(second)
    after = ItemVectors.load(second.output)
    assert after.vectors[1:6].tobytes() == before.vectors.tobytes()
    assert (second.output / "encoder.json").read_bytes() == encoder
    assert after.vectors[6].tolist() == [0, 0, 0, 1, 0, 0]  # Noir is outside the vocabulary
    assert after.present[[0, 6]].all()


def test_a_damaged_space_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "attributes.json", {"categories": []})
    with pytest.raises(ArtifactError, match=r"attributes\.json cannot be read"):
        AttributeSpace.load(tmp_path)
