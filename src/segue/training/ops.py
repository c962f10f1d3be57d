"""Two operations that torch has, in the form that is fast on a CPU; each is held equal to torch's in the
tests.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_ROWS = 256  # of a loss computed at once: their scores stay in the cache


def causal_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """[B, H, T, d] -> [B, H, T, d]: softmax(Q K' / sqrt(d)) V over the positions up to one's own (eq. 2).

    On an accelerator ``scaled_dot_product_attention``; on a CPU its bf16 kernel took two to five times as
    long, backward included, as the two products written out (one thread, 50 to 200 events).
    """
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, is_causal=True)
    width = query.shape[-2]
    future = torch.full((width, width), float("-inf"), dtype=query.dtype).triu(1)
    scores = torch.baddbmm(
        future.expand(query.shape[0] * query.shape[1], width, width),
        query.flatten(0, 1),
        key.flatten(0, 1).transpose(1, 2),
        alpha=query.shape[-1] ** -0.5,
    )
    weights = scores.float().softmax(dim=-1).to(value.dtype)
    return (weights @ value.flatten(0, 1)).view_as(query)


def cross_entropies(users: Tensor, items: Tensor, targets: Tensor) -> Tensor:
    """[P] cross entropies of targets [P] under the scores of user vectors [P, d] and item vectors [N, d].

    On a CPU computed a few rows at a time, because a whole batch's scores over the catalogue leave the cache.
    """
    rows = _ROWS if users.device.type == "cpu" else max(1, len(users))
    return torch.cat(
        [
            F.cross_entropy((some @ items.T).float(), wanted, reduction="none")
            for some, wanted in zip(torch.split(users, rows), torch.split(targets, rows), strict=True)
        ]
    )


def full_softmax(users: Tensor, items: Tensor, targets: Tensor) -> Tensor:
    """Mean of :func:`cross_entropies`."""
    return cross_entropies(users, items, targets).mean()
