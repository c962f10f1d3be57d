"""A tiny world: 12 items of two kinds, users who walk along one kind, content that tells the kinds apart."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from segue.cascade.incumbent import fit_incumbent
from segue.cascade.settings import CascadeSettings, SasrecSettings, TwoTowerSettings
from segue.data.sequences import Sequences
from segue.items import Items, ItemVectors
from segue.paths import Request

N_ITEMS, N_USERS = 12, 30


def make_items(ids: list[str]) -> Items:
    return Items(
        pl.DataFrame(
            {"item_index": range(len(ids)), "item_id": ids, "train_count": [0] * len(ids)},
            schema={"item_index": pl.Int32, "item_id": pl.String, "train_count": pl.Int64},
        )
    )


def make_sequences(histories: list[list[int]], *, labelled: bool = True) -> Sequences:
    lengths = np.array([len(history) for history in histories])
    nothing = np.full(len(histories), -1, dtype=np.int32)
    items = np.concatenate([np.array(history, dtype=np.int32) for history in histories])
    return Sequences(
        items=items,
        timestamps=np.arange(len(items), dtype=np.int64) * 3600,
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        validation_at=(lengths - 2).astype(np.int32) if labelled else nothing,
        test_at=(lengths - 1).astype(np.int32) if labelled else nothing,
        user_ids=[f"u{user}" for user in range(len(histories))],
    )


def make_content(ids: list[str]) -> ItemVectors:
    """Two numbers: even or odd, by the number in the id."""
    kind = np.array([int(item[1:]) % 2 for item in ids])
    return ItemVectors(np.eye(2, dtype=np.float32)[kind], np.ones(len(ids), dtype=bool), ids)


def request(*history: int) -> Request:
    items = np.array(history, dtype=np.int64)
    return Request(history=items, timestamps=np.zeros_like(items))


@dataclass(frozen=True)
class World:
    items: Items
    sequences: Sequences
    content: ItemVectors
    settings: CascadeSettings
    folder: Path
    facts: dict


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A fitted incumbent; item 11 exists and was never consumed."""
    ids = [f"i{number:02d}" for number in range(N_ITEMS)]
    walks = [[(2 * (user // 2 + step) + user % 2) % 10 for step in range(5)] for user in range(N_USERS)]
    items, sequences, content = make_items(ids), make_sequences(walks), make_content(ids)
    settings = CascadeSettings(
        recall_per_route=4,
        item_knn_neighbours=5,
        item_knn_shrinkage=1.0,
        two_tower=TwoTowerSettings(dimensions=8, epochs=4, batch_events=48, max_length=6, precision="fp32"),
        sasrec=SasrecSettings(
            dimensions=8,
            layers=1,
            epochs=8,
            batch_events=48,
            max_length=6,
            trials=2,
            dropout=0.1,
            precision="fp32",
        ),
        threads=1,
    )
    folder = tmp_path_factory.mktemp("incumbent")
    facts = fit_incumbent(
        folder,
        items=items,
        sequences=sequences,
        content=content,
        settings=settings,
        progress=lambda text: None,
    )
    return World(items, sequences, content, settings, folder, facts)
