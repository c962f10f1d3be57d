"""The layer of HSTU, for padded histories on any device and for jagged ones on an accelerator.

Equations 1 to 3 of Zhai et al. 2024 stand in :mod:`segue.generative.hstu`. Both forms are the same sum: the tests hold the
fused kernel to the plain one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segue.generative.layers import TIME_BUCKETS, time_bucket
from segue.generative.settings import GenerativeSettings
from segue.training.ops import Dropout

_QUERIES = 256  # positions whose attention is computed together


@dataclass(frozen=True, slots=True)
class Memory:
    """What a layer keeps of a history for candidates to read."""

    keys: Tensor  # [B, H, P, d / H]
    values: Tensor  # [B, H, P, d / H]


class HstuLayer(nn.Module):
    """Equations 1 to 3, on a normalised input, with a residual connection."""

    def __init__(self, settings: GenerativeSettings, positions: int) -> None:
        """``positions``: the most that a history has."""
        super().__init__()
        width = settings.dimensions
        self.heads = settings.heads
        self.longest = positions
        self.before = nn.LayerNorm(width)
        self.project = nn.Linear(width, 4 * width)  # f1
        self.position = nn.Embedding(self.longest + 1, 1)  # a candidate stands one behind the last event
        self.time = nn.Embedding(TIME_BUCKETS, 1)
        self.after = nn.LayerNorm(width, eps=1e-6)  # what it norms may be small
        self.out = nn.Linear(width, width)  # f2
        self.dropout = Dropout(settings.dropout)
        for table in (self.position, self.time):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, hidden: Tensor, times: Tensor) -> tuple[Tensor, Memory]:
        """[B, T, d] and what candidates may read; ``times`` [B, T] seconds.

        Padding is on the right, so causality alone keeps it out of every real position.
        """
        gate, value, query, key = self._projected(hidden)
        mixed = self.attended(query, key, value, times).transpose(1, 2).flatten(2)
        return self._finished(hidden, mixed, gate), Memory(key, value)

    def attended(self, query: Tensor, key: Tensor, value: Tensor, times: Tensor) -> Tensor:
        """[B, H, T, d / H]: the spatial aggregation (equation 2), a stretch of queries at a time."""
        place = torch.arange(query.shape[2], device=query.device)
        mixed = []
        for low in range(0, len(place), _QUERIES):
            rows = slice(low, low + _QUERIES)
            seen = slice(0, low + _QUERIES)  # no later key is read
            behind = place[rows].unsqueeze(1) - place[seen]
            bias = self._bias(behind, times[:, rows, None] - times[:, None, seen]).unsqueeze(1)
            weights = _weights(query[:, :, rows], key[:, :, seen], bias, behind >= 0)
            mixed.append(weights @ value[:, :, seen] / (place[rows] + 1).unsqueeze(1))
        return torch.cat(mixed, dim=2)

    def candidates(self, hidden: Tensor, memory: Memory, times: Tensor, after: Tensor) -> Tensor:
        """[B, M, d]: candidates [B, M, d] that see the first ``after`` [B, M] events, and each itself alone."""
        gate, value, query, key = self._projected(hidden)
        place = torch.arange(times.shape[1], device=hidden.device)
        own = after.unsqueeze(2) + 1  # [B, M, 1]
        now = times.gather(1, after).unsqueeze(2)
        bias = self._bias(own - place, now - times.unsqueeze(1)).unsqueeze(1)  # [B, 1, M, T]
        mixed = _weights(query, memory.keys, bias, (place < own).unsqueeze(1)) @ memory.values
        nothing = torch.zeros((), dtype=torch.int64, device=hidden.device)
        itself = (query * key).sum(dim=-1, keepdim=True) + self._bias(nothing, nothing)
        mixed = (mixed + F.silu(itself) * value) / (own + 1).unsqueeze(1)
        return self._finished(hidden, mixed.transpose(1, 2).flatten(2), gate)

    def jagged(
        self, hidden: Tensor, times: Tensor, offsets: Tensor, longest: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """[S, d] of positions [S, d] without padding, at ``times`` [S], of which history b has the rows ``offsets`` [B + 1] b to
        b + 1, none more than ``longest``; and keys and values [S, H, d / H]. As :meth:`forward`, by a fused kernel."""
        from segue.generative.hstu_kernel import jagged_attention  # takes Triton, which a CPU is without

        gate, value, query, key = self._parts(hidden)
        mixed = jagged_attention(query, key, value, times, offsets, *self.biases, longest)
        return self._finished(hidden, mixed.flatten(1), gate), key, value

    @property
    def biases(self) -> tuple[Tensor, Tensor]:
        """[P] by distance in positions, [T] by bucket of the distance in time."""
        return self.position.weight.squeeze(1), self.time.weight.squeeze(1)

    def _parts(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """U [..., d]; V, Q and K [..., H, d / H]."""
        gate, *parts = F.silu(self.project(self.before(hidden))).chunk(4, dim=-1)
        value, query, key = (torch.unflatten(part, -1, (self.heads, -1)) for part in parts)
        return gate, value, query, key

    def _projected(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """U [B, T, d]; V, Q and K [B, H, T, d / H]."""
        gate, value, query, key = self._parts(hidden)
        return gate, value.transpose(1, 2), query.transpose(1, 2), key.transpose(1, 2)

    def _bias(self, behind: Tensor, seconds: Tensor) -> Tensor:
        """rab^{p,t} [...] of distances in positions [...] and in seconds [...]."""
        bias: Tensor = self.position(behind.clamp(0, self.longest)) + self.time(time_bucket(seconds))
        return bias.squeeze(-1)

    def _finished(self, hidden: Tensor, mixed: Tensor, gate: Tensor) -> Tensor:
        result: Tensor = hidden + self.dropout(self.out(self.after(mixed) * gate))
        return result


def _weights(query: Tensor, key: Tensor, bias: Tensor, seen: Tensor) -> Tensor:
    """[B, H, Q, K] SiLU(Q K^T + rab), zero where a key is not seen."""
    return F.silu(query @ key.transpose(-1, -2) + bias) * seen
