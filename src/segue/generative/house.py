"""The house model: reads one position an event, speaks code by code.

An item's vector is the normalised sum of a projection of its content, the embeddings of its codes, and an
*identity* of its own, which only items have that were trained on. A causal Transformer reads events as such
sums, with the logarithmic bucket of the time since the event before. A light autoregressive head emits the
codes of the next item. Its distribution at level l is a softmax over the *children* of the prefix that exist
in the trie, each scored by the dot product of the head's normalised state with the child's *node vector*: the
mean of the item vectors below it plus the embedding of its code, and the logarithm of how many items it
holds, weighted. At the last level a node is an item, so what the heads can tell apart is the same. A dense
head shares the encoder and scores the whole catalogue by cosine, as in LIGER (Yang et al. 2024) and COBRA
(Yang et al. 2025); "one position an item, codes only in the head" keeps sequences L times shorter than TIGER's
(Rajput et al. 2023).

Both heads may share one tower (item vectors and encoder), or the code head has one of its own, with or without
identities: two experts, whose sum is worth more than either when they know items by different things. The dense head may
have further experts: the code head's tower, and one that pools a history instead of reading its order
(:mod:`segue.generative.towers`). Each is trained by its own cross entropy, and the dense score is the sum of all, a product of
experts (Hinton 2002).

Where context features are declared, each event carries what will be known of one when the model serves, and the state
that speaks the context of the event to come: a request's own. Both are sums of embeddings that start at zero.

Nothing here is tied to an item's index: an identity belongs to the whole tuple of codes, which no other item
ever gets. Code embeddings start at zero and only trained items have identities, so what no training touched
adds nothing; in training an identity is left out now and then (DropoutNet, Volkovs et al. 2017), so that
content alone has to do. What knows items by identities reads and speaks one that is inserted later as its neighbours in
content (:mod:`segue.generative.neighbours`), so through trained parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segue.decoding.trie import Trie, mixed_radix
from segue.generative.binding import CodebookModel, learnable, mean_weights
from segue.generative.contrastive import catalogue_cross_entropy
from segue.generative.layers import ContextTables, join_histories, zero_embedding
from segue.generative.neighbours import Neighbours
from segue.generative.settings import GenerativeSettings
from segue.generative.towers import Identities, PooledTower, Tower
from segue.protocols import BoundItems, HistoryBatch
from segue.training.ops import Dropout

if TYPE_CHECKING:
    from segue.data.context import Vocabulary

_ALL_NODES = 16_384  # up to so many nodes at a depth, one matrix product beats gathering children in training
_ROWS = 256  # of a batch whose codes are scored at once on a CPU
_NODES_A_CHILD = 64  # without gradients it does up to so many nodes for each child that is wanted


@dataclass(frozen=True, slots=True)
class HouseContext:
    """What :meth:`HouseModel.encode` knows of B requests."""

    histories: HistoryBatch
    state: Tensor  # [B, d] hidden state after the last event, for the dense head
    code_state: Tensor  # [B, d] for the code head: the same where they share a tower
    pooled_state: Tensor | None  # [B, d] of the dense head's other expert, where it has one

    def __len__(self) -> int:
        return len(self.state)


@dataclass(frozen=True)
class _Tables:
    """What follows from the items and the weights: made anew in every training step, once when serving."""

    raw: Tensor  # [N, d]: how the dense head's tower reads each item
    items: Tensor  # [N, d]: how it scores them; unit vectors, and shorter ones of items without an identity
    code_raw: Tensor  # [N, d]: how the code head's tower reads them
    code_items: (
        Tensor | None
    )  # [N, d] such vectors of those, where that tower is an expert of the dense head, too
    nodes: list[Tensor]  # L of [n_(d+1), d]
    parents: list[Tensor]  # L - 1 of [n_(d+1), d]: what the head is told of the prefix
    pooled: Tensor | None  # [N, d]: how the dense head's other expert reads them
    pooled_items: Tensor | None  # [N, d] how it scores them

    @cached_property
    def scored(self) -> Tensor:
        """[N, E d]: the vectors of the dense head's E experts side by side."""
        experts = [each for each in (self.items, self.code_items, self.pooled_items) if each is not None]
        return experts[0] if len(experts) == 1 else torch.cat(experts, dim=-1)


class HouseModel(CodebookModel):
    """Implements :class:`segue.protocols.TrainableRecommender`. d is ``settings.dimensions``."""

    identity_keys: Tensor  # [I] int64, ascending: the codes of each item with an identity, as one number

    def __init__(
        self,
        settings: GenerativeSettings,
        *,
        codebook_id: str,
        level_sizes: Sequence[int],
        content_dimensions: int,
    ) -> None:
        super().__init__(
            settings, codebook_id=codebook_id, level_sizes=level_sizes, content_dimensions=content_dimensions
        )
        width = settings.dimensions
        coded = self.level_sizes[:-1]  # the last level only tells neighbours apart: its codes mean nothing
        self.missing = nn.Parameter(torch.zeros(content_dimensions))
        described = settings.dense_tower == "described"
        self.tower = Tower(settings, coded, content_dimensions, identities=True, described=described)
        self.code_tower = (
            None
            if settings.code_tower == "shared"
            else Tower(settings, coded, content_dimensions, identities=settings.code_tower == "own")
        )
        self.register_buffer("identity_keys", torch.zeros(0, dtype=torch.int64))
        self.head = _CodeHead(width, len(self.level_sizes), settings.dropout)
        self.node_codes = nn.ModuleList(zero_embedding(size, width) for size in coded)
        self.parent_projections = nn.ModuleList(nn.Linear(width, width) for _ in coded)
        self.code_scales = nn.Parameter(
            torch.full((len(self.level_sizes),), -math.log(settings.code_temperature))
        )
        self.count_weights = nn.Parameter(torch.ones(len(self.level_sizes)))
        self.pooled = PooledTower(settings, content_dimensions) if settings.pooled_tower else None
        # What follows from the bound items alone.
        self._owners: list[Tensor] = []  # L of [n_(d+1)] int64: the parent of each node
        self._log_counts: list[Tensor] = []  # L of [n_(d+1)]: of the items below each node
        self._identity = torch.zeros(
            0, dtype=torch.int64
        )  # [N]: each item's row among the identities, -1: none
        self._neighbours: Neighbours | None = None  # of the items without an identity
        self._cache: _Tables | None = None
        self.vocabulary: Vocabulary | None = None

    # Context.

    def declare_context(self, vocabulary: Vocabulary) -> None:
        """Tables for its features, which add nothing until they are trained; no random number is drawn."""
        self.vocabulary = vocabulary
        for tower in (self.tower, self.code_tower):
            if tower is not None:
                tower.context = ContextTables(vocabulary, self.settings.dimensions).to(self.device)

    def _with_context(
        self, histories: HistoryBatch, context: Sequence[dict[str, str]] | None
    ) -> HistoryBatch:
        """``histories`` with codes, where features are declared: those of ``context`` where it has none of its own."""
        if self.vocabulary is None:
            return histories
        features = len(self.vocabulary.features)
        if histories.contexts is None:
            empty = histories.items.new_zeros((*histories.items.shape, features))
            histories = replace(histories, contexts=empty)
        if histories.request is None and context is not None:
            codes = np.stack([self.vocabulary.request(said, None, 0) for said in context]).astype(np.int64)
            histories = replace(histories, request=torch.from_numpy(codes))
        return histories

    # Binding.

    def adopt(self, items: Tensor) -> None:
        """Give the bound ``items`` ([N] bool) identities, before the model is trained on them."""
        bound = self.bound
        keys = mixed_radix(bound.codes[items.to(self.device)], self.level_sizes).sort().values
        self.identity_keys = keys
        for place, tower in enumerate(self._towers()):
            tower.adopt(len(keys), seed=self.settings.seed * 2 + place)
        self._find_identities()

    def _towers(self) -> list[Identities]:
        return [tower for tower in (self.tower, self.code_tower, self.pooled) if tower is not None]

    def _find_identities(self) -> None:
        """Of the bound items, by their codes."""
        self._identity = _rows_of(mixed_radix(self.bound.codes, self.level_sizes), self.identity_keys)
        self._neighbours = Neighbours.find(self.bound.vectors, self.bound.present, self._identity >= 0)
        self._cache = None

    def bind(self, items: BoundItems) -> None:
        super().bind(items)
        trie = self.trie
        self._owners = [trie.parents(depth) for depth in range(1, trie.levels + 1)]
        self._log_counts = [torch.diff(ranges).log() for ranges in trie.leaf_ranges[1:]]
        self._find_identities()

    def train(self, mode: bool = True) -> HouseModel:
        self._cache = None  # weights may change
        super().train(mode)
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        """As many identities as were saved; which bound items they are of is found anew."""
        keys = state_dict.get(f"{prefix}identity_keys")
        others = keys is not None and not torch.equal(keys.to(self.device), self.identity_keys)
        # As many: they are written over in place, because an optimizer may hold these very parameters.
        if keys is not None and len(keys) != len(self.identity_keys):
            self.identity_keys = torch.zeros_like(keys, device=self.device)
            for tower in self._towers():
                tower.adopt(len(keys), seed=0)
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self._cache = None
        if others and self._bound is not None:
            self._find_identities()

    # Items and nodes.

    def _tables(self) -> _Tables:
        if self.training or torch.is_grad_enabled():
            return self._derived()
        if self._cache is None:
            self._cache = self._derived()
        return self._cache

    def _derived(self) -> _Tables:
        trie, items, content, identity = self.trie, self.bound, self._content, self._identity
        raw, vectors = self._read_and_scored(self.tower, self.tower.items(content, items.codes, identity))
        code_raw, code_vectors = raw, vectors
        if self.code_tower is not None:
            code_raw, code_vectors = self._read_and_scored(
                self.code_tower, self.code_tower.items(content, items.codes, identity)
            )
        means = _means_upwards(code_vectors[trie.items], trie, self._owners)
        nodes = [
            mean + table(trie.codes[depth]).float()
            for depth, (mean, table) in enumerate(zip(means, self.node_codes, strict=False))
        ]
        parents = [project(mean) for project, mean in zip(self.parent_projections, nodes, strict=True)]
        pooled, pooled_items = None, None
        if self.pooled is not None:
            pooled, pooled_items = self._read_and_scored(self.pooled, self.pooled.items(content, identity))
        code_items = code_vectors if self.settings.code_tower_scores else None
        return _Tables(raw, vectors, code_raw, code_items, [*nodes, means[-1]], parents, pooled, pooled_items)

    def _read_and_scored(self, tower: Identities, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Each [N, d]: how ``tower`` reads the bound items, which it makes ``raw`` [N, d] of, and how it scores them.

        In training an item without an identity is what the tower makes of it: content has to learn to do."""
        if self.training or tower.identity is None or self._neighbours is None:
            return raw, F.normalize(raw, dim=-1)
        return self._neighbours.placed(raw)

    @property
    def _content(self) -> Tensor:
        """[N, D] what the bound items are made of."""
        return torch.where(self.bound.present.unsqueeze(-1), self.bound.vectors, self.missing)

    # The encoder.

    def _hidden(self, batch: HistoryBatch, tables: _Tables) -> tuple[Tensor, Tensor, Tensor | None]:
        """Each [B, T + 1, d], for the dense head, for the code head and, where there is one, of the dense head's other expert:
        state 0 knows nothing, state t the first t events."""
        hidden = self.tower.encode(batch, tables.raw)
        code_hidden = hidden if self.code_tower is None else self.code_tower.encode(batch, tables.code_raw)
        if self.pooled is None or tables.pooled is None:
            return hidden, code_hidden, None
        return hidden, code_hidden, self.pooled.encode(batch, tables.pooled)

    def encode(
        self,
        histories: HistoryBatch,
        context: Sequence[dict[str, str]] | None = None,
    ) -> HouseContext:
        batch = self._with_context(histories, context).to(self.device)
        hidden, code_hidden, pooled = self._hidden(batch, self._tables())
        rows = torch.arange(len(hidden), device=hidden.device)
        return HouseContext(
            batch,
            hidden[rows, batch.lengths],
            code_hidden[rows, batch.lengths],
            None if pooled is None else pooled[rows, batch.lengths],
        )

    def append(self, context: HouseContext, events: HistoryBatch) -> HouseContext:
        """Recomputed over the newest ``max_length`` events, so it equals encoding the longer history."""
        events = events.to(self.device)
        events = self._with_context(events, None)
        return self.encode(join_histories(context.histories, events, self.settings.max_length))

    # The code head.

    def next_code_log_probs(self, context: HouseContext, prefix: Tensor) -> Tensor:
        depth = prefix.shape[-1]
        trie = self.trie
        nodes = trie.find(prefix)
        known = nodes >= 0
        states = context.code_state.unsqueeze(1).expand(-1, prefix.shape[1], -1)
        log_probs, child, exists = self._step(states, nodes.clamp(min=0), depth, self._tables())
        exists = exists & known.unsqueeze(-1)
        result = log_probs.new_full((*nodes.shape, self.level_sizes[depth]), -torch.inf)
        code = trie.codes[depth][child]
        # Clamped children repeat a code: amax lets the child that exists win over them.
        return result.scatter_reduce(-1, code, log_probs.masked_fill(~exists, -torch.inf), reduce="amax")

    def log_likelihood(self, context: HouseContext, items: Tensor) -> Tensor:
        """Items that are not in the trie have -inf."""
        items = items.to(self.device)
        path, tables = self.trie.ancestors(items), self._tables()
        if items.device.type == "cpu":
            parts = [
                self._shared_step(context.code_state, path, depth, tables)
                for depth in range(self.trie.levels)
            ]
        else:
            states = context.code_state.unsqueeze(1).expand(-1, items.shape[1], -1)
            parts = self._path_log_probs(states, path, tables)
        return torch.stack(parts).sum(dim=0).masked_fill(self.trie.leaf_of[items] < 0, -torch.inf)

    def _shared_step(self, states: Tensor, path: list[Tensor], depth: int, tables: _Tables) -> Tensor:
        """[B, M] of the step at ``depth`` down ``path`` (each [B, M]) from states [B, d].

        Many of a request's candidates go through one node, whose step is made once. To find them costs an
        accelerator a wait for the host, so there it is not done."""
        rows = torch.arange(len(states)).unsqueeze(1) * self.trie.nodes(depth)
        distinct, place = torch.unique(rows + path[depth], return_inverse=True)
        nodes = distinct % self.trie.nodes(depth)
        log_probs, _, _ = self._step(states[distinct // self.trie.nodes(depth)], nodes, depth, tables)
        rank = path[depth + 1] - self.trie.offsets[depth][path[depth]]
        return log_probs.flatten()[place * log_probs.shape[-1] + rank]

    def _path_log_probs(self, states: Tensor, path: list[Tensor], tables: _Tables) -> list[Tensor]:
        """L of [...]: the log-probability of each step down ``path``, from states [..., d]."""
        parts = []
        for depth in range(self.trie.levels):
            log_probs, _, _ = self._step(states, path[depth], depth, tables)
            rank = path[depth + 1] - self.trie.offsets[depth][path[depth]]
            parts.append(log_probs.gather(-1, rank.unsqueeze(-1)).squeeze(-1))
        return parts

    def _step(
        self, states: Tensor, nodes: Tensor, depth: int, tables: _Tables
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities [..., C] of the children of ``nodes`` [...], the children, and whether they
        exist."""
        child, exists = self.trie.children(nodes, depth)
        parent = None if depth == 0 else F.embedding(nodes, tables.parents[depth - 1])
        query = self.head(states, parent, depth) * self.code_scales[depth].exp()
        vectors = tables.nodes[depth]
        first = 0
        if depth and child.device.type == "cpu":  # where to look costs nothing
            first = int(child.min())
            vectors = vectors[first : int(child.max()) + 1]
        if depth == 0:
            logits = F.linear(query, vectors)  # the root's children are all nodes, in their order
        elif len(vectors) <= (
            _ALL_NODES if torch.is_grad_enabled() else _NODES_A_CHILD * self.trie.most_children[depth]
        ):
            logits = F.linear(query, vectors).gather(-1, child - first)
        else:
            logits = torch.einsum(
                "...d,...cd->...c", query, F.embedding(child - first, vectors).to(query.dtype)
            )
        logits = logits.float() + self.count_weights[depth] * self._log_counts[depth][child]
        return logits.masked_fill(~exists, -torch.inf).log_softmax(dim=-1), child, exists

    # The dense head.

    def user_vectors(self, context: HouseContext, prefix: Tensor | None = None) -> Tensor:  # noqa: ARG002
        users = [self._user(context.state) / self.settings.dense_temperature]
        if self.settings.code_tower_scores:
            users.append(self._user(context.code_state) / self.settings.dense_temperature)
        if context.pooled_state is not None:
            users.append(self._user(context.pooled_state) / self.settings.pooled_temperature)
        return users[0] if len(users) == 1 else torch.cat(users, dim=-1)

    def item_vectors(self, items: Tensor | None = None) -> Tensor:
        vectors = self._tables().scored
        return vectors if items is None else F.embedding(items, vectors)

    @staticmethod
    def _user(states: Tensor) -> Tensor:
        return F.normalize(states.float(), dim=-1)

    # Training.

    def rates(self) -> dict[str, float]:
        return {} if self.pooled is None else {"pooled.": self.settings.pooled_rate}

    def loss(self, batch: HistoryBatch) -> dict[str, Tensor]:
        """``code``: NLL of the L codes; ``dense`` and, of the dense head's other experts, ``dense_code`` and ``pooled``: cross
        entropies over the catalogue; all in nats an event. Where the dense head's tower knows items by identities alone,
        ``stand_in`` is the squared error of what content says of them."""
        batch = self._with_context(batch, None).to(self.device)
        tables = self._tables()
        weights = mean_weights(learnable(self.trie, batch))
        hidden, code_hidden, pooled = (
            None if each is None else each[:, :-1].flatten(0, 1) for each in self._hidden(batch, tables)
        )
        assert hidden is not None
        assert code_hidden is not None
        targets = batch.items.flatten()
        if hidden.device.type == "cpu":
            # An accelerator scores padded positions too, weighted by zero, and waits for no count.
            real = weights.nonzero().squeeze(1) if weights.any() else torch.arange(len(weights))
            targets, weights = targets[real], weights[real]
            hidden = hidden[real]
            code_hidden = hidden if self.code_tower is None else code_hidden[real]
            pooled = None if pooled is None else pooled[real]
        parts = {"code": (self._code_losses(code_hidden, targets, tables) * weights).sum()}
        total = self.settings.code_weight * parts["code"]
        if self.settings.dense_weight > 0:
            experts = {"dense": (hidden, tables.items, self.settings.dense_temperature)}
            if tables.code_items is not None:
                experts["dense_code"] = code_hidden, tables.code_items, self.settings.dense_temperature
            if pooled is not None and tables.pooled_items is not None:
                experts["pooled"] = pooled, tables.pooled_items, self.settings.pooled_temperature
            for name, (states, vectors, temperature) in experts.items():
                user = self._user(states) / temperature
                losses = catalogue_cross_entropy(user, vectors, self.active, targets)
                parts[name] = (losses * weights).sum()
                total = total + self.settings.dense_weight * parts[name]
            if not self.tower.described:
                parts["stand_in"] = self.tower.stand_in_loss(self._content, self._identity)
                total = total + parts["stand_in"]
        return {"total": total, **parts}

    def _code_losses(self, states: Tensor, targets: Tensor, tables: _Tables) -> Tensor:
        """[M] negative log-likelihoods.

        On a CPU a few rows at a time, in the order of the targets' leaves: the nodes that such rows ask for lie side
        by side, and are a small part of all."""
        trie = self.trie
        if states.device.type != "cpu":
            return -torch.stack(self._path_log_probs(states, trie.ancestors(targets), tables)).sum(dim=0)
        order = trie.leaf_of[targets].argsort()
        losses = [
            -torch.stack(self._path_log_probs(states[rows], trie.ancestors(targets[rows]), tables)).sum(dim=0)
            for rows in torch.split(order, _ROWS)
        ]
        return torch.cat(losses)[order.argsort()]


def _means_upwards(leaves: Tensor, trie: Trie, owners: list[Tensor]) -> list[Tensor]:
    """For depths 1 … L: [n_d, d], the mean of the ``leaves`` [n_L, d] below each node."""
    sums = [leaves]
    for owner, ranges in zip(reversed(owners[1:]), reversed(trie.leaf_ranges[1:-1]), strict=True):
        sums.insert(0, leaves.new_zeros(len(ranges) - 1, leaves.shape[1]).index_add(0, owner, sums[0]))
    return [
        total / torch.diff(ranges).unsqueeze(1)
        for total, ranges in zip(sums, trie.leaf_ranges[1:], strict=True)
    ]


def _rows_of(wanted: Tensor, keys: Tensor) -> Tensor:
    """[N] the place of each of ``wanted`` in the ascending ``keys``, -1 where it is not there."""
    if not len(keys):
        return torch.full_like(wanted, -1)
    place = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
    return torch.where(keys[place] == wanted, place, -1)


class _CodeHead(nn.Module):
    """State and codes so far to a query of length 1 for the next level's nodes.

    It begins as the state itself, by which the tower's item vectors are read, and learns what the level and the codes
    so far change about it: a query of its own making would have to learn that geometry first."""

    def __init__(self, width: int, levels: int, dropout: float) -> None:
        super().__init__()
        self.levels = nn.Embedding(levels, width)
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), Dropout(dropout), nn.Linear(2 * width, width)
        )
        for parameter in self.mlp[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, state: Tensor, prefix: Tensor | None, depth: int) -> Tensor:
        mixed = state + self.levels.weight[depth]
        if prefix is not None:
            mixed = mixed + prefix
        return F.normalize((state + self.mlp(self.norm(mixed))).float(), dim=-1)
