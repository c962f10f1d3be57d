"""HSTU: pointwise aggregated attention in the place of softmax attention.

"Actions Speak Louder than Words: Trillion-Parameter Sequential Transducers for Generative Recommendations" (Zhai
et al., ICML 2024), section 3.1. A layer is three equations, X [T, d] the positions of a history:

1. U, V, Q, K = split(SiLU(f1(X))), the pointwise projection (equation 1);
2. A V with A = SiLU(Q K^T + rab^{p,t}) / n, the spatial aggregation (equation 2): no softmax, so that one history's
   weights may sum to more than another's;
3. Y = f2(norm(A V) * U), the pointwise transformation (equation 3), added to X. There is no feed-forward part.

``rab^{p,t}`` is a relative attention bias: a learnt number for each distance in positions, and one for each
logarithmic bucket of the distance in time, shared by the heads.

What differs from the paper, and why:

- The layers are the encoder of the house model: what an event is read as, the code head and the dense head are
  its own (:mod:`segue.generative.house`), so the two differ in the encoder alone. The paper reads item ids.
- Histories have no actions here, so items and actions are not interleaved (section 2.2): the sequence is that of
  the retrieval task, one position an event.
- n is how many positions a position sees. The equation has none, the authors' layer divides by the longest length;
  the norm that follows takes a common factor out again, but for its epsilon, which short histories would sink in.
- Time distances are between the events themselves; the time of the request is not known to a model here.
- Stochastic Length (section 3.2) and the fused kernel are left out. Without gradients, attention holds a stretch of queries at
  a time, so that its memory grows with T, not with T^2; with them, every stretch is kept for the backward pass.

M-FALCON (section 3.4) scores candidates with the candidate *inside* the attention: M candidates are
appended, each sees the history and itself but no other, and the history's keys and values are computed once, whatever
M; micro-batches bound the memory. Its score is a head of its own, trained only where ``hstu.ranking_weight`` is above 0,
as a softmax over the target and ``hstu.ranking_negatives`` items drawn from the catalogue; the paper's ranking task
predicts actions, which histories do not have here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segue.errors import ConfigurationError, DataError
from segue.generative.binding import draw, learnable
from segue.generative.house import HouseContext, HouseModel
from segue.generative.layers import TIME_BUCKETS, time_bucket
from segue.generative.settings import GenerativeSettings
from segue.generative.towers import Tower
from segue.protocols import HistoryBatch
from segue.training.ops import Dropout

_QUERIES = 256  # positions whose attention is computed together


class HstuTower(Tower):
    """The house model's tower with HSTU layers."""

    def __init__(
        self, settings: GenerativeSettings, coded: Sequence[int], content_dimensions: int, **known: bool
    ) -> None:
        super().__init__(settings, coded, content_dimensions, **known)
        self.blocks = nn.ModuleList(HstuLayer(settings) for _ in range(settings.layers))

    def encode(self, batch: HistoryBatch, items: Tensor) -> Tensor:
        """[B, T + 1, d], for item vectors [N, d]: state 0 knows nothing, state t the first t events."""
        hidden, _ = self.read(batch, items)
        return self.told_of_requests(self.norm(hidden), batch)

    def read(self, batch: HistoryBatch, items: Tensor) -> tuple[Tensor, list[_Memory]]:
        """The last layer's positions [B, T + 1, d], and the keys and values of every layer."""
        gaps = F.pad(batch.timestamps[:, 1:] - batch.timestamps[:, :-1], (1, 0))
        events = self.told_of_events(self._events(batch.items, gaps, items), batch)
        start = self.start.expand(len(events), 1, -1).to(events.dtype)
        hidden = self.dropout(torch.cat([start, events], dim=1))
        times = _with_start(batch.timestamps)
        memories = []
        for layer in self.blocks:
            hidden, memory = layer(hidden, times)
            memories.append(memory)
        return hidden, memories

    def candidates(
        self,
        batch: HistoryBatch,
        memories: Sequence[_Memory],
        wanted: Tensor,
        after: Tensor,
        items: Tensor,
    ) -> Tensor:
        """[B, M, d]: what :meth:`encode` would end in if item ``wanted`` [B, M] came next after the first
        ``after`` [B, M] events, at the time of the last of them; ``memories`` are those of ``batch``."""
        times = _with_start(batch.timestamps)
        hidden = self.dropout(self._events(wanted, torch.zeros_like(wanted), items))
        for layer, memory in zip(self.blocks, memories, strict=True):
            assert isinstance(layer, HstuLayer)
            hidden = layer.candidates(hidden, memory, times, after)
        normalised: Tensor = self.norm(hidden)
        return normalised

    def _events(self, wanted: Tensor, gaps: Tensor, items: Tensor) -> Tensor:
        """[..., d] of items [...] that came ``gaps`` [...] seconds after the event before: as the house model
        reads them."""
        events: Tensor = F.embedding(wanted, items) * math.sqrt(items.shape[1]) + self.gaps(time_bucket(gaps))
        return events


class HstuModel(HouseModel):
    """The house model with HSTU layers. Implements :class:`segue.protocols.TrainableRecommender`."""

    def __init__(
        self,
        settings: GenerativeSettings,
        *,
        codebook_id: str,
        level_sizes: Sequence[int],
        content_dimensions: int,
    ) -> None:
        super().__init__(
            settings,
            codebook_id=codebook_id,
            level_sizes=level_sizes,
            content_dimensions=content_dimensions,
        )
        coded = self.level_sizes[:-1]
        described = self.tower.described
        self.tower = HstuTower(settings, coded, content_dimensions, identities=True, described=described)
        if self.code_tower is not None:
            with_identities = settings.code_tower == "own"
            self.code_tower = HstuTower(settings, coded, content_dimensions, identities=with_identities)
        self.rank = nn.Linear(settings.dimensions, 1) if settings.hstu.ranking_weight > 0 else None

    # M-FALCON.

    def mfalcon(self, context: HouseContext, items: Tensor, *, micro_batch: int = 256) -> Tensor:
        """[B, M] scores of candidates [B, M], ``micro_batch`` of them at a time over one reading of the history.

        A candidate stands at the time of the last event. Raises ConfigurationError for a model without the head
        that this takes, DataError for a micro-batch below 1.
        """
        if micro_batch < 1:
            raise DataError(f"micro_batch is {micro_batch}: score at least one candidate at a time")
        raw = self._tables().raw
        _, memories = self._reader.read(context.histories, raw)
        after = context.histories.lengths.unsqueeze(1)
        parts = torch.split(items.to(self.missing.device), micro_batch, dim=1)
        return torch.cat(
            [self._ranked(context.histories, memories, part, after.expand_as(part), raw) for part in parts],
            dim=1,
        )

    @property
    def _reader(self) -> HstuTower:
        assert isinstance(self.tower, HstuTower)
        return self.tower

    def _ranked(
        self, batch: HistoryBatch, memories: Sequence[_Memory], wanted: Tensor, after: Tensor, items: Tensor
    ) -> Tensor:
        """[B, M] scores of items ``wanted`` [B, M], each of which stands after the first ``after`` [B, M]
        events."""
        if self.rank is None:
            raise ConfigurationError(
                "this HSTU has no ranking head: train it with generative.hstu.ranking_weight above 0"
            )
        states = self._reader.candidates(batch, memories, wanted, after, items)
        scores: Tensor = self.rank(states).squeeze(-1)
        return scores.float()

    # Training.

    def loss(self, batch: HistoryBatch) -> dict[str, Tensor]:
        """Those of the house model and, with ``hstu.ranking_weight``, ``rank``: in nats an event, over
        ``hstu.ranking_targets`` events of each history, drawn by torch's generator; each draw counts for the events that
        it stands for, so that the expectation is the mean over all events."""
        parts = super().loss(batch)
        weight = self.settings.hstu.ranking_weight
        if weight > 0:
            parts["rank"] = self._ranking_loss(batch.to(self.missing.device))
            parts["total"] = parts["total"] + weight * parts["rank"]
        return parts

    def _ranking_loss(self, batch: HistoryBatch) -> Tensor:
        """Cross entropy of each target among itself and negatives, which see what the target sees."""
        chosen = self.settings.hstu
        # Each draw stands for as many events, so that this is a mean over events, as micro-batches take it to be.
        places, _, weights = draw(learnable(self.trie, batch), chosen.ranking_targets)
        targets = batch.items.gather(1, places).unsqueeze(2)
        active = self.active
        shape = (*places.shape, chosen.ranking_negatives)
        negatives = active[torch.randint(len(active), shape, device=active.device)]
        asked = torch.cat([targets, negatives], dim=2)  # [B, P, 1 + n]
        raw = self._tables().raw
        _, memories = self._reader.read(batch, raw)
        after = places.unsqueeze(2).expand_as(asked).flatten(1)
        scores = self._ranked(batch, memories, asked.flatten(1), after, raw).view(asked.shape)
        same = F.pad(negatives == targets, (1, 0))
        losses = -scores.masked_fill(same, -torch.inf).log_softmax(dim=2)[..., 0]
        return (losses * weights).sum() / weights.sum().clamp(min=1)


def _with_start(timestamps: Tensor) -> Tensor:
    """[B, T + 1]: the start is as old as the first event, so no time has passed between them."""
    return torch.cat([timestamps[:, :1], timestamps], dim=1)


@dataclass(frozen=True, slots=True)
class _Memory:
    """What a layer keeps of a history for candidates to read."""

    keys: Tensor  # [B, H, T + 1, d / H]
    values: Tensor  # [B, H, T + 1, d / H]


class HstuLayer(nn.Module):
    """Equations 1 to 3, on a normalised input, with a residual connection."""

    def __init__(self, settings: GenerativeSettings) -> None:
        super().__init__()
        width = settings.dimensions
        self.heads = settings.heads
        self.longest = settings.max_length + 1  # the events of a window and the start
        self.before = nn.LayerNorm(width)
        self.project = nn.Linear(width, 4 * width)  # f1
        self.position = nn.Embedding(self.longest + 1, 1)  # a candidate stands one behind the last event
        self.time = nn.Embedding(TIME_BUCKETS, 1)
        self.after = nn.LayerNorm(width, eps=1e-6)  # what it norms may be small
        self.out = nn.Linear(width, width)  # f2
        self.dropout = Dropout(settings.dropout)
        for table in (self.position, self.time):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, hidden: Tensor, times: Tensor) -> tuple[Tensor, _Memory]:
        """[B, T, d] and what candidates may read; ``times`` [B, T] seconds.

        Padding is on the right, so causality alone keeps it out of every real position.
        """
        gate, value, query, key = self._projected(hidden)
        place = torch.arange(hidden.shape[1], device=hidden.device)
        mixed = []
        for low in range(0, len(place), _QUERIES):
            rows = slice(low, low + _QUERIES)
            seen = slice(0, low + _QUERIES)  # no later key is read
            behind = place[rows].unsqueeze(1) - place[seen]
            bias = self._bias(behind, times[:, rows, None] - times[:, None, seen]).unsqueeze(1)
            weights = _weights(query[:, :, rows], key[:, :, seen], bias, behind >= 0)
            mixed.append(weights @ value[:, :, seen] / (place[rows] + 1).unsqueeze(1))
        return self._finished(hidden, torch.cat(mixed, dim=2), gate), _Memory(key, value)

    def candidates(self, hidden: Tensor, memory: _Memory, times: Tensor, after: Tensor) -> Tensor:
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
        return self._finished(hidden, mixed, gate)

    def _projected(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """U [B, T, d]; V, Q and K [B, H, T, d / H]."""
        gate, *parts = F.silu(self.project(self.before(hidden))).chunk(4, dim=-1)
        value, query, key = (torch.unflatten(part, -1, (self.heads, -1)).transpose(1, 2) for part in parts)
        return gate, value, query, key

    def _bias(self, behind: Tensor, seconds: Tensor) -> Tensor:
        """rab^{p,t} [...] of distances in positions [...] and in seconds [...]."""
        bias: Tensor = self.position(behind.clamp(0, self.longest)) + self.time(time_bucket(seconds))
        return bias.squeeze(-1)

    def _finished(self, hidden: Tensor, mixed: Tensor, gate: Tensor) -> Tensor:
        mixed = mixed.transpose(1, 2).flatten(2)
        result: Tensor = hidden + self.dropout(self.out(self.after(mixed) * gate))
        return result


def _weights(query: Tensor, key: Tensor, bias: Tensor, seen: Tensor) -> Tensor:
    """[B, H, Q, K] SiLU(Q K^T + rab), zero where a key is not seen."""
    return F.silu(query @ key.transpose(-1, -2) + bias) * seen
