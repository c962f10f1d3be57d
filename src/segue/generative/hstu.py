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
- Items and actions are interleaved (section 2.2) with ``hstu.interleaved``: the declared features of past events have a
  position of their own behind their item, and the next item is told from there. Without it they are added to the item, one
  position an event: half as long, as in the retrieval task of the authors' code. What a user *did* is not among them:
  histories that are served do not carry it, so these are hours, weekdays and traits (:mod:`segue.data.context`).
- n is how many positions a position sees. The equation has none, the authors' layer divides by the longest length;
  the norm that follows takes a common factor out again, but for its epsilon, which short histories would sink in.
- Time distances are between the events themselves; the time of the request is not known to a model here.
- Stochastic Length (section 3.2) is left out.
- On an accelerator histories lie one behind the other without padding, and attention is a fused kernel
  (:mod:`segue.generative.hstu_kernel`). Elsewhere they are padded; without gradients, attention then holds a stretch of
  queries at a time, so that its memory grows with T, not with T^2; with them, every stretch is kept for the backward pass.

M-FALCON (section 3.4) scores candidates with the candidate *inside* the attention: M candidates are
appended, each sees the history and itself but no other, and the history's keys and values are computed once, whatever
M; micro-batches bound the memory. Its score is a head of its own, trained only where ``hstu.ranking_weight`` is above 0,
as a softmax over the target and ``hstu.ranking_negatives`` items drawn from the catalogue; the paper's ranking task
predicts actions, and here it is a retrieval model that is given a second look."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segue.errors import ConfigurationError, DataError
from segue.generative.binding import draw, learnable
from segue.generative.house import HouseContext, HouseModel
from segue.generative.hstu_layer import HstuLayer, Memory
from segue.generative.layers import time_bucket
from segue.generative.settings import GenerativeSettings
from segue.generative.towers import Tower
from segue.protocols import HistoryBatch
from segue.training.jagged import runs_jagged


class HstuTower(Tower):
    """The house model's tower with HSTU layers."""

    def __init__(
        self, settings: GenerativeSettings, coded: Sequence[int], content_dimensions: int, **known: bool
    ) -> None:
        super().__init__(settings, coded, content_dimensions, **known)
        self.interleaved = settings.hstu.interleaved
        positions = 1 + settings.max_length * self._positions_an_event  # the start, and what follows it
        self.blocks = nn.ModuleList(HstuLayer(settings, positions) for _ in range(settings.layers))
        if self.interleaved:
            self.action = nn.Parameter(torch.randn(settings.dimensions) * 0.02)

    @property
    def _positions_an_event(self) -> int:
        return 2 if self.interleaved else 1

    def encode(self, batch: HistoryBatch, items: Tensor) -> Tensor:
        """[B, T + 1, d], for item vectors [N, d]: state 0 knows nothing, state t the first t events."""
        hidden, _ = self.read(batch, items, remember=False)
        return self.told_of_requests(self.norm(hidden[:, :: self._positions_an_event]), batch)

    def read(
        self, batch: HistoryBatch, items: Tensor, *, remember: bool = True
    ) -> tuple[Tensor, list[Memory]]:
        """The last layer's positions [B, P, d], P = T + 1, or 2 T + 1 where actions have their own; and what every layer keeps
        for candidates, unless nobody wants it.

        Raises ConfigurationError where actions shall have positions, and no feature of past events is declared."""
        gaps = F.pad(batch.timestamps[:, 1:] - batch.timestamps[:, :-1], (1, 0))
        events = self._events(batch.items, gaps, items)
        if self.interleaved:
            events = torch.stack([events, self._actions(batch, events)], dim=2).flatten(1, 2)
        else:
            events = self.told_of_events(events, batch)
        start = self.start.expand(len(events), 1, -1).to(events.dtype)
        hidden = self.dropout(torch.cat([start, events], dim=1))
        times = self._times(batch)
        if runs_jagged(hidden.device, self.settings.dimensions // self.settings.heads):
            return self._read_jagged(hidden, times, batch.lengths * self._positions_an_event + 1, remember)
        memories = []
        for layer in self.blocks:
            hidden, memory = layer(hidden, times)
            memories.append(memory)
        return hidden, memories

    def _read_jagged(
        self, hidden: Tensor, times: Tensor, lengths: Tensor, remember: bool
    ) -> tuple[Tensor, list[Memory]]:
        """:meth:`read` of the ``lengths`` [B] first positions of each row of ``hidden`` [B, P, d] at ``times`` [B, P], without
        the others, which stay zero."""
        inside = torch.arange(hidden.shape[1], device=hidden.device) < lengths.unsqueeze(1)
        offsets = F.pad(lengths.cumsum(0), (1, 0))
        rows, when = hidden[inside], times[inside]
        memories = []
        for layer in self.blocks:
            assert isinstance(layer, HstuLayer)
            rows, keys, values = layer.jagged(rows, when, offsets, hidden.shape[1])
            if remember:
                memories.append(Memory(*(_padded(each, inside).transpose(1, 2) for each in (keys, values))))
        return _padded(rows, inside), memories

    def _actions(self, batch: HistoryBatch, events: Tensor) -> Tensor:
        """[B, T, d] of what is known of each event beside its item."""
        if self.context is None or batch.contexts is None or not self.context.places:
            raise ConfigurationError(
                "generative.hstu.interleaved gives what is known of a past event a position of its own, and no feature of past "
                "events is declared: declare an hour, a weekday or a trait (data.context, docs/models.md), or set it to false"
            )
        return (self.action + self.context.of_events(batch.contexts)).to(events.dtype)

    def _times(self, batch: HistoryBatch) -> Tensor:
        """[B, P] of all positions; an action stands at the time of its item."""
        return _with_start(batch.timestamps.repeat_interleave(self._positions_an_event, dim=1))

    def candidates(
        self,
        batch: HistoryBatch,
        memories: Sequence[Memory],
        wanted: Tensor,
        after: Tensor,
        items: Tensor,
    ) -> Tensor:
        """[B, M, d]: what :meth:`encode` would end in if item ``wanted`` [B, M] came next after the first
        ``after`` [B, M] events, at the time of the last of them; ``memories`` are those of ``batch``."""
        times, after = self._times(batch), after * self._positions_an_event
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
        self, batch: HistoryBatch, memories: Sequence[Memory], wanted: Tensor, after: Tensor, items: Tensor
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
        batch = self._with_context(batch, None).to(self.device)
        parts = super().loss(batch)
        weight = self.settings.hstu.ranking_weight
        if weight > 0:
            parts["rank"] = self._ranking_loss(batch)
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


def _padded(rows: Tensor, inside: Tensor) -> Tensor:
    """[B, P, ...] of the ``rows`` [S, ...] that stand where ``inside`` [B, P] says, zero elsewhere."""
    return rows.new_zeros(*inside.shape, *rows.shape[1:]).index_put(inside.nonzero(as_tuple=True), rows)
