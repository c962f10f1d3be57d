"""Layers that several models share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def zero_linear(inputs: int, outputs: int, *, bias: bool = True) -> nn.Linear:
    """A linear map that starts at zero: an output that nothing trains stays there."""
    made = nn.Linear(inputs, outputs, bias=bias)
    for parameter in made.parameters():
        nn.init.zeros_(parameter)
    return made


class ContentProjection(nn.Module):
    """Content to width: a linear map plus a two-layer correction, which starts at zero."""

    def __init__(self, inputs: int, width: int, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, width)
        self.inner = nn.Linear(inputs, 2 * width)
        self.outer = zero_linear(2 * width, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, content: Tensor) -> Tensor:
        """[..., width] of [..., inputs]."""
        result: Tensor = self.linear(content) + self.outer(self.dropout(F.gelu(self.inner(content))))
        return result


def attention(
    query: Tensor, key: Tensor, value: Tensor, *, bias: Tensor | None = None, seen: Tensor | None = None
) -> Tensor:
    """softmax(Q K' / sqrt(d) + bias) V over the keys that are ``seen``: [B, H, Q, d] from [B, H, Q, d], [B, H, K, d].

    ``bias`` and ``seen`` (bool) are broadcast to [B, H, Q, K]; every query must see a key. On an accelerator
    ``scaled_dot_product_attention``; on a CPU written out, because there its bf16 kernel with a learnt mask took
    1.3 to 2 times as long (one thread, 61 and 301 tokens, backward included).
    """
    if query.device.type != "cpu":
        mask = seen
        if bias is not None:
            mask = bias if seen is None else bias.masked_fill(~seen, -torch.inf)
            mask = mask.to(query.dtype)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    scores = (query @ key.transpose(-1, -2)).float() * query.shape[-1] ** -0.5
    if bias is not None:
        scores = scores + bias
    if seen is not None:
        scores = scores.masked_fill(~seen, -torch.inf)
    result: Tensor = scores.softmax(dim=-1).to(value.dtype) @ value
    return result
