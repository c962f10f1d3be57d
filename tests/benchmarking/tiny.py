"""A world of 48 items and 40 users who walk along the catalogue, and settings that train in no time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from segue.benchmarking.chosen import ChosenSettings
from segue.benchmarking.contenders import CONTENDERS
from segue.benchmarking.quality import Benchmark, Plan
from segue.benchmarking.world import World, make_world
from segue.data.sequences import Sequences
from segue.params import load_params
from segue.workspace import Workspace
from tests.generative import tiny as generative
from tests.tokenizers import examples

ITEMS = 48
_SMALL = {
    "dimensions": 8,
    "layers": 1,
    "heads": 2,
    "max_length": 8,
    "batch_events": 128,
    "epochs": 1,
    "precision": "fp32",
}
MODELS: dict[str, dict[str, Any]] = {
    "two_tower": {name: value for name, value in _SMALL.items() if name not in ("layers", "heads")},
    **dict.fromkeys(
        ("sasrec", "sasrec_content", "esasrec", "hstu_items", "house", "hstu", "tiger", "cobra"), _SMALL
    ),
    "cascade": {"recall_per_route": 20},
    "item_knn": {"neighbours": 10},
}
CHOSEN = ChosenSettings(
    "tiny", {"level_sizes": [6, 4, 6], "dimensions": 6, "iterations": 4, "neighbours": 3}, MODELS
)


def world(sequences: Sequences | None = None, **changes: Any) -> World:
    modalities = examples.modalities(ITEMS)
    made = make_world(
        "tiny",
        load_params(Workspace.find(), "ml-100k", ["decoding.beam_width=12", "decoding.dense_candidates=12"]),
        examples.items(modalities["text"].item_ids),
        sequences or generative.sequences(users=40, count=ITEMS),
        modalities,
        examples.ENCODERS,
        **changes,
    )
    return made


def benchmark(folder: Path, made: World, chosen: ChosenSettings = CHOSEN, **plan: Any) -> Benchmark:
    wanted = {"models": list(CONTENDERS), "seeds": (1, 2), **plan}
    return Benchmark(made, Plan(**wanted), chosen, folder, lambda line: None)


def ranks(record: dict[str, Any], head: str = "served") -> np.ndarray:
    return np.array(next(each["ranks"] for each in record["judged"] if each["head"] == head))
