"""Operations that torch has, in the form that is fast on a CPU; each is held to torch's in the tests."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_ROWS = 256  # of a loss computed at once: their scores stay in the cache
_LEVELS = 256  # of a random byte: a dropout's rate is a multiple of its inverse


class Dropout(nn.Module):
    """Dropout at the multiple of 1/256 next to ``rate`` (Srivastava et al. 2014), as :func:`dropout`."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.rate) if self.training else x


def dropout(x: Tensor, rate: float) -> Tensor:
    """``x`` with each number at zero with probability ``rate``, the others scaled so that the mean stays.

    On a CPU torch draws one random number for each of ``x``, which was an eighth of a training step; here eight are
    read from one, a byte each, so the rate is rounded to a multiple of 1/256, and the scale fits the rounded one.
    """
    if x.device.type != "cpu":
        return F.dropout(x, rate)
    kept = _LEVELS - round(rate * _LEVELS)
    if kept in (0, _LEVELS):
        return x if kept else x * 0.0
    drawn = torch.empty((x.numel() + 7) // 8, dtype=torch.int64).random_(-(2**63), None)
    mask = drawn.view(torch.uint8)[: x.numel()].view(x.shape) < kept
    return x * (mask.to(x.dtype) * (_LEVELS / kept))


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

    On a CPU computed a few rows at a time, because a whole batch's scores over the catalogue leave the cache, and with
    a backward pass of its own, because torch's goes through the scores five times and keeps them in fp32. Under
    autocast scores and probabilities are bf16: a loss above 87 nats is told as 87.
    """
    if users.device.type == "cpu":
        found: Tensor = _CrossEntropies.apply(users, items, targets)  # type: ignore[no-untyped-call]
        return found
    return F.cross_entropy((users @ items.T).float(), targets, reduction="none")


def full_softmax(users: Tensor, items: Tensor, targets: Tensor) -> Tensor:
    """Mean of :func:`cross_entropies`."""
    return cross_entropies(users, items, targets).mean()


class _CrossEntropies(torch.autograd.Function):
    """With p the softmax of a row's scores, the loss is -log p_t, and its gradient by the scores p - 1_t."""

    @staticmethod
    def forward(ctx: Any, users: Tensor, items: Tensor, targets: Tensor) -> Tensor:
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else users.dtype
        left, right = users.to(dtype), items.to(dtype)
        chances = [(some @ right.T).softmax(dim=-1) for some in torch.split(left, _ROWS)]
        ctx.save_for_backward(left, right, targets, *chances)
        ctx.dtypes = users.dtype, items.dtype
        own = [
            each.gather(1, wanted.unsqueeze(1)).squeeze(1)
            for each, wanted in zip(chances, torch.split(targets, _ROWS), strict=True)
        ]
        return -torch.cat(own).float().clamp(min=torch.finfo(torch.float32).tiny).log()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        left, right, targets, *chances = ctx.saved_tensors
        to_users, to_items = [], torch.zeros(right.shape, dtype=torch.float32)
        parts = zip(
            chances,
            torch.split(left, _ROWS),
            torch.split(targets, _ROWS),
            torch.split(gradient.unsqueeze(1), _ROWS),
            strict=True,
        )
        for chance, some, wanted, weight in parts:
            weight = weight.to(chance.dtype)
            by_score = (chance * weight).scatter_add_(1, wanted.unsqueeze(1), -weight)
            to_users.append(by_score @ right)
            to_items += by_score.T @ some
        return torch.cat(to_users).to(ctx.dtypes[0]), to_items.to(ctx.dtypes[1]), None
