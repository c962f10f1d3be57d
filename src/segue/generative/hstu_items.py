"""HSTU over item ids: the retrieval model of the paper, without codes or content.

Zhai et al., "Actions Speak Louder than Words" (ICML 2024), sections 2.2 and 3.1: events are read as embeddings of their
items, the layers are those of :mod:`segue.generative.hstu`, and the state after an event is scored against every item.
Scores are cosines over a temperature, as the authors' code has them, and the loss is the softmax over the whole catalogue
in the place of their sampled one. A baseline: it belongs to no codebook and generates nothing."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segue.generative.hstu_layer import HstuLayer
from segue.generative.layers import TIME_BUCKETS, time_bucket
from segue.generative.settings import GenerativeSettings
from segue.protocols import HistoryBatch
from segue.training.ops import Dropout, full_softmax

_INITIAL = 0.02  # standard deviation of embeddings before training


class HstuItems(nn.Module):
    """B histories of T events over V items, d dimensions. Padding is on the right."""

    def __init__(self, items: int, settings: GenerativeSettings) -> None:
        super().__init__()
        width = settings.dimensions
        self.settings = settings
        self.item_embedding = nn.Embedding(items, width)
        self.gaps = nn.Embedding(TIME_BUCKETS, width)
        self.layers = nn.ModuleList(
            HstuLayer(settings, settings.max_length + 1) for _ in range(settings.layers)
        )
        self.norm = nn.LayerNorm(width)
        self.dropout = Dropout(settings.dropout)
        for table in (self.item_embedding, self.gaps):
            nn.init.normal_(table.weight, std=_INITIAL)

    def hidden(self, batch: HistoryBatch) -> Tensor:
        """[B, T, d] after each event."""
        gap = F.pad(batch.timestamps[:, 1:] - batch.timestamps[:, :-1], (1, 0))
        scale = math.sqrt(self.settings.dimensions)
        hidden = self.dropout(self.item_embedding(batch.items) * scale + self.gaps(time_bucket(gap)))
        for layer in self.layers:
            hidden, _ = layer(hidden, batch.timestamps)
        normalised: Tensor = self.norm(hidden)
        return normalised

    def scaled(self, hidden: Tensor) -> Tensor:
        """User vectors [..., d] whose products with :meth:`item_vectors` are the scores."""
        return F.normalize(hidden.float(), dim=-1) / self.settings.dense_temperature

    def item_vectors(self, items: Tensor | None = None) -> Tensor:
        """[V, d] of all items, or [M, d] of ``items`` [M], of unit length."""
        weight = self.item_embedding.weight if items is None else self.item_embedding(items)
        return F.normalize(weight, dim=-1)

    def user_vectors(self, batch: HistoryBatch) -> Tensor:
        """[B, d] after the newest event of each history; of an empty history it means nothing."""
        batch = batch.to(self.item_embedding.weight.device)
        last = (batch.lengths - 1).clamp(min=0)
        return self.scaled(self.hidden(batch)[torch.arange(len(last), device=last.device), last])

    def loss(self, batch: HistoryBatch) -> dict[str, Tensor]:
        """``total``: each event of the batch is predicted from those before it, all positions at once."""
        batch = batch.to(self.item_embedding.weight.device)
        inside = torch.arange(batch.items.shape[1] - 1, device=batch.items.device) < (
            batch.lengths - 1
        ).unsqueeze(1)
        targets = batch.items[:, 1:][inside]
        if not targets.numel():
            return {"total": self.item_embedding.weight.sum() * 0.0}
        users = self.scaled(self.hidden(batch)[:, :-1][inside])
        return {"total": full_softmax(users, self.item_vectors(), targets)}
