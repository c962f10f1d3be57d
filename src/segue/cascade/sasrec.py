"""SASRec: self-attentive sequential recommendation (Kang & McAuley, ICDM 2018), with a softmax loss.

The published model was trained with one negative a positive and binary cross entropy; with a softmax over the
catalogue, or over many shared sampled negatives, the same network is far stronger (Klenitskiy & Vasilev,
RecSys 2023; Petrov & Macdonald, RecSys 2023), and an incumbent has to be strong. Everything else follows
the paper's equations; normalisation stands before each sub-layer, as in the authors' code.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from segue.artifacts import read_json, write_json
from segue.cascade.alignment import load_item_ids, save_item_ids
from segue.cascade.settings import SasrecSettings
from segue.errors import ArtifactError
from segue.protocols import HistoryBatch
from segue.training.ops import Dropout, causal_attention, full_softmax

WEIGHTS = "model.safetensors"
CONFIG = "config.json"


class Block(nn.Module):
    """Self-attention and a point-wise feed-forward network (section III.B, eqs. 2-5), pre-norm, with dropout.

    Dropout acts on what each sub-layer returns, not inside it as in the paper.
    """

    def __init__(self, dimensions: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = Dropout(dropout)
        self.attention_norm = nn.LayerNorm(dimensions)
        self.query_key_value = nn.Linear(dimensions, 3 * dimensions)
        self.attention_out = nn.Linear(dimensions, dimensions)
        self.feed_forward_norm = nn.LayerNorm(dimensions)
        self.feed_forward_in = nn.Linear(dimensions, dimensions)
        self.feed_forward_out = nn.Linear(dimensions, dimensions)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, d] -> [B, T, d]; position t sees the positions up to t."""
        rows, width, dimensions = x.shape
        split = self.query_key_value(self.attention_norm(x)).view(rows, width, 3, self.heads, -1)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        mixed = causal_attention(query, key, value)
        mixed = self.attention_out(mixed.transpose(1, 2).reshape(rows, width, dimensions))
        x = x + self.dropout(mixed)
        hidden = self.feed_forward_out(F.relu(self.feed_forward_in(self.feed_forward_norm(x))))
        result: Tensor = x + self.dropout(hidden)
        return result


class Sasrec(nn.Module):
    """B histories of T events over N items, d dimensions.

    Batches are padded on the right: with causal attention no event sees padding. Positions are counted so
    that the newest event of a history stands at the last position, as with the paper's padding on the left.

    With ``content`` [N, D] an item's embedding is the sum of its own and a projection of its content: the same
    network that sees what a generative contender sees.
    """

    content: Tensor | None

    def __init__(self, items: int, settings: SasrecSettings, content: Tensor | None = None) -> None:
        super().__init__()
        if settings.dimensions % settings.heads:
            raise ValueError(f"{settings.dimensions} dimensions cannot be shared by {settings.heads} heads")
        self.settings = settings
        self.item_embedding = nn.Embedding(items, settings.dimensions)
        self.position_embedding = nn.Embedding(settings.max_length, settings.dimensions)
        self.dropout = Dropout(settings.dropout)
        self.blocks = nn.ModuleList(
            Block(settings.dimensions, settings.heads, settings.dropout) for _ in range(settings.layers)
        )
        self.final_norm = nn.LayerNorm(settings.dimensions)
        for parameter in self.parameters():
            if parameter.ndim >= 2:
                nn.init.trunc_normal_(parameter, std=0.02)
        self.register_buffer("content", content)
        if content is not None:
            self.content_projection = nn.Linear(content.shape[1], settings.dimensions)

    def _device(self) -> torch.device:
        return self.item_embedding.weight.device

    def embeddings(self) -> Tensor:
        """[N, d] of all items."""
        weight = self.item_embedding.weight
        return weight if self.content is None else weight + self.content_projection(self.content)

    def _embedded(self, items: Tensor) -> Tensor:
        """[..., d] of ``items`` [...]."""
        own: Tensor = self.item_embedding(items)
        return own if self.content is None else own + self.content_projection(self.content[items])

    def hidden(self, items: Tensor, lengths: Tensor) -> Tensor:
        """[B, T, d] for histories [B, T] (T at most ``max_length``) of lengths [B]."""
        width = items.shape[1]
        positions = self.settings.max_length - lengths[:, None] + torch.arange(width, device=items.device)
        positions = positions.clamp(max=self.settings.max_length - 1)  # beyond the end: padding, never read
        x = self._embedded(items) * self.settings.dimensions**0.5 + self.position_embedding(positions)
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x)
        normed: Tensor = self.final_norm(x)
        return normed

    def scaled(self, hidden: Tensor) -> Tensor:
        """User vectors [..., d] whose products with :meth:`item_vectors` are the scores."""
        if self.settings.temperature >= 1.0:
            return hidden
        return F.normalize(hidden.float(), dim=-1) / self.settings.temperature

    def item_vectors(self, items: Tensor | None = None) -> Tensor:
        """[N, d] of all items, or [M, d] of ``items`` [M]: the input embedding is the output embedding
        too.
        """
        weight = self.embeddings() if items is None else self._embedded(items)
        return weight if self.settings.temperature >= 1.0 else F.normalize(weight, dim=-1)

    def user_vectors(self, batch: HistoryBatch) -> Tensor:
        """[B, d] after the newest event of each history; of an empty history it means nothing."""
        batch = batch.to(self._device())
        hidden = self.hidden(batch.items, batch.lengths)
        last = (batch.lengths - 1).clamp(min=0)
        return self.scaled(hidden[torch.arange(len(last), device=hidden.device), last])

    def loss(self, batch: HistoryBatch) -> dict[str, Tensor]:
        """``total``: each event of the batch is predicted from those before it, all positions at once."""
        batch = batch.to(self._device())
        width = batch.items.shape[1]
        if width < 2:
            return {"total": self.item_embedding.weight.sum() * 0.0}
        inside = torch.arange(width - 1, device=batch.items.device) < (batch.lengths - 1)[:, None]
        hidden = self.hidden(batch.items[:, :-1], (batch.lengths - 1).clamp(min=0))[inside]
        targets = batch.items[:, 1:][inside]
        if not targets.numel():
            return {"total": self.item_embedding.weight.sum() * 0.0}
        return {"total": self._softmax(self.scaled(hidden), targets)}

    def _softmax(self, users: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of ``targets`` [P] under user vectors [P, d]."""
        if self.settings.loss == "full_softmax":
            return full_softmax(users, self.item_vectors(), targets)
        negatives, log_proposal = self._negatives(self.settings.negatives)
        positive = (users * self.item_vectors(targets)).sum(-1).float()
        others = (users @ self.item_vectors(negatives).T).float()
        return log_q_softmax(positive, others, targets, negatives, log_proposal)

    def _negatives(self, count: int) -> tuple[Tensor, Tensor]:
        """``count`` items drawn uniformly, and [count] log q of each: all items but the target stand behind them."""
        items = self.item_embedding.num_embeddings
        negatives = torch.randint(items, (count,), device=self._device())
        return negatives, torch.full((count,), -math.log(max(1, items - 1)), device=self._device())


def log_q_softmax(
    positive: Tensor, negative: Tensor, targets: Tensor, negatives: Tensor, log_proposal: Tensor
) -> Tensor:
    """Mean softmax loss over the target and n shared negatives drawn with replacement from a proposal q.

    Args:
        positive: [P] scores of the targets. negative: [P, n] scores of the negatives.
        targets: [P] item indices. negatives: [n] item indices.
        log_proposal: [n] log q of the negatives.

    exp(score) / (n q) sums to an unbiased estimate of the sum over all items but the target, which is left out where it
    was drawn.
    """
    corrected = (
        negative - log_proposal - torch.log(torch.tensor(float(len(negatives)), device=negative.device))
    )
    corrected = corrected.masked_fill(targets[:, None] == negatives[None, :], float("-inf"))
    scores = torch.cat([positive[:, None], corrected], dim=1)
    return (torch.logsumexp(scores, dim=1) - positive).mean()


def save_sasrec(model: Sasrec, item_ids: list[str], folder: Path) -> None:
    """The weights, the settings they were trained with, and the ids of the items behind the embedding's
    rows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: value.cpu().contiguous() for name, value in model.state_dict().items()}, folder / WEIGHTS
    )
    write_json(folder / CONFIG, {"model": "sasrec", "settings": model.settings.model_dump(mode="json")})
    save_item_ids(item_ids, folder)


def load_sasrec(folder: Path) -> tuple[Sasrec, list[str]]:
    """The model in eval mode and the item ids of its rows. Raises ArtifactError where files do not fit."""
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict) or config.get("model") != "sasrec":
        raise ArtifactError(f"{folder / CONFIG} describes no sasrec: run the step incumbent again")
    ids = load_item_ids(folder)
    weights = load_file(folder / WEIGHTS)
    model = Sasrec(len(ids), SasrecSettings.stored(config["settings"]), weights.get("content"))
    model.load_state_dict(weights)
    return model.eval(), ids
