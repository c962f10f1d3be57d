"""Layers that several models share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segue.decoding.trie import Trie
from segue.protocols import HistoryBatch
from segue.training.ops import Dropout

if TYPE_CHECKING:
    from segue.data.context import Vocabulary

_UNSAID = 0.1  # of the requests' features in training
TIME_BUCKETS = 32  # of log2(1 + seconds): the last holds everything above 68 years


def time_bucket(seconds: Tensor) -> Tensor:
    """The whole part of log2(1 + seconds); a negative time counts as none.

    Read off as an exponent, which is exact: a GPU's logarithm of a power of two may lie below the whole number."""
    exponent = torch.frexp(seconds.clamp(min=0).double() + 1).exponent
    return (exponent.long() - 1).clamp(max=TIME_BUCKETS - 1)


def zero_embedding(size: int, width: int) -> nn.Embedding:
    table = nn.Embedding(size, width)
    nn.init.zeros_(table.weight)
    return table


def zero_linear(inputs: int, outputs: int, *, bias: bool = True) -> nn.Linear:
    """A linear map that starts at zero: an output that nothing trains stays there."""
    made = nn.Linear(inputs, outputs, bias=bias)
    for parameter in made.parameters():
        nn.init.zeros_(parameter)
    return made


class ContextTables(nn.Module):
    """What a context adds to an event that is read, and to the state that speaks: embeddings that start at zero.

    Of an event only what will be known of one when the model serves (``Vocabulary.of_history``); of a request all. In
    training a request is now and then left without a feature: one that does not say it must be answered, too.
    """

    def __init__(self, vocabulary: Vocabulary, width: int) -> None:
        super().__init__()
        self.places = vocabulary.of_history
        self.events = nn.ModuleList(zero_embedding(vocabulary.sizes[place], width) for place in self.places)
        self.requests = nn.ModuleList(zero_embedding(size, width) for size in vocabulary.sizes)

    def of_events(self, contexts: Tensor) -> Tensor | float:
        """[B, T, d] of the codes [B, T, F]; 0 where nothing is known of events."""
        parts = [table(contexts[..., place]) for place, table in zip(self.places, self.events, strict=True)]
        return torch.stack(parts).sum(dim=0) if parts else 0.0

    def of_requests(self, batch: HistoryBatch) -> Tensor:
        """[B, T + 1, d] for the states before each event and after the last: the context of the event that comes next,
        which at a history's end is the request's own."""
        assert batch.contexts is not None
        codes = F.pad(batch.contexts, (0, 0, 0, 1))
        if batch.request is not None:
            rows = torch.arange(len(codes), device=codes.device)
            codes = codes.index_put((rows, batch.lengths), batch.request)
        if self.training:
            codes = codes * (torch.rand(codes.shape, device=codes.device) >= _UNSAID)
        parts = [table(codes[..., place]) for place, table in enumerate(self.requests)]
        return torch.stack(parts).sum(dim=0)


class ContentProjection(nn.Module):
    """Content to width: a linear map plus a two-layer correction, which starts at zero."""

    def __init__(self, inputs: int, width: int, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, width)
        self.inner = nn.Linear(inputs, 2 * width)
        self.outer = zero_linear(2 * width, width, bias=False)
        self.dropout = Dropout(dropout)

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


def code_tokens(tables: nn.ModuleList, offsets: Tensor, codes: Tensor) -> Tensor:
    """[..., l, d] inputs of codes [..., l] at the first l levels: each level's table, and its row of ``offsets``."""
    count = codes.shape[-1]
    if not count:
        return offsets.new_zeros((*codes.shape, offsets.shape[-1]))
    parts = [tables[level](codes[..., level]) for level in range(count)]
    return torch.stack(parts, dim=-2) + offsets[:count]


def child_log_probs(logits: Tensor, trie: Trie, nodes: Tensor, depth: int) -> Tensor:
    """[..., level_size] of ``logits`` [..., level_size], normalised over the children of ``nodes`` [...]; -inf
    elsewhere."""
    exists = trie.children_mask(nodes, depth)
    return logits.float().masked_fill(~exists, -torch.inf).log_softmax(dim=-1)


def rotary_angles(length: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines [T, width / 2] of the rotary angles."""
    frequency = 10_000 ** (-torch.arange(0, width, 2, device=device) / width)
    angle = torch.arange(length, device=device).unsqueeze(1) * frequency
    return angle.cos(), angle.sin()


def rotated(value: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = (part.to(value.dtype) for part in rotation)
    first, second = value.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


class RotaryBlock(nn.Module):
    """What pre-norm Transformer blocks with rotary positions share; what attends to what is each model's own.

    ``inner``: the width of the MLP. Dropout acts on what each sub-layer returns.
    """

    def __init__(self, width: int, heads: int, dropout: float, *, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.before_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))
        self.dropout = Dropout(dropout)

    def projected(self, hidden: Tensor, rotation: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries and keys, and values, [B, H, Q, d / H] of hidden [B, Q, d]."""
        query, key, value = (
            torch.unflatten(part, -1, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(self.before_attention(hidden)).chunk(3, dim=-1)
        )
        return rotated(query, rotation), rotated(key, rotation), value

    def finished(self, hidden: Tensor, mixed: Tensor) -> Tensor:
        """[..., d] of what went in and what attention ``mixed`` [..., d], its heads side by side."""
        hidden = hidden + self.dropout(self.out(mixed))
        result: Tensor = hidden + self.dropout(self.mlp(self.before_mlp(hidden)))
        return result


def join_histories(old: HistoryBatch, new: HistoryBatch, max_length: int) -> HistoryBatch:
    """The newest ``max_length`` of old then new events, row by row."""
    lengths = old.lengths + new.lengths
    width = int(lengths.max().clamp(min=1))
    column = torch.arange(width, device=lengths.device).expand(len(lengths), -1)
    from_old = column < old.lengths.unsqueeze(1)
    place_new = (column - old.lengths.unsqueeze(1)).clamp(0, new.items.shape[1] - 1)
    place_old = column.clamp(max=old.items.shape[1] - 1)
    inside = column < lengths.unsqueeze(1)
    kept = lengths.clamp(max=max_length)
    shifted = torch.arange(int(kept.max().clamp(min=1)), device=lengths.device) + (lengths - kept).unsqueeze(
        1
    )

    def merge(before: Tensor, after: Tensor) -> Tensor:
        both = torch.where(from_old, before.gather(1, place_old), after.gather(1, place_new))
        both = torch.where(inside, both, 0)
        taken = both.gather(1, shifted.clamp(max=width - 1))
        return torch.where(shifted < lengths.unsqueeze(1), taken, 0)

    contexts = None
    if old.contexts is not None and new.contexts is not None:
        features = zip(old.contexts.unbind(dim=-1), new.contexts.unbind(dim=-1), strict=True)
        contexts = torch.stack([merge(before, after) for before, after in features], dim=-1)
    return HistoryBatch(
        items=merge(old.items, new.items),
        timestamps=merge(old.timestamps, new.timestamps),
        lengths=kept,
        contexts=contexts,
        request=old.request if new.request is None else new.request,
    )
