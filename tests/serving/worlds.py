"""A small world with a real bundle, and paths that fail on demand."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from safetensors.torch import load_file, save_file

from segue.cascade.incumbent import fit_incumbent
from segue.cascade.settings import CascadeSettings
from segue.data.sequences import from_events
from segue.decoding.settings import DecodingSettings
from segue.generative.settings import GenerativeSettings
from segue.generative.store import new_model, save_model
from segue.items import Items, ItemVectors
from segue.paths import IndexArray, ListRules, RankedList, Request, Scores
from segue.registry.bundle import BundleManifest, write_bundle, write_incumbent_bundle
from segue.schema import PathName, UserGroup
from segue.tokenizers.item_map import ItemMap, bound_items
from segue.tokenizers.themes import TABLE, prefix_themes

ITEMS, USERS, EVENTS = 40, 30, 8
RULES = {"filter_seen": True}
SERVING = {"default_k": 10, "path_budget_ms": 5000.0}
DECODING = DecodingSettings(beam_width=20, dense_candidates=10).model_dump(mode="json")


def write_splits(folder: Path, items: int = ITEMS) -> Path:
    """items.parquet and interactions.parquet of users u00 … (the last three of them replay users)."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(3)
    rows = []
    for user in range(USERS):
        group = "replay" if user >= USERS - 3 else "regular"
        start = int(generator.integers(ITEMS))
        for position in range(EVENTS):
            part = {EVENTS - 1: "test", EVENTS - 2: "validation"}.get(position, "train")
            rows.append(
                {
                    "user_id": f"u{user:02d}",
                    "item_index": (start + position * 3) % ITEMS,
                    "timestamp": 1_000_000 + 100 * position,
                    "position": position,
                    "group": group,
                    "part": part if group == "regular" else "train",
                    "weight": None,
                }
            )
    events = pl.DataFrame(
        rows, schema_overrides={"item_index": pl.Int32, "position": pl.Int32, "weight": pl.Float64}
    )
    events.write_parquet(folder / "interactions.parquet")
    counts = np.bincount(events["item_index"].to_numpy(), minlength=items)
    pl.DataFrame(
        {
            "item_index": pl.Series(range(items), dtype=pl.Int32),
            "item_id": [f"i{item:03d}" for item in range(items)],
            "title": [f"Item {item}" for item in range(items)],
            "text": ["long " * 20] * items,
            "categories": [["even" if item % 2 == 0 else "odd"] for item in range(items)],
            "train_count": pl.Series(counts, dtype=pl.Int64),
        }
    ).write_parquet(folder / "items.parquet")
    return folder


def write_world(root: Path) -> Path:
    """splits/, incumbent/, item_map/, semantic_id_report/ and model/ under ``root``: real files, hardly trained."""
    splits = write_splits(root / "splits")
    items = Items.load(splits)
    generator = np.random.default_rng(5)
    vectors = generator.normal(size=(ITEMS, 8)).astype(np.float32)
    content = ItemVectors(vectors, np.ones(ITEMS, dtype=bool), items.ids)
    settings = CascadeSettings().model_dump()
    settings["sasrec"] |= {
        "dimensions": 8,
        "layers": 1,
        "heads": 1,
        "epochs": 1,
        "trials": 1,
        "max_length": 8,
    }
    settings["two_tower"] |= {"dimensions": 8, "epochs": 1}
    (root / "incumbent").mkdir()
    fit_incumbent(
        root / "incumbent",
        items=items,
        sequences=from_events(pl.read_parquet(splits / "interactions.parquet"), UserGroup.REGULAR),
        content=content,
        settings=CascadeSettings.model_validate(settings),
        progress=lambda text: None,
    )
    codes = np.stack([np.arange(ITEMS) // 8, np.arange(ITEMS) % 8], axis=1).astype(np.int64)
    ItemMap(
        codebook_id="c" * 64,
        level_sizes=(8, 8),
        revision=1,
        item_ids=items.ids,
        codes=codes,
        revision_added=np.ones(ITEMS, dtype=np.int32),
        retired=np.zeros(ITEMS, dtype=bool),
        vectors=vectors,
        present=np.ones(ITEMS, dtype=bool),
    ).save(root / "item_map")
    (root / "semantic_id_report").mkdir()
    themes = prefix_themes(items.table, codes, (8, 8), words=6, examples=3)
    themes.write_parquet(root / "semantic_id_report" / TABLE)
    generative = GenerativeSettings(dimensions=16, layers=1, heads=2, max_length=16)
    (root / "model").mkdir()
    model = new_model(generative, bound_items(root / "item_map"))
    save_model(root / "model", model, generative, 0.5)
    return root


def full_bundle(world: Path, output: Path, serving: dict[str, object] | None = None) -> BundleManifest:
    return write_bundle(
        output,
        dataset="tiny",
        splits=world / "splits",
        incumbent=world / "incumbent",
        model=world / "model",
        item_map=world / "item_map",
        rules=RULES,
        serving=serving or SERVING,
        decoding=DECODING,
        themes=world / "semantic_id_report",
    )


def incumbent_bundle(world: Path, output: Path) -> BundleManifest:
    return write_incumbent_bundle(
        output,
        dataset="tiny",
        splits=world / "splits",
        incumbent=world / "incumbent",
        rules=RULES,
        serving=SERVING,
    )


def as_an_earlier_version_wrote(model: Path) -> None:
    """Leave in the folder ``model`` weights under names that this version does not have."""
    weights = model / "model.safetensors"
    save_file({f"former_{name}": value for name, value in load_file(weights).items()}, weights)


class FakePath:
    """The items in the order of their index, or whatever it is told to do."""

    def __init__(self, name: PathName, n_items: int) -> None:
        self.name = name
        self.calls = 0
        self.error: Exception | None = None
        self.hang: threading.Event | None = None  # waits for it
        self.answer: list[int] | None = None  # shown whatever the rules say
        self.nan = False
        self.routes: dict[str, Sequence[IndexArray]] = {}  # of the last call
        self._n = n_items

    def recommend(self, requests: Sequence[Request], k: int, rules: ListRules) -> list[RankedList]:
        return self.recommend_with(requests, k, rules, {})

    def score(self, requests: Sequence[Request], items: Sequence[IndexArray]) -> list[Scores]:
        """The larger the index the better, so that a reranked list is told from a proposed one."""
        self._begin()
        return [np.where(self.nan, np.nan, own).astype(np.float32) for own in items]

    def _begin(self) -> None:
        self.calls += 1
        if self.hang is not None:
            self.hang.wait(10)
        if self.error is not None:
            raise self.error

    def recommend_with(
        self,
        requests: Sequence[Request],
        k: int,
        rules: ListRules,
        routes: Mapping[str, Sequence[IndexArray]],
    ) -> list[RankedList]:
        self._begin()
        self.routes = dict(routes)
        lists = []
        for request in requests:
            if self.answer is not None:
                items = np.asarray(self.answer, dtype=np.int64)
            else:
                allowed = np.ones(self._n, dtype=bool) if rules.allowed is None else rules.allowed.copy()
                if rules.filter_seen:
                    allowed[request.history] = False
                if rules.excluded is not None:
                    allowed[rules.excluded] = False
                items = np.flatnonzero(allowed)[:k].astype(np.int64)
            scores = -np.arange(len(items), dtype=np.float32)
            if self.nan:
                scores[:1] = np.nan
            lists.append(RankedList(items=items, scores=scores, sources=(self.name.value,) * len(items)))
        return lists
