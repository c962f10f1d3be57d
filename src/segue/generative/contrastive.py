"""The contrastive loss of a dense head: the target against the catalogue, or against a sample of it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from segue.training.ops import cross_entropies

_FULL_ITEMS = 20_000  # above it negatives are sampled
_NEGATIVES = 2048


def catalogue_cross_entropy(users: Tensor, vectors: Tensor, active: Tensor, targets: Tensor) -> Tensor:
    """[M] cross entropies, in nats, of ``targets`` [M] item indices among the items ``active`` [A].

    ``users`` [M, d] and ``vectors`` [N, d]: scores are their dot products. What a target that is not active gets
    means nothing. Above ``_FULL_ITEMS`` items the softmax is estimated from uniform negatives that the batch shares,
    each counted (A - 1) / n times (Jean et al. 2015, section 3, with a uniform proposal).
    """
    if len(active) <= _FULL_ITEMS:
        place = torch.searchsorted(active, targets).clamp(max=len(active) - 1)
        return cross_entropies(users, vectors[active], place)
    count = min(_NEGATIVES, len(active) - 1)
    negatives = active[torch.randint(len(active), (count,), device=active.device)]
    logits = F.linear(users, vectors[negatives]).float() + math.log((len(active) - 1) / count)
    logits = logits.masked_fill(negatives == targets.unsqueeze(1), -torch.inf)
    positive = (users * vectors[targets]).sum(dim=-1, keepdim=True).float()
    return F.cross_entropy(torch.cat([positive, logits], dim=1), torch.zeros_like(targets), reduction="none")
