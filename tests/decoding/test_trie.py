from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.decoding.trie import Trie, View
from segue.errors import DataError

SIZES = (3, 4, 3)


@st.composite
def catalogues(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes [N, 3] in any order, and which items are active (at least one)."""
    every = [(a, b, c) for a in range(3) for b in range(4) for c in range(3)]
    chosen = draw(st.lists(st.sampled_from(every), min_size=1, max_size=20, unique=True))
    active = draw(st.lists(st.booleans(), min_size=len(chosen), max_size=len(chosen)))
    active[draw(st.integers(0, len(chosen) - 1))] = True
    return torch.tensor(chosen), torch.tensor(active)


@given(catalogues(), st.integers(0, 2**20))
@settings(max_examples=25, deadline=None)
def test_children_and_views_agree_with_python_sets(
    catalogue: tuple[torch.Tensor, torch.Tensor], bits: int
) -> None:
    codes, active = catalogue
    trie = Trie.build(codes, SIZES, active)
    allowed = torch.tensor([[bool(bits >> item & 1) for item in range(len(codes))]])
    view = View.cut(trie, allowed)
    living = [tuple(row) for row, alive in zip(codes.tolist(), active.tolist(), strict=True) if alive]
    shown = [
        tuple(row)
        for row, alive, may in zip(codes.tolist(), active.tolist(), allowed[0].tolist(), strict=True)
        if alive and may
    ]
    for depth in range(3):
        for prefix in {row[:depth] for row in living}:
            node = trie.find(torch.tensor(prefix, dtype=torch.int64).reshape(1, 1, depth))
            assert trie.codes_of(node, depth).tolist() == [[list(prefix)]]
            for rows, mask in (
                (living, trie.children_mask(node, depth)),
                (shown, trie.children_mask(node, depth, view)),
            ):
                expected = {row[depth] for row in rows if row[:depth] == prefix}
                assert set(torch.nonzero(mask[0, 0]).flatten().tolist()) == expected
    assert sorted(trie.items.tolist()) == torch.nonzero(active).flatten().tolist()


def test_ancestors_and_parents_follow_the_codes() -> None:
    codes = torch.tensor([[2, 0, 0], [0, 1, 2], [0, 1, 0], [0, 3, 0]])
    trie = Trie.build(codes, SIZES)
    path = trie.ancestors(torch.arange(4))
    for depth in range(1, 4):
        assert torch.equal(trie.parents(depth)[path[depth]], path[depth - 1])
    assert trie.items[path[3]].tolist() == [0, 1, 2, 3]


def test_a_prefix_that_does_not_exist_is_not_found() -> None:
    trie = Trie.build(torch.tensor([[0, 0, 0], [1, 2, 0]]), SIZES)
    found = trie.find(torch.tensor([[0, 0], [0, 2], [1, 2], [-1, 6], [1, -2]]))
    assert found.tolist() == [0, -1, 1, -1, -1]


@pytest.mark.parametrize(
    ("codes", "active", "message"),
    [
        ([[0, 0, 0], [0, 0, 0]], None, "items 0 and 1 share the codes"),
        ([[0, 9, 0]], None, "outside level sizes"),
        ([[0, 0, 0]], [False], "no item is active"),
        ([[0, 0]], None, "one column a level"),
    ],
)
def test_bad_codes_are_named(codes: list[list[int]], active: list[bool] | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Trie.build(torch.tensor(codes), SIZES, None if active is None else torch.tensor(active))


def test_more_semantic_ids_than_can_be_counted_are_refused() -> None:
    codes = torch.zeros(1, 5, dtype=torch.int64)
    Trie.build(codes, [2**12] * 5)
    with pytest.raises(DataError, match="use fewer or smaller levels"):
        Trie.build(codes, [2**13] * 5)
