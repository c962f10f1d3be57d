"""COBRA: sparse codes first, then a dense vector that is conditioned on them.

"Sparse Meets Dense: Unified Generative Recommendations with Cascaded Sparse-Dense Representations" (Yang et al. 2025,
arXiv 2503.02453). An event is its item's sparse ID and its dense vector, and the next item's probability is the
product of section 3.2,

    P(ID, v | history) = P(ID | history) P(v | ID, history).

One causal decoder reads a start token and then, for each event, the K codes of its ID and its dense vector: K + 1
tokens an event. The state after a dense vector says the first code of the next ID, the state after each code the code
after it, the state after the last code the dense vector, as a direction that is compared by cosine. Dense vectors come
from an encoder of content that is trained with the rest, the same for what is read and for what is predicted. The
loss (section 3.3) is the cross entropy of the codes plus a contrastive one of the dense vector.

**BeamFusion** (section 3.4) scores an item a below the ID of a beam with the log-probability phi,

    Phi(v, ID, a) = Softmax(tau phi_ID) * Softmax(psi cos(v_ID, a)),

the first softmax over the beam's IDs, the second over the items. Here the ID is every level but the last, which only
tells neighbours apart, and the second softmax runs over the items below the ID. Then tau = 1 over all IDs makes Phi
the product above, a distribution over the catalogue: what :meth:`CobraModel.log_likelihood` is, and what the beam
search follows, whose last step is the second softmax. :meth:`CobraModel.fused_scores` is Phi with any tau over the
IDs that the candidates have. psi is 1 / ``dense_temperature``.

What differs from the paper, and why:

- Codes are normalised over the children that exist in the trie, in training as in decoding.
- The contrastive loss compares with the catalogue, or with a uniform sample of a large one, not with the items that
  happen to be in the batch: those are drawn by popularity, and the cosine would learn to take it out again.
- The paper fine-tunes a text encoder; here the content vectors are given, and a small network on top is trained.
- Positions are rotary (Su et al. 2021) in the place of learnt ones; a token's kind is added, as in the paper.
- A second projection predicts the dense vector from the history alone, trained by the same loss. With it the whole
  catalogue is scored where no ID is chosen yet, which is how :class:`segue.generative.path.GenerativePath` proposes
  what the beam did not find.

Code tables start at zero, so a code that nothing trained adds nothing; items below an ID are told apart by content
alone. An inserted item is read and found through trained parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segue.errors import ConfigurationError, DataError
from segue.generative.binding import CodebookModel, learnable, mean_weights
from segue.generative.contrastive import catalogue_cross_entropy
from segue.generative.layers import (
    ContentProjection,
    RotaryBlock,
    child_log_probs,
    code_tokens,
    join_histories,
    zero_embedding,
    zero_linear,
)
from segue.generative.settings import OF_TOWERS, GenerativeSettings
from segue.protocols import BoundItems, HistoryBatch
from segue.training.ops import Dropout, causal_attention

_LEAVES_A_CHILD = 64  # leaves for each item below an ID, up to which all of them are scored and some taken
_Memory = tuple[Tensor, Tensor]  # rotated keys, and values, [B, H, S, d / H] each


@dataclass(frozen=True, slots=True)
class CobraContext:
    """What :meth:`CobraModel.encode` knows of B requests."""

    histories: HistoryBatch
    memory: tuple[_Memory, ...]  # of each layer
    lengths: Tensor  # [B] tokens that are no padding
    state: Tensor  # [B, d] after the last of them

    def __len__(self) -> int:
        return len(self.state)


class CobraModel(CodebookModel):
    """Implements :class:`segue.protocols.TrainableRecommender` and a dense head. d is ``settings.dimensions``,
    K the number of levels but one."""

    unread: ClassVar[frozenset[str]] = OF_TOWERS | {"code_temperature"}

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
        if settings.dense_weight == 0:
            raise ConfigurationError(
                "generative.dense_weight is 0: COBRA tells items of one ID apart by their dense vectors, "
                "so give it a weight above 0"
            )
        width = settings.dimensions
        sparse = self.level_sizes[:-1]
        self.start = nn.Parameter(torch.randn(width) * 0.02)
        self.missing = nn.Parameter(torch.zeros(content_dimensions))
        self.codes = nn.ModuleList(zero_embedding(size, width) for size in sparse)
        self.kinds = nn.Parameter(torch.randn(len(sparse) + 1, width) * 0.02)  # of tokens: K codes, a vector
        self.dense_encoder = ContentProjection(content_dimensions, width, settings.dropout)
        self.read_dense = nn.Linear(width, width)
        self.blocks = nn.ModuleList(
            _Block(width, settings.heads, settings.dropout, inner=4 * width) for _ in range(settings.layers)
        )
        self.norm = nn.LayerNorm(width)
        self.dropout = Dropout(settings.dropout)
        self.say_code = nn.ModuleList(zero_linear(width, size) for size in sparse)
        self.dense_after_codes = nn.Linear(width, width)
        self.dense_after_history = nn.Linear(width, width)
        self._cache: Tensor | None = None

    def bind(self, items: BoundItems) -> None:
        super().bind(items)
        self._cache = None

    def train(self, mode: bool = True) -> CobraModel:
        self._cache = None  # weights may change
        super().train(mode)
        return self

    # The decoder, over histories.

    @property
    def _sparse(self) -> int:
        """K."""
        return len(self.codes)

    def item_vectors(self, items: Tensor | None = None) -> Tensor:
        """[N, d] (or [M, d]) of length 1."""
        vectors = self._vectors()
        return vectors if items is None else F.embedding(items.to(vectors.device), vectors)

    def _vectors(self) -> Tensor:
        """[N, d]: made anew in every training step, once when serving."""
        if not (self.training or torch.is_grad_enabled()) and self._cache is not None:
            return self._cache
        items = self.bound
        content = torch.where(items.present.unsqueeze(-1), items.vectors, self.missing)
        vectors = F.normalize(self.dense_encoder(content).float(), dim=-1)
        if not (self.training or torch.is_grad_enabled()):
            self._cache = vectors
        return vectors

    def _code_tokens(self, codes: Tensor) -> Tensor:
        """[..., l, d] of codes [..., l] at the first l levels."""
        return code_tokens(self.codes, self.kinds, codes)

    def _tokens(self, items: Tensor, vectors: Tensor) -> Tensor:
        """[B, T (K + 1), d]: the codes of each event and its dense vector, of ``vectors`` [N, d]."""
        codes = self._code_tokens(self.bound.codes[items][..., :-1])
        dense = self.read_dense(F.embedding(items, vectors)) + self.kinds[-1]
        return torch.cat([codes, dense.unsqueeze(2).to(codes.dtype)], dim=2).flatten(1, 2)

    def _read(self, batch: HistoryBatch, vectors: Tensor) -> tuple[Tensor, tuple[_Memory, ...]]:
        """[B, 1 + T (K + 1), d] states, and what each layer keeps."""
        tokens = self._tokens(batch.items, vectors)
        start = self.start.expand(len(tokens), 1, -1).to(tokens.dtype)
        hidden = self.dropout(torch.cat([start, tokens], dim=1))
        place = torch.arange(hidden.shape[1], device=hidden.device)
        memory = []
        for block in self.blocks:
            assert isinstance(block, _Block)
            hidden, kept = block.read(hidden, place)
            memory.append(kept)
        states: Tensor = self.norm(hidden)
        return states, tuple(memory)

    def encode(
        self,
        histories: HistoryBatch,
        context: Sequence[dict[str, str]] | None = None,  # noqa: ARG002  # this model reads no context
    ) -> CobraContext:
        batch = histories.to(self.device)
        states, memory = self._read(batch, self.item_vectors())
        last = batch.lengths * (self._sparse + 1)
        row = torch.arange(len(states), device=states.device)
        return CobraContext(batch, memory, last + 1, states[row, last])

    def append(self, context: CobraContext, events: HistoryBatch) -> CobraContext:
        """Recomputed over the newest ``max_length`` events, so it equals encoding the longer history."""
        device = self.device
        return self.encode(join_histories(context.histories, events.to(device), self.settings.max_length))

    # The decoder, over what may follow.

    def _continued(self, context: CobraContext, prefix: Tensor) -> Tensor:
        """[B, W, l + 1, d]: state j knows the history and the first j codes of ``prefix`` [B, W, l]."""
        known = context.state[:, None, None].expand(-1, prefix.shape[1], 1, -1)
        if not prefix.shape[-1]:
            return known
        hidden = self.dropout(self._code_tokens(prefix))
        place = context.lengths.unsqueeze(1) + torch.arange(prefix.shape[-1], device=prefix.device)  # [B, l]
        inside = torch.arange(
            context.memory[0][0].shape[2], device=prefix.device
        ) < context.lengths.unsqueeze(1)
        for block, memory in zip(self.blocks, context.memory, strict=True):
            assert isinstance(block, _Block)
            hidden = block.continued(hidden, place, memory, inside)
        states: Tensor = self.norm(hidden)
        return torch.cat([known.to(states.dtype), states], dim=2)

    def _code_log_probs(self, states: Tensor, nodes: Tensor, depth: int) -> Tensor:
        """[..., level_size] over the children of ``nodes`` [...], from states [..., d]; -inf elsewhere."""
        return child_log_probs(self.say_code[depth](states), self.trie, nodes, depth)

    def _leaf_log_probs(self, states: Tensor, nodes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[..., C] of the items below the IDs ``nodes`` [...], the leaves, and whether they exist."""
        leaves, exists = self.trie.children(nodes, self._sparse)
        user = self._direction(self.dense_after_codes, states)
        vectors = self.item_vectors()[self.trie.items]  # [leaves, d]
        if len(vectors) <= _LEAVES_A_CHILD * leaves.shape[-1]:  # one product beats gathering children
            cosine = F.linear(user, vectors).gather(-1, leaves)
        else:
            cosine = torch.einsum("...d,...cd->...c", user, F.embedding(leaves, vectors))
        one = torch.zeros((*cosine.shape[:-1], 1), device=cosine.device)  # a beam of one ID, which is certain
        fused = beam_fusion(
            one, cosine.unsqueeze(-2), exists.unsqueeze(-2), tau=1.0, psi=1 / self.settings.dense_temperature
        )
        return fused.squeeze(-2), leaves, exists

    def next_code_log_probs(self, context: CobraContext, prefix: Tensor) -> Tensor:
        depth = prefix.shape[-1]
        found = self.trie.find(prefix)
        nodes = found.clamp(min=0)
        state = self._continued(context, self.trie.codes_of(nodes, depth))[:, :, -1]
        if depth < self._sparse:
            log_probs = self._code_log_probs(state, nodes, depth)
        else:
            below, leaves, exists = self._leaf_log_probs(state, nodes)
            log_probs = below.new_full((*nodes.shape, self.level_sizes[-1]), -torch.inf)
            # Clamped children repeat a code: amax lets the child that exists win over them.
            log_probs = log_probs.scatter_reduce(
                -1, self.trie.codes[depth][leaves], below.masked_fill(~exists, -torch.inf), reduce="amax"
            )
        return log_probs.masked_fill((found < 0).unsqueeze(-1), -torch.inf)

    def log_likelihood(self, context: CobraContext, items: Tensor) -> Tensor:
        """Items that are not in the trie have -inf."""
        items = items.to(self.device)
        sparse, dense = self._two_factors(context, items)
        return (sparse + dense).masked_fill(self.trie.leaf_of[items] < 0, -torch.inf)

    def _two_factors(self, context: CobraContext, items: Tensor) -> tuple[Tensor, Tensor]:
        """[B, M] log P(ID | history) and log P(item | ID, history); an item outside the trie counts as leaf
        0."""
        path = self.trie.ancestors(items)
        codes = self.trie.codes_of(path[self._sparse], self._sparse)
        states = self._continued(context, codes)
        sparse = torch.zeros(items.shape, device=items.device)
        for depth in range(self._sparse):
            step = self._code_log_probs(states[:, :, depth], path[depth], depth)
            sparse = sparse + step.gather(-1, codes[..., depth : depth + 1]).squeeze(-1)
        below, _, _ = self._leaf_log_probs(states[:, :, -1], path[self._sparse])
        rank = path[-1] - self.trie.offsets[-1][path[self._sparse]]
        return sparse, below.gather(-1, rank.unsqueeze(-1)).squeeze(-1)

    def fused_scores(self, context: CobraContext, items: Tensor, *, tau: float | None = None) -> Tensor:
        """[B, M] log Phi of candidates [B, M], the beam being the IDs that they have; tau: ``cobra.tau``.

        An item that is not in the trie has -inf, and its ID no part in the beam.
        """
        items = items.to(self.device)
        known = self.trie.leaf_of[items] >= 0
        tau = self.settings.cobra.tau if tau is None else tau
        sparse, dense = self._two_factors(context, items)
        identity = self.trie.ancestors(items)[self._sparse]
        same = (identity.unsqueeze(2) == identity.unsqueeze(1)) & known.unsqueeze(1)
        first = same.to(torch.int8).argmax(dim=2) == torch.arange(items.shape[1], device=items.device)
        beam = (tau * sparse).masked_fill(~(first & known), -torch.inf)  # every ID counts once
        fused = tau * sparse - beam.logsumexp(dim=1, keepdim=True) + dense
        return fused.masked_fill(~known, -torch.inf)

    # The dense head.

    def user_vectors(self, context: CobraContext, prefix: Tensor | None = None) -> Tensor:
        """[B, d], from the history alone; [B, W, d] for IDs [B, W, K].

        Raises DataError for prefixes that are no whole IDs, which no dense vector is trained to follow.
        """
        if prefix is None:
            user = self._direction(self.dense_after_history, context.state)
        else:
            if prefix.shape[-1] != self._sparse:
                raise DataError(
                    f"a prefix of {prefix.shape[-1]} codes was given: a dense vector follows {self._sparse}"
                )
            user = self._direction(self.dense_after_codes, self._continued(context, prefix)[:, :, -1])
        return user / self.settings.dense_temperature

    @staticmethod
    def _direction(projection: nn.Module, states: Tensor) -> Tensor:
        return F.normalize(projection(states).float(), dim=-1)

    # Training.

    def loss(self, batch: HistoryBatch) -> dict[str, Tensor]:
        """``code``: NLL of the K codes; ``dense``: cross entropy of the vector that follows them; ``retrieval``:
        of the one from the history alone. In nats an event; ``dense_weight`` weighs the latter two."""
        batch = batch.to(self.device)
        weights = mean_weights(learnable(self.trie, batch))
        targets = batch.items.flatten()
        # State j of event t: after its first j codes. The last token, a dense vector, begins no event.
        vectors = self.item_vectors()
        states = self._read(batch, vectors)[0][:, :-1].reshape(len(targets), self._sparse + 1, -1)
        path = self.trie.ancestors(targets)
        code = torch.zeros((), device=weights.device)
        for depth in range(self._sparse):
            step = self._code_log_probs(states[:, depth], path[depth], depth)
            wanted = self.trie.codes[depth][path[depth + 1]].unsqueeze(-1)
            code = code - (step.gather(-1, wanted).squeeze(-1) * weights).sum()
        parts = {"code": code}
        for name, projection, state in (
            ("dense", self.dense_after_codes, states[:, -1]),
            ("retrieval", self.dense_after_history, states[:, 0]),
        ):
            user = self._direction(projection, state) / self.settings.dense_temperature
            losses = catalogue_cross_entropy(user, vectors, self.active, targets)
            parts[name] = (losses * weights).sum()
        dense = parts["dense"] + parts["retrieval"]
        total = self.settings.code_weight * code + self.settings.dense_weight * dense
        return {"total": total, **parts}


def beam_fusion(beam: Tensor, cosine: Tensor, exists: Tensor, *, tau: float, psi: float) -> Tensor:
    """log Phi [..., W, C] of section 3.4: log Softmax(tau beam) + log Softmax(psi cosine).

    ``beam`` [..., W] log-probabilities of IDs; ``cosine`` [..., W, C] of each ID's dense vector with C items,
    of which those count that ``exists`` [..., W, C] says; -inf for the others.
    """
    items = (psi * cosine).masked_fill(~exists, -torch.inf).log_softmax(dim=-1)
    return (tau * beam).log_softmax(dim=-1).unsqueeze(-1) + items


class _Block(RotaryBlock):
    """A block that also goes on from what it has read."""

    def read(self, hidden: Tensor, place: Tensor) -> tuple[Tensor, _Memory]:
        """[B, S, d] at ``place`` [S], and its keys and values."""
        query, key, value = self._projected(hidden, place)
        # Padding is on the right, so causality alone keeps it out of every real position.
        mixed = causal_attention(query, key, value)
        return self.finished(hidden, mixed.transpose(1, 2).flatten(2)), (key, value)

    def continued(self, hidden: Tensor, place: Tensor, memory: _Memory, inside: Tensor) -> Tensor:
        """[B, W, l, d] at ``place`` [B, l]: each beam sees what is ``inside`` [B, S] and its own tokens so far."""
        _, beams, length, width = hidden.shape
        query, key, value = (  # [B, H, W, l, d / H]
            torch.unflatten(part, 2, (beams, length))
            for part in self._projected(hidden.flatten(1, 2), place.repeat(1, beams))
        )
        scale = (width // self.heads) ** -0.5
        read = torch.einsum("bhwld,bhsd->bhwls", query, memory[0].to(query.dtype)) * scale
        own = query @ key.transpose(-1, -2) * scale  # [B, H, W, l, l]
        ahead = torch.ones(length, length, dtype=torch.bool, device=own.device).triu(1)
        scores = torch.cat(
            [
                read.masked_fill(~inside[:, None, None, None], -torch.inf),
                own.masked_fill(ahead, -torch.inf),
            ],
            dim=-1,
        )
        weights = scores.float().softmax(dim=-1).to(value.dtype)
        before, within = weights[..., :-length], weights[..., -length:]
        mixed = torch.einsum("bhwls,bhsd->bhwld", before, memory[1].to(value.dtype)) + within @ value
        return self.finished(hidden, mixed.permute(0, 2, 3, 1, 4).flatten(3))

    def _projected(self, hidden: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries and keys, and values, [B, H, Q, d / H] of hidden [B, Q, d] at ``place`` [(B,) Q]."""
        width = self.out.in_features // self.heads
        frequency = 10_000 ** (-torch.arange(0, width, 2, device=place.device) / width)
        angle = (place.unsqueeze(-1) * frequency).unsqueeze(-3)  # the same for every head
        return self.projected(hidden, (angle.cos(), angle.sin()))
