"""A history as one vector, whatever its order but for age."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def aged_mean(history: Tensor, scores: Tensor, slope: Tensor) -> Tensor:
    """[B, T, d]: after each event, the mean of ``history`` [B, T, d] up to it, weighed by a softmax of ``scores`` [B, T] minus
    softplus(``slope``) times the age in events: the linear bias of ALiBi (Press et al. 2022), its slope learned.

    Histories are padded on the right, so that nothing before the padding sees it.
    """
    steps = torch.arange(history.shape[1], device=history.device)
    age = steps[:, None] - steps[None, :]
    aged = scores[:, None, :].float() - F.softplus(slope) * age
    weights = aged.masked_fill(age < 0, -torch.inf).softmax(dim=-1)
    return weights.to(history.dtype) @ history
