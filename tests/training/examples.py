"""A model and data that train in no time, with dropout, so that randomness matters."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segue.protocols import HistoryBatch
from segue.training.loop import FitResult, FitSettings, fit


class Killed(BaseException):
    """Stands for a kill where the process must live on to look at what it left."""


class NextItem(nn.Module):
    """Predicts every event of a history from the one before it; the loss is a mean over the events that have one."""

    def __init__(self, dropout: float = 0.3) -> None:
        super().__init__()
        self.table = nn.Embedding(12, 8)
        self.layer = nn.Linear(8, 12)
        self.gain = nn.Parameter(torch.ones(12))
        self.unused = nn.Linear(8, 8)  # as a head whose loss has no weight
        self.dropout = nn.Dropout(dropout)

    def loss(self, batch: HistoryBatch) -> dict[str, Tensor]:
        width = batch.items.shape[1] - 1
        inside = torch.arange(width) < (batch.lengths - 1).unsqueeze(1)
        scores = self.layer(self.dropout(self.table(batch.items[:, :-1]))) * self.gain
        losses = nn.functional.cross_entropy(
            scores[inside].float(), batch.items[:, 1:][inside], reduction="none"
        )
        total = losses.sum() / inside.sum().clamp(min=1)
        return {"total": total, "doubled": 2 * total.detach()}


def next_item(dropout: float = 0.3) -> NextItem:
    torch.manual_seed(4)
    return NextItem(dropout)


def batches(epoch: int, count: int = 6) -> list[HistoryBatch]:
    """Histories of very different lengths; the last batch holds a single one."""
    generator = torch.Generator().manual_seed(epoch)
    found = []
    for place in range(count):
        rows = 7 if place < count - 1 else 1
        lengths = torch.randint(2, 10, (rows,), generator=generator)
        items = torch.randint(12, (rows, 9), generator=generator)
        found.append(HistoryBatch(items=items, timestamps=items, lengths=lengths))
    return found


def settings(**changes: object) -> FitSettings:
    values = {
        "epochs": 3,
        "learning_rate": 1e-2,
        "patience": 9,
        "threads": 1,
        "weight_decay": 0.01,
        "precision": "fp32",
    }
    return FitSettings(**(values | changes))  # type: ignore[arg-type]


def weight_of(model: NextItem) -> float:
    """Stands for a validation: it depends on the weights, and on nothing else."""
    return float(model.layer.weight.detach().abs().sum())


def train(model: NextItem, chosen: FitSettings, **changes: object) -> FitResult:
    from segue.training.gradients import events_with_history

    arguments: dict[str, object] = {
        "batches": batches,
        "loss": model.loss,
        "validate": lambda: weight_of(model),
        "settings": chosen,
        "checkpoints": None,
        "progress": lambda line: None,
        "events": events_with_history,
    }
    return fit(model, **(arguments | changes))  # type: ignore[arg-type]


def equal(one: nn.Module, other: nn.Module) -> bool:
    """To the last bit."""
    found = other.state_dict()
    return all(torch.equal(value, found[name]) for name, value in one.state_dict().items())
