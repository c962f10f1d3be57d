"""Histories as a padded batch."""

from __future__ import annotations

import torch

from segue.protocols import HistoryBatch


def batch(*histories: list[int]) -> HistoryBatch:
    width = max(len(history) for history in histories)
    items = torch.tensor([history + [0] * (width - len(history)) for history in histories])
    return HistoryBatch(
        items=items,
        timestamps=torch.zeros_like(items),
        lengths=torch.tensor([len(history) for history in histories]),
    )
