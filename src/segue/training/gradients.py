"""The gradient of one step: of its batch as a whole, however many pieces and processes it is shared out to.

The loss of a batch is a mean over events. Pieces hold different numbers of them, so each piece's mean is weighted by its
events over those of the batch: the weighted sum is the batch's mean, and so is its gradient."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from segue.protocols import HistoryBatch
from segue.training.distributed import check_device, processes, rank

Losses = dict[str, Tensor]
LossFunction = Callable[[HistoryBatch], Losses]
EventCount = Callable[[HistoryBatch], Tensor]


def all_events(batch: HistoryBatch) -> Tensor:
    """[] every event of the batch: the weight of a loss that is a mean over all of them."""
    return batch.lengths.sum()


def events_with_history(batch: HistoryBatch) -> Tensor:
    """[] every event but the first of each history: the weight of a loss that predicts nothing from nothing."""
    return (batch.lengths - 1).clamp(min=0).sum()


def autocast(device: torch.device, precision: str) -> Any:
    """The autocast context of a recorded precision: bf16, or nothing."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()


class Gradients:
    """Adds a batch's gradient to the parameters of ``model``.

    With ``accumulate`` above 1 each process works on its share in up to so many micro-batches, one after the other: the
    memory of one, the gradient of all. With several processes the shares' gradients are summed (see
    :mod:`segue.training.distributed`); every process must be given the same batches.

    One thing is no longer as in one batch: what the model draws at random (dropout, sampled negatives) is drawn anew for
    each micro-batch and process.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: LossFunction,
        *,
        events: EventCount = all_events,
        accumulate: int,
        precision: str,
    ) -> None:
        self._device = next(model.parameters()).device
        self._loss = loss
        self._events = events
        self._accumulate = accumulate
        self._precision = precision
        self._shared: DistributedDataParallel | None = None
        check_device(self._device)
        if processes() > 1:
            # A head whose loss has no weight has no gradient, and neither has what a short batch does not read.
            self._shared = DistributedDataParallel(
                _Loss(model, loss), find_unused_parameters=True, forward_sync_buffers=False
            )

    def add(self, batch: HistoryBatch) -> Losses:
        """Backward of the whole batch. Returns this process's part of its losses: summed over the processes they are
        the batch's."""
        together = processes()
        if together == 1 and self._accumulate == 1:
            with autocast(self._device, self._precision):
                losses = self._loss(batch)
            losses["total"].backward()  # type: ignore[no-untyped-call]
            return {name: value.detach().float() for name, value in losses.items()}
        rows = len(batch.lengths)
        rounds = min(self._accumulate, -(-rows // together))
        everything = self._events(batch).clamp(min=1).to(self._device)
        sums: Losses = {}
        for place in range(rounds):
            micro, weight = self._piece(batch, rank() + together * place, together * rounds, everything)
            last = place == rounds - 1
            with nullcontext() if last or self._shared is None else self._shared.no_sync():
                with autocast(self._device, self._precision):
                    losses = self._loss(micro) if self._shared is None else self._shared(micro)
                # DDP averages over the processes, and their shares are to be summed.
                (losses["total"] * weight * together).backward()
            for name, value in losses.items():
                part = value.detach().float() * weight
                sums[name] = sums[name] + part if name in sums else part
        return sums

    def _piece(
        self, batch: HistoryBatch, index: int, count: int, everything: Tensor
    ) -> tuple[HistoryBatch, Tensor]:
        """Piece ``index`` of ``count``, and its share of the events. Where there are fewer histories than pieces, it is
        the first history with no weight: the processes must take every step together."""
        chosen = slice(index, None, count)
        if index >= len(batch.lengths):
            return _rows(batch, slice(0, 1)), torch.zeros((), device=self._device)
        piece = _rows(batch, chosen)
        return piece, self._events(piece).to(self._device) / everything


class _Loss(nn.Module):
    """A loss as a forward pass, which is what DDP wraps."""

    def __init__(self, model: nn.Module, loss: LossFunction) -> None:
        super().__init__()
        self.model = model
        self._function = loss

    def forward(self, batch: HistoryBatch) -> Losses:
        return self._function(batch)


def _rows(batch: HistoryBatch, rows: slice) -> HistoryBatch:
    """As wide as the batch: few different shapes, see :mod:`segue.training.batches`."""
    return batch.map(lambda value: value[rows])
