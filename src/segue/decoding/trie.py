"""The catalogue's trie as tensors: what exists, and what of it one request may be shown.

Nodes are numbered within their depth (0: the root; L: the items) in lexicographic order of their codes. So
the children of a node are neighbours, a child's number is its place in the next depth's arrays, and the
items below a node are one range of leaves. Everything here is indexing: no Python per beam, no
synchronisation with the host."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from segue.errors import DataError

_KEYS = 2**63  # what an int64 counts: the codes of an item are one number


@dataclass(frozen=True, slots=True, kw_only=True)
class Trie:
    """A compressed sparse row trie of L levels over N items; n_d nodes at depth d, n_0 = 1."""

    level_sizes: tuple[int, ...]
    offsets: tuple[
        Tensor, ...
    ]  # L of [n_d + 1] int64: the children of node i are offsets[i] … offsets[i+1] - 1
    codes: tuple[Tensor, ...]  # L of [n_(d+1)] int64: the code on the edge that leads to each node
    leaf_ranges: tuple[Tensor, ...]  # L + 1 of [n_d + 1] int64: the leaves below node i, likewise
    keys: tuple[Tensor, ...]  # L + 1 of [n_d] int64: the node's codes as one mixed-radix number, ascending
    most_children: tuple[int, ...]  # L: of any node at that depth
    items: Tensor  # [n_L] int64: item index of each leaf
    leaf_of: Tensor  # [N] int64: leaf of each item, -1 where it is not in the trie

    @property
    def levels(self) -> int:
        return len(self.level_sizes)

    @property
    def leaves(self) -> int:
        return len(self.items)

    def nodes(self, depth: int) -> int:
        """How many nodes there are at ``depth``."""
        return len(self.keys[depth])

    @classmethod
    def build(cls, codes: Tensor, level_sizes: Sequence[int], active: Tensor | None = None) -> Trie:
        """The trie of ``codes`` [N, L]; items that are not ``active`` [N] have no leaf.

        Raises DataError where a code lies outside its level, two items share all codes, no item is active, or the level
        sizes allow more than 2^63 semantic IDs.
        """
        sizes = tuple(int(size) for size in level_sizes)
        codes = codes.to(torch.int64)
        if math.prod(sizes) > _KEYS:
            raise DataError(
                f"level sizes {list(sizes)} allow more semantic IDs than an int64 counts: use fewer or smaller levels"
            )
        if codes.ndim != 2 or codes.shape[1] != len(sizes):
            raise DataError(
                f"codes have the shape {tuple(codes.shape)}: one column a level is needed, {len(sizes)}"
            )
        device = codes.device
        chosen = (
            torch.arange(len(codes), device=device)
            if active is None
            else torch.nonzero(active.to(device)).flatten()
        )
        if not len(chosen):
            raise DataError("no item is active: a trie needs at least one")
        wanted = codes[chosen]
        outside = ((wanted < 0) | (wanted >= torch.tensor(sizes, device=device))).any(dim=1)
        if bool(outside.any()):
            item = int(chosen[outside][0])
            raise DataError(f"item {item} has codes {codes[item].tolist()} outside level sizes {list(sizes)}")
        keys = mixed_radix(wanted, sizes)
        order = torch.argsort(keys)
        chosen, wanted, keys = chosen[order], wanted[order], keys[order]
        twice = torch.nonzero(keys[1:] == keys[:-1]).flatten()
        if len(twice):
            first, second = int(chosen[twice[0]]), int(chosen[twice[0] + 1])
            raise DataError(
                f"items {first} and {second} share the codes {codes[first].tolist()}: rebuild the item map"
            )
        return cls._from_sorted(len(codes), chosen, wanted, sizes)

    @classmethod
    def _from_sorted(cls, n_items: int, items: Tensor, codes: Tensor, sizes: tuple[int, ...]) -> Trie:
        device = codes.device
        # node_of[d] gives the depth-d node above every leaf.
        node_of, node_keys, edge_codes = [], [], []
        for depth in range(len(sizes) + 1):
            unique, inverse = torch.unique_consecutive(
                mixed_radix(codes[:, :depth], sizes[:depth]), return_inverse=True
            )
            node_of.append(inverse)
            node_keys.append(unique)
            if depth:
                edge_codes.append(unique % sizes[depth - 1])
        leaf_ranges = tuple(_offsets(node_of[d], len(node_keys[d])) for d in range(len(sizes) + 1))
        offsets = []
        for depth in range(len(sizes)):
            parents = torch.empty(len(node_keys[depth + 1]), dtype=torch.int64, device=device)
            parents[node_of[depth + 1]] = node_of[depth]
            offsets.append(_offsets(parents, len(node_keys[depth])))
        leaf_of = torch.full((n_items,), -1, dtype=torch.int64, device=device)
        leaf_of[items] = torch.arange(len(items), device=device)
        return cls(
            level_sizes=sizes,
            offsets=tuple(offsets),
            codes=tuple(edge_codes),
            leaf_ranges=leaf_ranges,
            keys=tuple(node_keys),
            most_children=tuple(int(torch.diff(o).max()) for o in offsets),
            items=items,
            leaf_of=leaf_of,
        )

    def children(self, nodes: Tensor, depth: int) -> tuple[Tensor, Tensor]:
        """The children of ``nodes`` [...] at ``depth``: their numbers [..., C] and whether they exist [...,
        C].

        C is the largest number of children at that depth. Numbers that do not exist are clamped to a valid
        one."""
        low, high = self.offsets[depth][nodes], self.offsets[depth][nodes + 1]
        child = low.unsqueeze(-1) + torch.arange(self.most_children[depth], device=nodes.device)
        return child.clamp(max=self.nodes(depth + 1) - 1), child < high.unsqueeze(-1)

    def children_mask(self, nodes: Tensor, depth: int, view: View | None = None) -> Tensor:
        """[..., V] bool: the codes that lead from ``nodes`` [...] at ``depth`` to a child (that the view
        leaves).

        With a ``view`` the first dimension of ``nodes`` is its batch.
        """
        child, exists = self.children(nodes, depth)
        if view is not None:
            exists = exists & view.allows(child, depth + 1)
        mask = torch.zeros((*nodes.shape, self.level_sizes[depth]), dtype=torch.int8, device=nodes.device)
        return mask.scatter_reduce(-1, self.codes[depth][child], exists.to(torch.int8), reduce="amax").bool()

    def find(self, prefix: Tensor) -> Tensor:
        """The nodes [...] of code prefixes [..., l] at depth l; -1 where the trie has none."""
        depth = prefix.shape[-1]
        keys = self.keys[depth]
        sizes = torch.tensor(self.level_sizes[:depth], dtype=torch.int64, device=prefix.device)
        inside = ((prefix >= 0) & (prefix < sizes)).all(dim=-1)
        wanted = mixed_radix(prefix, self.level_sizes[:depth])
        place = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
        return torch.where(inside & (keys[place] == wanted), place, -1)

    def codes_of(self, nodes: Tensor, depth: int) -> Tensor:
        """[..., depth] the codes that lead to ``nodes`` [...] at ``depth``: what :meth:`find` finds them by."""
        key, codes = self.keys[depth][nodes], []
        for size in reversed(self.level_sizes[:depth]):
            codes.append(key % size)
            key = key // size
        return torch.stack(codes[::-1], dim=-1) if codes else nodes.new_zeros((*nodes.shape, 0))

    def ancestors(self, items: Tensor) -> list[Tensor]:
        """The nodes above ``items`` [...] at depths 0 … L. An item that is not in the trie counts as leaf
        0."""
        leaf = self.leaf_of[items].clamp(min=0)
        return [torch.searchsorted(ranges, leaf, right=True) - 1 for ranges in self.leaf_ranges]

    def parents(self, depth: int) -> Tensor:
        """[n_depth] int64: the node at ``depth`` - 1 above each node at ``depth`` (1 … L)."""
        offsets = self.offsets[depth - 1]
        return torch.repeat_interleave(
            torch.arange(len(offsets) - 1, device=offsets.device), torch.diff(offsets)
        )


@dataclass(frozen=True, slots=True)
class View:
    """A trie cut to the items that each request of a batch may be shown."""

    trie: Trie
    below: Tensor  # [B or 1, n_L + 1] int64: allowed leaves before each leaf; a node's count is a difference

    @classmethod
    def cut(cls, trie: Trie, allowed: Tensor) -> View:
        """``allowed`` [B or 1, N] bool over item indices."""
        leaves = allowed[:, trie.items].to(torch.int64)
        return cls(trie, torch.nn.functional.pad(leaves.cumsum(dim=1), (1, 0)))

    def allows(self, nodes: Tensor, depth: int) -> Tensor:
        """Whether an allowed item lies below each of ``nodes`` [B, ...] at ``depth``."""
        ranges = self.trie.leaf_ranges[depth]
        flat = nodes.reshape(len(nodes), -1)
        below = self.below.expand(len(nodes), -1)
        count = below.gather(1, ranges[flat + 1]) - below.gather(1, ranges[flat])
        return (count > 0).reshape(nodes.shape)


def mixed_radix(codes: Tensor, sizes: Sequence[int]) -> Tensor:
    """Codes [..., l] as one int64 number each, ordered as the codes are."""
    key = torch.zeros(codes.shape[:-1], dtype=torch.int64, device=codes.device)
    for level, size in enumerate(sizes):
        key = key * size + codes[..., level]
    return key


def _offsets(owners: Tensor, count: int) -> Tensor:
    """Row offsets [count + 1] of ascending ``owners``."""
    counts = torch.bincount(owners, minlength=count)
    return torch.nn.functional.pad(counts.cumsum(dim=0), (1, 0))
