"""Collisions by reassignment: a prefix takes no more than its capacity."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.optimize import linear_sum_assignment

from segue.errors import DataError
from segue.tokenizers.codebook import Codebook
from segue.tokenizers.item_map import ItemMap
from segue.tokenizers.placement import place, prefix_keys
from segue.tokenizers.quality import codes_quality
from segue.tokenizers.settings import TokenizerSettings

from .examples import ENCODERS, codebook, modalities
from .test_item_map import brute_force_place, build, by_item

SIZES = (6, 4, 16)
SHARED = codebook(60, TokenizerSettings(level_sizes=SIZES, dimensions=6, iterations=5))
SPREAD = codebook(
    60,
    TokenizerSettings(
        level_sizes=SIZES, dimensions=6, iterations=5, collisions="reassign", prefix_capacity=3
    ),
)
NOTHING = np.zeros((0, 3), dtype=np.int64)


@given(seed=st.integers(0, 10_000), first=st.integers(1, 50), second=st.integers(0, 22))
@settings(max_examples=15, deadline=None)
def test_no_prefix_takes_more_than_its_capacity_and_the_next_nearest_is_taken(
    seed: int, first: int, second: int
) -> None:
    """The rule in plain words is that of the last level, with the capacity for its size."""
    one, two = modalities(first, seed=seed), modalities(second, seed=seed + 1, first=1000)
    narrow = Codebook(SPREAD.fusion, SPREAD.tokenizer, (6, 4, 3), ENCODERS)
    taken = NOTHING
    for items in (one, two):
        vectors, ids = SPREAD.fuse(items)[0], items["text"].item_ids
        codes = place(SPREAD, vectors, ids, taken)
        expected = brute_force_place(narrow, vectors, ids, taken)
        assert dict(zip(ids, map(tuple, codes.tolist()), strict=True)) == expected
        taken = np.concatenate([taken, codes])
    assert np.unique(prefix_keys(taken, SIZES), return_counts=True)[1].max() <= 3


@given(seed=st.integers(0, 1000))
@settings(max_examples=8, deadline=None)
def test_reassignment_is_near_the_best_there_is(seed: int) -> None:
    """Against the Hungarian method over all places; greedy by distance, so not equal to it."""
    items = modalities(60, seed=seed)
    vectors = SPREAD.fuse(items)[0].astype(np.float64)
    codes = place(SPREAD, vectors.astype(np.float32), items["text"].item_ids, NOTHING)
    prefixes = np.array([(a, b, 0) for a in range(6) for b in range(4)])
    costs = ((vectors[:, None, :] - SPREAD.reconstruct(prefixes)) ** 2).sum(axis=2)
    copies = np.repeat(costs, 3, axis=1)
    rows, columns = linear_sum_assignment(copies)
    best = copies[rows, columns].sum()
    own = ((vectors - SPREAD.reconstruct(codes)) ** 2).sum()
    assert best - 1e-9 <= own < 1.6 * best


def test_room_says_what_each_prefix_can_still_take() -> None:
    item_map = build(SPREAD)
    room = item_map.room()
    assert room["free"].min() >= 0
    for prefix, free in zip(room["prefix"].to_list(), room["free"], strict=True):
        assert free == 3 - int((item_map.codes[:, :2] == prefix).all(axis=1).sum())
    assert item_map.codes[:, 2].max() == 2
    assert SPREAD.capacity == 6 * 4 * 3
    quality = codes_quality(SPREAD, item_map.vectors, item_map.codes, neighbours=5, seed=0)
    assert quality["largest_prefix"] == 3
    assert quality["full_prefixes"] == int((room["free"] == 0).sum())


def test_the_capacity_is_part_of_the_codebook_and_the_map_and_survives_saving(tmp_path: Path) -> None:
    SPREAD.save(tmp_path / "book")
    loaded = Codebook.load(tmp_path / "book")
    assert loaded.prefix_capacity == 3
    assert loaded.codebook_id == SPREAD.codebook_id != SHARED.codebook_id
    item_map = build(SPREAD)
    item_map.save(tmp_path / "map")
    again = ItemMap.load(tmp_path / "map")
    assert again.item_map_id == item_map.item_map_id
    assert again.room().equals(item_map.room())
    grown = again.insert(loaded, ["new"], item_map.vectors[:1], np.ones(1, dtype=bool))
    assert grown.codes[-1, 2] < 3
    assert by_item(grown).items() >= by_item(item_map).items()


def test_the_extra_level_has_the_ids_that_it_always_had() -> None:
    """No key of the new option may reach the hash where it is not used."""
    assert "prefix_capacity" not in SHARED._description()
    assert "prefix_capacity" not in build(SHARED).summary()


def test_a_full_codebook_names_the_capacity() -> None:
    filled = build(SPREAD, 72)
    assert filled.room()["free"].sum() == 0
    with pytest.raises(
        DataError, match=r"prefix_capacity 3 give 72 IDs, 0 are free.*or tokenizer.prefix_capacity"
    ):
        filled.insert(SPREAD, ["new"], np.zeros((1, 6), dtype=np.float32), np.ones(1, dtype=bool))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"collisions": "reassign"}, "needs a prefix_capacity"),
        ({"prefix_capacity": 2}, "belongs to collisions: reassign"),
        ({"collisions": "reassign", "prefix_capacity": 33}, "more than the last level's 32 codes"),
        ({"collisions": "none"}, "collisions"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TokenizerSettings.model_validate(changed)
