"""What reads a history: towers, each with its own idea of what an item is and of what counts in the past."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segue.generative.layers import (
    TIME_BUCKETS,
    ContextTables,
    RotaryBlock,
    rotary_angles,
    time_bucket,
    zero_embedding,
)
from segue.generative.settings import GenerativeSettings
from segue.protocols import HistoryBatch
from segue.training.ops import Dropout, causal_attention
from segue.training.pooling import aged_mean

_INITIAL = 0.02  # standard deviation of embeddings before training


class Identities(nn.Module):
    """Of single items: an embedding for each that has events to learn from."""

    def __init__(self, settings: GenerativeSettings, *, identities: bool, left_out: float) -> None:
        super().__init__()
        self.settings = settings
        self.left_out = left_out  # how often training leaves an identity out
        self.identity = nn.Parameter(torch.zeros(0, settings.dimensions)) if identities else None

    def adopt(self, count: int, *, seed: int) -> None:
        """Fresh identities of ``count`` items."""
        if self.identity is not None:
            made = torch.randn(count, self.settings.dimensions, generator=torch.Generator().manual_seed(seed))
            self.identity = nn.Parameter((made * _INITIAL).to(self.identity.device))

    def identified(self, described: Tensor, identity: Tensor) -> Tensor:
        """[N, d]: ``described`` [N, d] with the identities in rows ``identity`` [N] (-1: none) added, of which training leaves
        some out."""
        if self.identity is None or not len(self.identity):
            return described
        known = identity >= 0
        if self.training and self.left_out:
            known = known & (torch.rand(len(known), device=known.device) >= self.left_out)
        return described + F.embedding(identity.clamp(min=0), self.identity) * known.unsqueeze(-1)


class Tower(Identities):
    """Item vectors, and the Transformer that reads histories of them.

    With ``described`` False an item is its identity alone, so that the tower errs elsewhere than one that knows items by their
    content; for an item without one stands in what its content says of it, in training (serving asks its neighbours).

    Positions are rotary (Su et al. 2021), so relative: a prefix is read in training as it is when it is all there
    is."""

    def __init__(
        self,
        settings: GenerativeSettings,
        coded: Sequence[int],
        content_dimensions: int,
        *,
        identities: bool,
        described: bool = True,
    ) -> None:
        super().__init__(settings, identities=identities, left_out=settings.identity_dropout)
        self.described = described
        width = settings.dimensions
        self.content = nn.Linear(content_dimensions, width)
        self.codes = nn.ModuleList(zero_embedding(size, width) for size in coded if described)
        self.start = nn.Parameter(torch.randn(width) * _INITIAL)
        self.gaps = nn.Embedding(TIME_BUCKETS, width)
        self.blocks = nn.ModuleList(
            _Block(width, settings.heads, settings.dropout, inner=2 * width) for _ in range(settings.layers)
        )
        self.norm = nn.LayerNorm(width)
        self.dropout = Dropout(settings.dropout)
        self.context: ContextTables | None = None
        nn.init.normal_(self.gaps.weight, std=_INITIAL)

    def items(self, content: Tensor, codes: Tensor, identity: Tensor) -> Tensor:
        """[N, d] of items with content [N, D], codes [N, L] and these rows [N] of the identities (-1: none)."""
        total: Tensor = self.content(content * self.settings.content_scale).float()
        for level, table in enumerate(self.codes):
            total = total + table(codes[:, level])
        return self.identified(total, identity) if self.described else self._stood_in_for(total, identity)

    def _stood_in_for(self, described: Tensor, identity: Tensor) -> Tensor:
        """[N, d]: identities, and ``described`` [N, d], which learns from :meth:`stand_in_loss` alone, where there is none."""
        if self.identity is None or not len(self.identity):
            return described.detach()
        own = F.embedding(identity.clamp(min=0), self.identity)
        return torch.where((identity >= 0).unsqueeze(-1), own, described.detach())

    def stand_in_loss(self, content: Tensor, identity: Tensor) -> Tensor:
        """Mean squared error of the identities in rows ``identity`` [N] (-1: none), told from content [N, D]: the map from
        attributes to factors of Gantner et al. 2010. Nothing but the projection of content learns from it."""
        if self.identity is None or not len(self.identity):
            return content.new_zeros(())
        told = self.content(content.detach() * self.settings.content_scale).float()
        errors = (told - F.embedding(identity.clamp(min=0), self.identity).detach()).square().mean(dim=1)
        known = (identity >= 0).float()
        error: Tensor = (errors * known).sum() / known.sum().clamp(min=1)
        return error

    def encode(self, batch: HistoryBatch, items: Tensor) -> Tensor:
        """[B, T + 1, d], for item vectors [N, d]: state 0 knows nothing, state t the first t events."""
        gap = F.pad(batch.timestamps[:, 1:] - batch.timestamps[:, :-1], (1, 0))
        events = F.embedding(batch.items, items) * math.sqrt(items.shape[1]) + self.gaps(time_bucket(gap))
        events = self.told_of_events(events, batch)
        hidden = torch.cat([self.start.expand(len(events), 1, -1).to(events.dtype), events], dim=1)
        hidden = self.dropout(hidden)
        rotation = rotary_angles(
            hidden.shape[1], self.settings.dimensions // self.settings.heads, hidden.device
        )
        for block in self.blocks:
            hidden = block(hidden, rotation)
        return self.told_of_requests(self.norm(hidden), batch)

    def told_of_events(self, events: Tensor, batch: HistoryBatch) -> Tensor:
        """Events [B, T, d] with what is declared of their context."""
        if self.context is None or batch.contexts is None:
            return events
        return events + self.context.of_events(batch.contexts)

    def told_of_requests(self, states: Tensor, batch: HistoryBatch) -> Tensor:
        """States [B, T + 1, d] with the context of what comes next."""
        if self.context is None or batch.contexts is None:
            return states
        return states + self.context.of_requests(batch)


class PooledTower(Identities):
    """The two-tower model's view (:mod:`segue.cascade.two_tower`): a history is a mean that forgets, in which order does
    little, and an item is above all its content.

    It errs elsewhere than a Transformer over identities does, which is what a sum of experts lives on.
    """

    def __init__(self, settings: GenerativeSettings, content_dimensions: int) -> None:
        super().__init__(settings, identities=True, left_out=settings.pooled_identity_dropout)
        width = settings.dimensions
        self.content = nn.Linear(content_dimensions, width)
        self.content_norm = nn.LayerNorm(width)
        self.attention = nn.Linear(width, 1)
        self.slope = nn.Parameter(torch.tensor(-3.0))  # softplus of it: how fast attention falls with age
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.start = nn.Parameter(torch.randn(width) * _INITIAL)

    def items(self, content: Tensor, identity: Tensor) -> Tensor:
        """[N, d] unit vectors of items with content [N, D] and these rows [N] of the identities (-1: none)."""
        described = self.content_norm(self.content(F.normalize(content, dim=-1)).float())
        return F.normalize(self.identified(described, identity), dim=-1)

    def encode(self, batch: HistoryBatch, items: Tensor) -> Tensor:
        """[B, T + 1, d], for item vectors [N, d]: state 0 knows nothing, state t the first t events."""
        history = F.embedding(batch.items, items)
        pooled = aged_mean(history, self.attention(history).squeeze(-1), self.slope)
        pooled = torch.cat([self.start.expand(len(pooled), 1, -1).to(pooled.dtype), pooled], dim=1)
        states: Tensor = pooled + self.mlp(pooled)
        return states


class _Block(RotaryBlock):
    def forward(self, hidden: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        query, key, value = self.projected(hidden, rotation)
        # Padding is on the right, so causality alone keeps it out of every real position.
        mixed = causal_attention(query, key, value)
        return self.finished(hidden, mixed.transpose(1, 2).flatten(2))
