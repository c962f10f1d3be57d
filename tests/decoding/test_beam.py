from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from segue.decoding.beam import beam_search
from segue.decoding.trie import Trie
from segue.errors import DataError

SIZES = (3, 4, 3)
EVERY = [(a, b, c) for a in range(3) for b in range(4) for c in range(3)]


class Table:
    """A stand-in for a model: a random distribution over the children of every prefix and request."""

    def __init__(self, trie: Trie, batch: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.trie = trie
        self.steps = []
        for depth in range(trie.levels):
            logits = torch.randn(batch, trie.nodes(depth), trie.level_sizes[depth], generator=generator) * 2
            nodes = torch.arange(trie.nodes(depth)).expand(batch, -1)
            exists = trie.children_mask(nodes, depth)
            self.steps.append(logits.masked_fill(~exists, -torch.inf).log_softmax(dim=-1))

    def next_code_log_probs(self, context: Any, prefix: Tensor) -> Tensor:
        depth = prefix.shape[-1]
        node = self.trie.find(prefix).clamp(min=0)
        return self.steps[depth].gather(1, node.unsqueeze(-1).expand(-1, -1, self.trie.level_sizes[depth]))

    def likelihood(self, row: int, codes: list[int]) -> float:
        total = 0.0
        for depth, code in enumerate(codes):
            node = int(self.trie.find(torch.tensor(codes[:depth], dtype=torch.int64)))
            total += float(self.steps[depth][row, node, code])
        return total


def catalogue(seed: int, size: int) -> Tensor:
    order = torch.randperm(len(EVERY), generator=torch.Generator().manual_seed(seed))
    return torch.tensor([EVERY[i] for i in order[:size].tolist()])


@given(st.integers(0, 10_000), st.integers(1, len(EVERY)), st.booleans())
@settings(max_examples=25, deadline=None)
def test_a_beam_as_wide_as_the_catalogue_is_full_enumeration(seed: int, size: int, with_view: bool) -> None:
    codes = catalogue(seed, size)
    generator = torch.Generator().manual_seed(seed + 1)
    active = torch.rand(size, generator=generator) < 0.8
    active[0] = True
    trie = Trie.build(codes, SIZES, active)
    model = Table(trie, 2, seed)
    allowed = torch.rand(2, size, generator=generator) < 0.5 if with_view else None
    items, log_probs = beam_search(model, range(2), trie, allowed, size)  # type: ignore[arg-type]
    for row in range(2):
        wanted = [
            (model.likelihood(row, codes[item].tolist()), item)
            for item in range(size)
            if active[item] and (allowed is None or allowed[row, item])
        ]
        wanted.sort(reverse=True)
        found = [item for item in items[row].tolist() if item >= 0]
        assert found == [item for _, item in wanted]
        # Never renormalised over a view: the very log-probabilities of the whole catalogue.
        expected = torch.tensor([value for value, _ in wanted])
        torch.testing.assert_close(log_probs[row, : len(wanted)], expected, atol=1e-4, rtol=1e-4)
        assert bool(log_probs[row, len(wanted) :].isneginf().all())


@given(st.integers(0, 10_000), st.integers(1, 12))
@settings(max_examples=25, deadline=None)
def test_no_beam_yields_what_is_not_allowed_or_yields_twice(seed: int, width: int) -> None:
    codes = catalogue(seed, 24)
    generator = torch.Generator().manual_seed(seed)
    active = torch.rand(24, generator=generator) < 0.7
    active[3] = True
    allowed = torch.rand(3, 24, generator=generator) < 0.4
    trie = Trie.build(codes, SIZES, active)
    items, log_probs = beam_search(Table(trie, 3, seed), range(3), trie, allowed, width)  # type: ignore[arg-type]
    for row in range(3):
        found = [item for item in items[row].tolist() if item >= 0]
        assert len(set(found)) == len(found)
        assert all(bool(active[item]) and bool(allowed[row, item]) for item in found)
        # Pruned during the search: no beam is wasted on a prefix that leads to nothing allowed.
        assert len(found) >= min(1, int((allowed[row] & active).sum()))
    assert bool((log_probs[:, :-1] >= log_probs[:, 1:]).all())


def test_a_width_of_zero_is_refused() -> None:
    trie = Trie.build(catalogue(0, 5), SIZES)
    with pytest.raises(DataError, match="beam_width is 0"):
        beam_search(Table(trie, 1, 0), range(1), trie, None, 0)  # type: ignore[arg-type]
