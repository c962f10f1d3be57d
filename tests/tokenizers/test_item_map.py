from __future__ import annotations

import json
import time
from itertools import product
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.errors import ArtifactError, BindingError, DataError
from segue.tokenizers.codebook import Codebook
from segue.tokenizers.item_map import DESCRIPTION, TABLE, ItemMap, bound_items
from segue.tokenizers.placement import place, prefix_keys
from segue.tokenizers.settings import TokenizerSettings

from .examples import ENCODERS, codebook, items, modalities

BOOK = codebook()
TIGHT = codebook(60, TokenizerSettings(level_sizes=(4, 3, 6), dimensions=4, iterations=5))  # 72 places


def build(book: Codebook, count: int = 60, **options: object) -> ItemMap:
    given_items = modalities(count, **options)  # type: ignore[arg-type]
    return ItemMap.build(book, given_items["text"].item_ids, *book.fuse(given_items))


def by_item(item_map: ItemMap) -> dict[str, tuple[int, ...]]:
    return dict(zip(item_map.item_ids, map(tuple, item_map.codes.tolist()), strict=True))


def brute_force_place(
    book: Codebook, vectors: np.ndarray, ids: list[str], taken: np.ndarray
) -> dict[str, tuple[int, ...]]:
    """The rule of the last level, one item at a time, in plain words."""
    size = book.level_sizes[-1]
    used: dict[tuple[int, ...], int] = {}
    for *prefix, last in taken.tolist():
        used[tuple(prefix)] = max(used.get(tuple(prefix), 0), last + 1)
    wanted = [tuple(prefix) for prefix in book.encode(vectors).tolist()]

    def distance(row: int, prefix: tuple[int, ...]) -> float:
        return float(((vectors[row].astype(np.float64) - book.reconstruct(np.array([prefix]))[0]) ** 2).sum())

    placed: dict[str, tuple[int, ...]] = {}
    waiting = []
    for row in sorted(range(len(ids)), key=lambda row: (distance(row, wanted[row]), ids[row])):
        last = used.get(wanted[row], 0)
        if last < size:
            used[wanted[row]] = last + 1
            placed[ids[row]] = (*wanted[row], last)
        else:
            waiting.append(row)
    everything = list(product(*map(range, book.tokenizer.used_sizes)))
    for row in waiting:
        best = min(
            (prefix for prefix in everything if used.get(prefix, 0) < size),
            key=lambda prefix: (distance(row, prefix), prefix),
        )
        placed[ids[row]] = (*best, used.get(best, 0))
        used[best] = used.get(best, 0) + 1
    return placed


@given(seed=st.integers(0, 10_000), first=st.integers(1, 40), second=st.integers(0, 32))
@settings(max_examples=20, deadline=None)
def test_placement_equals_brute_force_also_where_prefixes_are_full(
    seed: int, first: int, second: int
) -> None:
    one, two = modalities(first, seed=seed), modalities(second, seed=seed + 1, first=1000)
    vectors = [TIGHT.fuse(each)[0] for each in (one, two)]
    nothing = np.zeros((0, 3), dtype=np.int64)
    codes = place(TIGHT, vectors[0], one["text"].item_ids, nothing)
    expected = brute_force_place(TIGHT, vectors[0], one["text"].item_ids, nothing)
    assert dict(zip(one["text"].item_ids, map(tuple, codes.tolist()), strict=True)) == expected
    later = place(TIGHT, vectors[1], two["text"].item_ids, codes)
    expected = brute_force_place(TIGHT, vectors[1], two["text"].item_ids, codes)
    assert dict(zip(two["text"].item_ids, map(tuple, later.tolist()), strict=True)) == expected


@given(seed=st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_codes_do_not_depend_on_the_order_of_the_items(seed: int) -> None:
    given_items = modalities(70, seed=4)
    vectors, present = TIGHT.fuse(given_items)
    ids = given_items["text"].item_ids
    order = np.random.default_rng(seed).permutation(70)
    shuffled = ItemMap.build(TIGHT, [ids[row] for row in order], vectors[order], present[order])
    straight = ItemMap.build(TIGHT, ids, vectors, present)
    assert by_item(shuffled) == by_item(straight)
    assert shuffled.item_map_id == straight.item_map_id


@given(
    steps=st.lists(st.tuples(st.booleans(), st.sets(st.integers(0, 29), max_size=8)), min_size=1, max_size=6)
)
@settings(max_examples=25, deadline=None)
def test_revisions_never_change_a_code_and_never_give_one_twice(steps: list[tuple[bool, set[int]]]) -> None:
    pool = modalities(30, seed=8, first=200)
    ids = pool["text"].item_ids
    vectors, present = BOOK.fuse(pool)
    current = build(BOOK, 20)
    ever = by_item(current)
    for inserts, chosen in steps:
        before = current
        rows = np.array(sorted(chosen), dtype=np.int64)
        if inserts:
            current = before.insert(BOOK, [ids[row] for row in rows], vectors[rows] + 1.0, present[rows])
            assert not current.retired[[current.row_of[ids[row]] for row in rows]].any()
        else:
            current = before.retire([ids[row] for row in rows if ids[row] in before.row_of])
        now = by_item(current)
        assert now.items() >= ever.items()  # nothing that was ever given out has changed
        assert len(set(now.values())) == len(now)  # and nothing was given out twice
        changed = len(now) > len(ever) or bool(
            (current.retired[: len(before.retired)] != before.retired).any()
        )
        assert current.revision == before.revision + changed
        assert (current is before) == (not changed)
        np.testing.assert_array_equal(current.vectors[: len(ever)], before.vectors)
        free = dict(zip(map(tuple, current.room()["prefix"].to_list()), current.room()["free"], strict=True))
        for prefix, room in free.items():
            assert room == 4 - sum(code[:2] == prefix for code in now.values())
        ever = now


def test_codes_and_items_are_one_to_one() -> None:
    item_map = build(BOOK)
    np.testing.assert_array_equal(item_map.items_of(item_map.codes), np.arange(60))
    assert item_map.items_of(np.array([[5, 3, 3], [99, 0, 0]]))[1] == -1
    assert item_map.revision == 1
    assert (item_map.codes < np.array(BOOK.level_sizes)).all()
    assert len(np.unique(prefix_keys(item_map.codes[:, :2], BOOK.level_sizes))) == item_map.room().height


def test_a_retired_item_that_comes_back_gets_its_own_codes_and_vector() -> None:
    item_map = build(BOOK)
    without = item_map.retire(["i0003"])
    assert (without.revision, int(without.retired.sum())) == (2, 1)
    back = without.insert(BOOK, ["i0003"], np.full((1, 6), 9.0, dtype=np.float32), np.ones(1, dtype=bool))
    assert back.revision == 3
    assert by_item(back) == by_item(item_map)
    np.testing.assert_array_equal(back.vectors, item_map.vectors)
    assert len({item_map.item_map_id, without.item_map_id, back.item_map_id}) == 3


def test_a_full_codebook_says_so_with_its_sizes() -> None:
    filled = build(TIGHT, 72)
    assert filled.room()["free"].sum() == 0
    assert len(np.unique(filled.codes, axis=0)) == 72
    with pytest.raises(
        DataError, match=r"level sizes \(4, 3, 6\).*72 IDs, 0 are free, 1 items need one; make"
    ):
        filled.insert(TIGHT, ["new"], np.zeros((1, 4), dtype=np.float32), np.ones(1, dtype=bool))
    with pytest.raises(DataError, match="the codebook is full"):
        build(TIGHT, 73)


def test_a_full_codebook_of_retired_items_stays_full() -> None:
    filled = build(TIGHT, 72)
    retired = filled.retire(filled.item_ids[:10])
    with pytest.raises(DataError, match="0 are free"):
        retired.insert(TIGHT, ["new"], np.zeros((1, 4), dtype=np.float32), np.ones(1, dtype=bool))


def test_ten_thousand_items_go_in_within_seconds() -> None:
    rng = np.random.default_rng(0)
    book = codebook(600, TokenizerSettings(level_sizes=(64, 32, 32), dimensions=13, iterations=3))
    item_map = build(book, 600)
    count = 10_000
    # A third of them crowd around one point, so that thousands must be sent to other prefixes.
    vectors = rng.normal(size=(count, book.dimensions)).astype(np.float32)
    vectors[::3] = vectors[0] + 0.01 * rng.normal(size=vectors[::3].shape).astype(np.float32)
    started = time.monotonic()
    grown = item_map.insert(book, [f"n{row}" for row in range(count)], vectors, np.ones(count, dtype=bool))
    assert time.monotonic() - started < 20  # about 2 s on an idle machine
    assert len(np.unique(grown.codes, axis=0)) == 10_600


def test_bad_insertions_are_refused() -> None:
    item_map = build(BOOK)
    vectors, present = np.zeros((2, 6), dtype=np.float32), np.ones(2, dtype=bool)
    with pytest.raises(DataError, match="'a' is to be inserted twice"):
        item_map.insert(BOOK, ["a", "a"], vectors, present)
    with pytest.raises(DataError, match="'nobody' cannot be retired"):
        item_map.retire(["nobody"])
    with pytest.raises(BindingError, match="keep the two together"):
        item_map.insert(TIGHT, ["a", "b"], vectors, present)


def test_saved_and_loaded_is_the_same_map(tmp_path: Path) -> None:
    saved = build(BOOK).retire(["i0001", "i0030"])
    saved.save(tmp_path / "a")
    loaded = ItemMap.load(tmp_path / "a")
    assert loaded.item_map_id == saved.item_map_id
    assert by_item(loaded) == by_item(saved)
    assert loaded.item_ids[-2:] == ["i0001", "i0030"]
    loaded.save(tmp_path / "b")
    for file in sorted((tmp_path / "a").rglob("*.*")):
        assert file.read_bytes() == (tmp_path / "b" / file.relative_to(tmp_path / "a")).read_bytes()
    table = pl.read_parquet(tmp_path / "a" / TABLE)
    assert table["item_index"].to_list() == [*range(58), None, None]


@pytest.mark.parametrize("column", ["codes", "retired", "revision_added"])
def test_a_changed_map_is_refused(tmp_path: Path, column: str) -> None:
    build(BOOK).save(tmp_path)
    table = pl.read_parquet(tmp_path / TABLE)
    changed = {
        "codes": pl.lit([1, 1, 1], dtype=pl.List(pl.Int32)),
        "retired": pl.lit(False),
        "revision_added": pl.lit(7, dtype=pl.Int32),
    }[column]
    if column == "retired":
        description = json.loads((tmp_path / DESCRIPTION).read_text())
        (tmp_path / DESCRIPTION).write_text(json.dumps({**description, "revision": 9}))
    table.with_columns(changed.alias(column)).write_parquet(tmp_path / TABLE)
    with pytest.raises(ArtifactError, match="changed after it was made"):
        ItemMap.load(tmp_path)


def test_missing_and_truncated_maps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="missing"):
        ItemMap.load(tmp_path)
    build(BOOK).save(tmp_path)
    (tmp_path / TABLE).write_bytes((tmp_path / TABLE).read_bytes()[:50])
    with pytest.raises(ArtifactError, match="damaged"):
        ItemMap.load(tmp_path)


def test_align_follows_the_item_table() -> None:
    item_map = build(BOOK, 30).retire(["i0002"])
    wanted = [item for item in reversed(item_map.item_ids) if item != "i0002"]
    aligned = item_map.align(items(wanted))
    assert aligned.item_ids == [*wanted, "i0002"]
    assert by_item(aligned) == by_item(item_map)
    assert aligned.item_map_id == item_map.item_map_id
    with pytest.raises(BindingError, match="'zzz' of the item table has no code"):
        item_map.align(items([*wanted, "zzz"]))
    with pytest.raises(BindingError, match="'i0002' of the item table"):
        item_map.align(items([*wanted, "i0002"]))
    with pytest.raises(BindingError, match="'i0000' of the item map"):
        item_map.align(items(wanted[:-1]))


def test_bound_items_are_the_rows_of_the_item_table(tmp_path: Path) -> None:
    item_map = build(BOOK).retire(["i0000"])
    item_map.save(tmp_path)
    bound = bound_items(tmp_path)
    assert bound.codebook_id == BOOK.codebook_id
    assert bound.codes.shape == (59, 3)
    assert bound.codes.tolist() == item_map.codes[1:].tolist()
    np.testing.assert_array_equal(bound.vectors.numpy(), item_map.vectors[1:])
    assert bound.active.all()
    assert bound.present.all()


def test_an_empty_map_is_revision_one() -> None:
    empty = ItemMap.build(BOOK, [], np.zeros((0, 6), dtype=np.float32), np.zeros(0, dtype=bool))
    assert (empty.revision, empty.room().height) == (1, 0)
    assert ENCODERS.keys() == BOOK.encoders.keys()
