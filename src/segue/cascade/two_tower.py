"""Two towers: an item tower that reads content, a user tower that reads a history, one product between them.

Yi et al., "Sampling-bias-corrected neural modeling for large corpus item recommendations" (RecSys 2019).
The item tower adds what the content says and what the id has learned; the id's part is dropped at random
in training (DropoutNet, Volkovs et al. 2017), so that an item without any event is placed well by its
content alone.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from segue.artifacts import read_json, write_json
from segue.cascade.alignment import load_item_ids, save_item_ids
from segue.cascade.settings import TwoTowerSettings
from segue.errors import ArtifactError
from segue.protocols import HistoryBatch
from segue.training.ops import full_softmax
from segue.training.pooling import aged_mean

WEIGHTS = "model.safetensors"
CONFIG = "config.json"


class TwoTower(nn.Module):
    """B histories of T events over N items with content of D numbers, d dimensions."""

    content: Tensor
    log_frequency: Tensor

    def __init__(self, items: int, content_dimensions: int, settings: TwoTowerSettings) -> None:
        super().__init__()
        width = settings.dimensions
        self.settings = settings
        self.project_content = nn.Sequential(nn.Linear(content_dimensions, width), nn.LayerNorm(width))
        self.item_embedding = nn.Embedding(items, width)
        self.attention = nn.Linear(width, 1)
        self.slope = nn.Parameter(torch.tensor(-3.0))  # softplus of it: how fast attention falls with age
        self.user_mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        nn.init.normal_(self.item_embedding.weight, std=0.02)
        # Of the training items; not saved with the weights, because content may be told anew.
        self.register_buffer("content", torch.zeros(items, content_dimensions), persistent=False)
        self.register_buffer("log_frequency", torch.zeros(items), persistent=False)

    def item_vectors(self, content: Tensor, ids: Tensor) -> Tensor:
        """[M, d] of unit length, for content [M, D] and what the ids add [M, d] (zeros: an unknown item)."""
        return F.normalize(self.project_content(content) + ids, dim=-1)

    def id_vectors(self, rows: Tensor) -> Tensor:
        """[M, d] what the ids add, for the model's rows [M]; zeros for row -1."""
        known = self.item_embedding(rows.clamp(min=0))
        return torch.where(rows[:, None] >= 0, known, torch.zeros_like(known))

    def pooled_users(self, history: Tensor) -> Tensor:
        """[B, T, d] unit user vectors after each event of item vectors [B, T, d] (padded on the right).

        An MLP with a residual turns the mean of the events, attended to by a score each and by age, into the user's
        vector.
        """
        pooled = aged_mean(history, self.attention(history).squeeze(-1), self.slope)
        return F.normalize(pooled + self.user_mlp(pooled), dim=-1)

    def user_vectors(self, history: Tensor, lengths: Tensor) -> Tensor:
        """[B, d] unit user vectors for item vectors [B, T, d]; of an empty history it means nothing."""
        last = (lengths - 1).clamp(min=0)
        return self.pooled_users(history)[torch.arange(len(last), device=history.device), last]

    def all_item_vectors(self) -> Tensor:
        """[N, d] of the items it was trained on; in training, ids are dropped at random."""
        ids = self.item_embedding.weight
        if self.training and self.settings.id_dropout > 0:
            keep = torch.rand(len(ids), 1, device=ids.device) >= self.settings.id_dropout
            ids = ids * keep
        return self.item_vectors(self.content, ids)

    def loss(self, batch: HistoryBatch) -> dict[str, Tensor]:
        """``total``: each event of the batch is predicted from those before it, all positions at once."""
        table = self.all_item_vectors()
        batch = batch.to(table.device)
        inside = torch.arange(batch.items.shape[1] - 1, device=table.device) < (batch.lengths - 1)[:, None]
        targets = batch.items[:, 1:][inside]
        if not targets.numel():
            return {"total": table.sum() * 0.0}
        users = self.pooled_users(F.embedding(batch.items[:, :-1], table))[inside] / self.settings.temperature
        if self.settings.loss == "full_softmax":
            return {"total": full_softmax(users, table, targets)}
        columns = targets[torch.randperm(len(targets), device=table.device)[: self.settings.negatives]]
        return {"total": in_batch_softmax(users, table, targets, columns, self.log_frequency)}


def in_batch_softmax(
    users: Tensor, table: Tensor, targets: Tensor, columns: Tensor, log_frequency: Tensor
) -> Tensor:
    """Mean softmax loss over each user's target and the targets of others in the batch.

    Args:
        users: [P, d], already over the temperature. table: [N, d] item vectors.
        targets: [P] item indices. columns: [C] item indices of the batch's targets, drawn as often as they
        occur. log_frequency: [N] log of the share of events that an item has: the chance q to be such a
        column.

    Every score is corrected by -log q (Yi et al. 2019, eq. 5), or popular items would be punished for being
    negatives often; a column that is the user's own target is left out.
    """
    positive = (users * table[targets]).sum(-1).float() - log_frequency[targets]
    negative = (users @ table[columns].T).float() - log_frequency[columns]
    negative = negative.masked_fill(targets[:, None] == columns[None, :], float("-inf"))
    return (torch.logsumexp(torch.cat([positive[:, None], negative], dim=1), dim=1) - positive).mean()


def save_two_tower(model: TwoTower, item_ids: list[str], folder: Path) -> None:
    """The weights, the settings they were trained with, and the ids of the items behind the embedding's
    rows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / WEIGHTS)
    write_json(
        folder / CONFIG,
        {
            "model": "two_tower",
            "content_dimensions": model.content.shape[1],
            "settings": model.settings.model_dump(mode="json"),
        },
    )
    save_item_ids(item_ids, folder)


def load_two_tower(folder: Path) -> tuple[TwoTower, list[str]]:
    """The model in eval mode (without content) and the ids of its rows. Raises ArtifactError."""
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict) or config.get("model") != "two_tower":
        raise ArtifactError(f"{folder / CONFIG} describes no two_tower: run the step incumbent again")
    ids = load_item_ids(folder)
    model = TwoTower(len(ids), int(config["content_dimensions"]), TwoTowerSettings.stored(config["settings"]))
    model.load_state_dict(load_file(folder / WEIGHTS))
    return model.eval(), ids
