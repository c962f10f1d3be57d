"""TIGER: a Transformer encoder-decoder over semantic IDs.

"Recommender Systems with Generative Retrieval" (Rajput et al., NeurIPS 2023), section 3.2: a user's history is
the sequence of its items' codes, (c_1,1 … c_1,L, c_2,1 … c_n,L); an encoder reads it, a decoder says the codes of
the next item, one after the other. Each level has its own vocabulary. The Transformer is T5's (Raffel et al.
2020, section 2.1): layers that begin with a root-mean-square norm, no biases, and positions as a learnt bias for
each bucket of the distance between two tokens, one table for the encoder and one for the decoder, none between
the two.

What differs from the paper, and why:

- The softmax runs over the children that exist in the trie, in training as in decoding, not over
  the whole vocabulary; so no invalid ID can be said, and the paper's share of invalid IDs is zero.
- A training step predicts ``tiger.targets`` events of each history, drawn without replacement by torch's
  generator, each from the events before it. The paper makes every (history, next event) pair a sample and
  shuffles them; drawn afresh in every step, the pairs have the same expected loss, and a history is read once a
  target rather than once an event. Each draw is weighted by how many events it stands for, so that the loss is
  an unbiased estimate of the mean over all events; with at least as many targets as events it is that mean.
- Users are hashed to one of ``tiger.user_tokens`` tokens, as in the paper (2,000 there), but none is the default: what
  a user leaves in weights cannot be erased. The token is added to a learnt start token, which alone
  stands there for an unknown user, and without user tokens, so that a user without a history is something to read.
- Code tables, of the input and of the output, start at zero: a code that nothing trained adds nothing.

A property of the model: it reads and speaks *every* level, also the last one, which in most item maps only tells
neighbours apart. That level's codes mean nothing in common from prefix to prefix, and an item that is inserted
later is told from its neighbours by what its last code came to mean elsewhere, or by nothing. Content is not read
at all. So a TIGER tells new items apart less well than models that read content, and it has no dense head:
:class:`segue.generative.path.GenerativePath` proposes by its beam alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segue.generative.binding import CodebookModel, draw, learnable
from segue.generative.layers import (
    attention,
    child_log_probs,
    code_tokens,
    join_histories,
    zero_embedding,
    zero_linear,
)
from segue.generative.settings import OF_TOWERS, GenerativeSettings
from segue.protocols import HistoryBatch
from segue.training.ops import Dropout

_LENGTHS = 4  # of histories, that a CPU reads apart
# Events of a step are filled up to a multiple of it: CPU kernels for bf16 are compiled once a shape.
_WHOLE = 32 * _LENGTHS

_Memory = tuple[Tensor, Tensor]  # keys and values, [B, H, S, d / H] each


@dataclass(frozen=True, slots=True)
class TigerContext:
    """What :meth:`TigerModel.encode` knows of B requests."""

    histories: HistoryBatch
    memory: tuple[_Memory, ...]  # what each decoder layer reads of the history
    inside: Tensor  # [B, S] bool: the tokens that are no padding

    def __len__(self) -> int:
        return len(self.inside)


class TigerModel(CodebookModel):
    """Implements :class:`segue.protocols.TrainableRecommender`. d is ``settings.dimensions``.

    ``settings.layers`` counts the layers of the encoder, and again those of the decoder.
    """

    unread: ClassVar[frozenset[str]] = OF_TOWERS | {
        "code_temperature",
        "dense_temperature",
        "code_weight",
        "dense_weight",
    }

    def __init__(
        self,
        settings: GenerativeSettings,
        *,
        codebook_id: str,
        level_sizes: Sequence[int],
        content_dimensions: int,
    ) -> None:
        super().__init__(
            settings, codebook_id=codebook_id, level_sizes=level_sizes, content_dimensions=content_dimensions
        )
        width = settings.dimensions
        self.codes = nn.ModuleList(zero_embedding(size, width) for size in self.level_sizes)
        self.levels = nn.Parameter(torch.randn(len(self.level_sizes), width) * 0.02)
        self.read_start = nn.Parameter(torch.randn(width) * 0.02)
        self.speak_start = nn.Parameter(torch.randn(width) * 0.02)
        tokens = settings.tiger.user_tokens
        self.users = zero_embedding(tokens, width) if tokens else None
        self.encoder = nn.ModuleList(_EncoderLayer(settings) for _ in range(settings.layers))
        self.encoder_bias = _RelativeBias(settings, causal=False)
        self.encoder_norm = nn.RMSNorm(width)
        self.decoder = nn.ModuleList(_DecoderLayer(settings) for _ in range(settings.layers))
        self.decoder_bias = _RelativeBias(settings, causal=True)
        self.decoder_norm = nn.RMSNorm(width)
        self.dropout = Dropout(settings.dropout)
        self.out = nn.ModuleList(zero_linear(width, size, bias=False) for size in self.level_sizes)

    # The encoder.

    def _tokens(self, codes: Tensor) -> Tensor:
        """[..., l, d] inputs of codes [..., l] at the first l levels."""
        return code_tokens(self.codes, self.levels, codes)

    def encode(
        self,
        histories: HistoryBatch,
        context: Sequence[dict[str, str]] | None = None,  # noqa: ARG002  # this model reads no context
    ) -> TigerContext:
        batch = histories.to(self.device)
        levels = len(self.level_sizes)
        tokens = self._tokens(self.bound.codes[batch.items]).flatten(1, 2)  # [B, T L, d]
        start = self._first(batch).unsqueeze(1).to(tokens.dtype)
        hidden = self.dropout(torch.cat([start, tokens], dim=1))
        place = torch.arange(hidden.shape[1], device=hidden.device)
        inside = place <= levels * batch.lengths.unsqueeze(1)
        bias = self.encoder_bias(hidden.shape[1])
        for layer in self.encoder:
            hidden = layer(hidden, bias, inside)
        hidden = self.dropout(self.encoder_norm(hidden))
        memory = []
        for layer in self.decoder:
            assert isinstance(layer, _DecoderLayer)
            memory.append(layer.across.memory(hidden))
        return TigerContext(batch, tuple(memory), inside)

    def _first(self, batch: HistoryBatch) -> Tensor:
        """[B, d] the start token, with the user's where there is one."""
        start = self.read_start.expand(len(batch.lengths), -1)
        if self.users is None or batch.users is None:
            return start
        user: Tensor = self.users(batch.users % self.users.num_embeddings)
        return start + user * (batch.users >= 0).unsqueeze(1)

    def append(self, context: TigerContext, events: HistoryBatch) -> TigerContext:
        """Recomputed over the newest ``max_length`` events: every token of the encoder sees every other."""
        device = self.device
        joined = join_histories(context.histories, events.to(device), self.settings.max_length)
        return self.encode(replace(joined, users=context.histories.users))

    # The decoder.

    def _states(self, context: TigerContext, prefix: Tensor) -> Tensor:
        """[B, W, l + 1, d]: state j knows the history and the first j codes of ``prefix`` [B, W, l]."""
        tokens = self._tokens(prefix)
        start = self.speak_start.expand(*prefix.shape[:2], 1, -1).to(tokens.dtype)
        hidden = self.dropout(torch.cat([start, tokens], dim=2))
        bias = self.decoder_bias(hidden.shape[2])
        for layer, memory in zip(self.decoder, context.memory, strict=True):
            hidden = layer(hidden, bias, memory, context.inside)
        states: Tensor = self.dropout(self.decoder_norm(hidden))
        return states

    def _log_probs(self, states: Tensor, nodes: Tensor, depth: int) -> Tensor:
        """[..., level_size] over the children of ``nodes`` [...], from states [..., d]; -inf elsewhere."""
        return child_log_probs(self.out[depth](states), self.trie, nodes, depth)

    def next_code_log_probs(self, context: TigerContext, prefix: Tensor) -> Tensor:
        depth = prefix.shape[-1]
        found = self.trie.find(prefix)
        nodes = found.clamp(min=0)
        states = self._states(context, self.trie.codes_of(nodes, depth))
        log_probs = self._log_probs(states[:, :, -1], nodes, depth)
        return log_probs.masked_fill((found < 0).unsqueeze(-1), -torch.inf)

    def log_likelihood(self, context: TigerContext, items: Tensor) -> Tensor:
        """Items that are not in the trie have -inf."""
        items = items.to(self.device)
        total = self._path_log_probs(context, items)
        return total.masked_fill(self.trie.leaf_of[items] < 0, -torch.inf)

    def _path_log_probs(self, context: TigerContext, items: Tensor) -> Tensor:
        """[B, M] of the codes of ``items`` [B, M], teacher-forced; an item outside the trie counts as leaf
        0."""
        path = self.trie.ancestors(items)
        codes = self.trie.codes_of(path[-1], len(self.level_sizes))
        states = self._states(context, codes[..., :-1])
        parts = [
            self._log_probs(states[:, :, depth], path[depth], depth).gather(-1, codes[..., depth : depth + 1])
            for depth in range(len(self.level_sizes))
        ]
        return torch.cat(parts, dim=-1).sum(dim=-1)

    # Training.

    def loss(self, batch: HistoryBatch) -> dict[str, Tensor]:
        """``code``: NLL of the L codes, in nats an event; of the events that are drawn.

        On a CPU those with histories of about one length are read together, so that little of what is read is padding."""
        batch = batch.to(self.device)
        rows, places, weights = self._drawn(batch)
        if batch.items.device.type == "cpu":
            parts = places.argsort().chunk(_LENGTHS)
            losses = [self._weighed_loss(batch, rows[part], places[part], weights[part]) for part in parts]
            code = torch.stack(losses).sum()
        else:
            code = self._weighed_loss(batch, rows, places, weights)
        return {"total": code, "code": code}

    def _weighed_loss(self, batch: HistoryBatch, rows: Tensor, places: Tensor, weights: Tensor) -> Tensor:
        """NLL of the events at ``places`` [M] of ``rows`` [M], each from the events before it, summed by ``weights`` [M]."""
        width = max(1, int(places.max()))
        column = torch.arange(width, device=places.device)
        before = (column < places.unsqueeze(1)).to(torch.int64)
        histories = HistoryBatch(
            items=batch.items[rows, :width] * before,
            timestamps=batch.timestamps[rows, :width] * before,
            lengths=places,
            users=None if batch.users is None else batch.users[rows],
        )
        targets = batch.items[rows, places].unsqueeze(1)
        log_probs = self._path_log_probs(self.encode(histories), targets).squeeze(1)
        return -(log_probs * weights).sum()

    def _drawn(self, batch: HistoryBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Rows and places [M] of the events to predict, and how much each counts; the sum is 1.

        What fills them up, or stands where there is nothing to learn, counts nothing."""
        places, drawn, weights = draw(learnable(self.trie, batch), self.settings.tiger.targets)
        weights = weights / weights.sum().clamp(min=1)
        rows = torch.arange(len(places), device=places.device).unsqueeze(1).expand_as(places)
        found = rows[drawn], places[drawn], weights[drawn]
        missing = -len(found[0]) % _WHOLE if len(found[0]) else _WHOLE
        filled_rows, filled_places, filled_weights = (F.pad(each, (0, missing)) for each in found)
        return filled_rows, filled_places, filled_weights


class _RelativeBias(nn.Module):
    """A learnt number for each head and each bucket of the distance between two tokens.

    Half of a direction's buckets hold one distance each, the others grow logarithmically up to
    ``relative_distance`` (Raffel et al. 2020, section 2.1). Tokens that look both ways have half of the buckets
    for each way.
    """

    def __init__(self, settings: GenerativeSettings, *, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.buckets = settings.tiger.relative_buckets
        self.farthest = settings.tiger.relative_distance
        self.table = nn.Embedding(self.buckets, settings.heads)
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, length: int) -> Tensor:
        """[1, H, length, length]; -inf for what lies ahead where it is ``causal``."""
        place = torch.arange(length, device=self.table.weight.device)
        behind = place.unsqueeze(1) - place  # [query, key]
        each = self.buckets if self.causal else self.buckets // 2
        bucket = distance_bucket(behind.abs(), each, self.farthest)
        if not self.causal:
            bucket = bucket + each * (behind < 0)
        bias: Tensor = self.table(bucket).permute(2, 0, 1).unsqueeze(0)
        return bias.masked_fill(behind < 0, -torch.inf) if self.causal else bias


def distance_bucket(distance: Tensor, buckets: int, farthest: int) -> Tensor:
    """Of distances from 0: below ``buckets // 2`` each its own, then logarithmic up to ``farthest``."""
    exact = buckets // 2
    ratio = torch.log(distance.clamp(min=1).double() / exact) / math.log(max(farthest, exact + 1) / exact)
    grown = exact + (ratio * (buckets - exact)).long()
    return torch.where(distance < exact, distance, grown.clamp(exact, buckets - 1))


class _Attention(nn.Module):
    """Multi-head attention without biases; what is read may be another sequence than what asks."""

    def __init__(self, settings: GenerativeSettings) -> None:
        super().__init__()
        width = settings.dimensions
        self.heads = settings.heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def memory(self, read: Tensor) -> _Memory:
        """Keys and values of ``read`` [B, S, d]."""
        key, value = self.key_value(read).chunk(2, dim=-1)
        return self._split(key), self._split(value)

    def forward(
        self, hidden: Tensor, memory: _Memory, *, bias: Tensor | None = None, inside: Tensor | None = None
    ) -> Tensor:
        """[B, Q, d] from hidden [B, Q, d]; ``inside`` [B, S] says whom to read, ``bias`` [1, H, Q, S] how much
        more."""
        key, value = memory
        seen = None if inside is None else inside[:, None, None]
        mixed = attention(self._split(self.query(hidden)), key, value, bias=bias, seen=seen)
        result: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return result

    def _split(self, value: Tensor) -> Tensor:
        return torch.unflatten(value, -1, (self.heads, -1)).transpose(1, 2)


class _FeedForward(nn.Module):
    def __init__(self, settings: GenerativeSettings) -> None:
        super().__init__()
        width = settings.dimensions
        self.norm = nn.RMSNorm(width)
        self.inner = nn.Linear(width, 4 * width, bias=False)
        self.outer = nn.Linear(4 * width, width, bias=False)
        self.dropout = Dropout(settings.dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        inner = self.dropout(F.relu(self.inner(self.norm(hidden))))
        result: Tensor = hidden + self.dropout(self.outer(inner))
        return result


class _EncoderLayer(nn.Module):
    def __init__(self, settings: GenerativeSettings) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(settings.dimensions)
        self.within = _Attention(settings)
        self.feed_forward = _FeedForward(settings)
        self.dropout = Dropout(settings.dropout)

    def forward(self, hidden: Tensor, bias: Tensor, inside: Tensor) -> Tensor:
        """[B, S, d]; ``bias`` [1, H, S, S], ``inside`` [B, S]."""
        read = self.norm(hidden)
        within = self.within(read, self.within.memory(read), bias=bias, inside=inside)
        hidden = hidden + self.dropout(within)
        result: Tensor = self.feed_forward(hidden)
        return result


class _DecoderLayer(nn.Module):
    def __init__(self, settings: GenerativeSettings) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(settings.dimensions)
        self.within = _Attention(settings)
        self.norm_across = nn.RMSNorm(settings.dimensions)
        self.across = _Attention(settings)
        self.feed_forward = _FeedForward(settings)
        self.dropout = Dropout(settings.dropout)

    def forward(self, hidden: Tensor, bias: Tensor, memory: _Memory, inside: Tensor) -> Tensor:
        """[B, W, l, d]; ``bias`` [1, H, l, l]. All beams of a request read one memory, side by side."""
        batch, beams = hidden.shape[:2]
        read = self.norm(hidden).flatten(0, 1)
        within = self.within(read, self.within.memory(read), bias=bias)
        hidden = hidden + self.dropout(torch.unflatten(within, 0, (batch, beams)))
        across = self.across(self.norm_across(hidden).flatten(1, 2), memory, inside=inside)
        hidden = hidden + self.dropout(torch.unflatten(across, 1, (beams, -1)))
        result: Tensor = self.feed_forward(hidden)
        return result
