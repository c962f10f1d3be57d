"""TIGER as most people build it: a T5 of the Hugging Face library over semantic IDs.

Rajput et al., "Recommender Systems with Generative Retrieval" (NeurIPS 2023), section 4: an encoder reads the codes of the
history, a decoder emits those of the next item, teacher-forced, every event after the first being a sample. The network,
its loss and its sizes (4 + 4 layers, 6 heads of 64, 128 wide, 1,024 inside) are the library's and the paper's. Behind the
project's protocol, so that data, codebook, beam search and judging are those of every other model here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import T5Config, T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from segue.generative.binding import CodebookModel, learnable
from segue.generative.layers import join_histories
from segue.generative.settings import GenerativeSettings
from segue.protocols import HistoryBatch

_PAD, _START = 0, 1  # the decoder starts with padding, as T5 does; the history with a token of its own
_SPECIAL = 2
_TIED = ("t5.encoder.embed_tokens.weight", "t5.decoder.embed_tokens.weight", "t5.lm_head.weight")


@dataclass(frozen=True, slots=True, kw_only=True)
class T5Shape:
    """Of the paper."""

    width: int = 128
    layers: int = 4
    heads: int = 6
    head_width: int = 64
    inner: int = 1024
    dropout: float = 0.1


@dataclass(frozen=True, slots=True)
class T5Context:
    """What the encoder knows of B requests."""

    histories: HistoryBatch
    hidden: Tensor  # [B, S, d]
    mask: Tensor  # [B, S] 1: a token

    def __len__(self) -> int:
        return len(self.hidden)


class T5Tiger(CodebookModel):
    """Implements :class:`segue.protocols.TrainableRecommender`; ``settings`` say how long histories are."""

    offsets: Tensor  # [L] token of each level's code 0

    def __init__(
        self,
        settings: GenerativeSettings,
        *,
        codebook_id: str,
        level_sizes: Sequence[int],
        content_dimensions: int,
        shape: T5Shape | None = None,
    ) -> None:
        super().__init__(
            settings, codebook_id=codebook_id, level_sizes=level_sizes, content_dimensions=content_dimensions
        )
        shape = shape or T5Shape()
        sizes = torch.tensor(self.level_sizes)
        self.register_buffer("offsets", _SPECIAL + torch.cumsum(sizes, 0) - sizes, persistent=False)
        self.t5 = T5ForConditionalGeneration(
            T5Config(
                vocab_size=_SPECIAL + sum(self.level_sizes),
                d_model=shape.width,
                d_kv=shape.head_width,
                d_ff=shape.inner,
                num_layers=shape.layers,
                num_decoder_layers=shape.layers,
                num_heads=shape.heads,
                dropout_rate=shape.dropout,
                feed_forward_proj="relu",
                pad_token_id=_PAD,
                eos_token_id=_START,
                decoder_start_token_id=_PAD,
                use_cache=False,
            )
        )

    def state_dict(self, *arguments: Any, **keywords: Any) -> dict[str, Any]:
        """Without the other names of the one table that the library ties: a file holds a tensor once."""
        found: dict[str, Any] = super().state_dict(*arguments, **keywords)
        return {name: value for name, value in found.items() if name not in _TIED}

    def load_state_dict(self, state_dict: Mapping[str, Any], *arguments: Any, **keywords: Any) -> Any:
        table = state_dict["t5.shared.weight"]
        whole = {**state_dict, **dict.fromkeys(_TIED, table)}
        return super().load_state_dict(whole, *arguments, **keywords)

    def _tokens(self, codes: Tensor) -> Tensor:
        """[..., l] of codes [..., l] at the first l levels."""
        return codes + self.offsets[: codes.shape[-1]]

    def encode(
        self,
        histories: HistoryBatch,
        context: Sequence[dict[str, str]] | None = None,  # noqa: ARG002  # this model reads no context
    ) -> T5Context:
        batch = histories.to(self.device)
        levels = len(self.level_sizes)
        tokens = self._tokens(self.bound.codes[batch.items]).flatten(1)  # [B, T L]
        tokens = torch.cat([torch.full_like(tokens[:, :1], _START), tokens], dim=1)
        place = torch.arange(tokens.shape[1], device=tokens.device)
        mask = (place <= levels * batch.lengths.unsqueeze(1)).long()
        hidden = self.t5.encoder(input_ids=tokens * mask, attention_mask=mask).last_hidden_state
        return T5Context(batch, hidden, mask)

    def append(self, context: T5Context, events: HistoryBatch) -> T5Context:
        return self.encode(join_histories(context.histories, events.to(self.device), self.max_length))

    def _log_probs(self, context: T5Context, prefix: Tensor) -> Tensor:
        """[B, W, l + 1, vocabulary] after the first 0 … l codes of ``prefix`` [B, W, l]."""
        beams = prefix.shape[1]
        tokens = self._tokens(prefix).flatten(0, 1)
        start = torch.full((len(tokens), 1), _PAD, dtype=torch.int64, device=tokens.device)
        found = self.t5(
            encoder_outputs=BaseModelOutput(context.hidden.repeat_interleave(beams, dim=0)),
            attention_mask=context.mask.repeat_interleave(beams, dim=0),
            decoder_input_ids=torch.cat([start, tokens], dim=1),
        )
        return torch.unflatten(found.logits.float().log_softmax(dim=-1), 0, (-1, beams))

    def next_code_log_probs(self, context: T5Context, prefix: Tensor) -> Tensor:
        """As the library's constrained decoding has them: of all tokens, and no mass moved to those that exist."""
        depth = prefix.shape[-1]
        first = int(self.offsets[depth])
        own = self._log_probs(context, prefix)[:, :, -1, first : first + self.level_sizes[depth]]
        found = self.trie.find(prefix)
        exists = self.trie.children_mask(found.clamp(min=0), depth) & (found >= 0).unsqueeze(-1)
        return own.masked_fill(~exists, -torch.inf)

    def log_likelihood(self, context: T5Context, items: Tensor) -> Tensor:
        items = items.to(self.device)
        codes = self.bound.codes[items]
        log_probs = self._log_probs(context, codes[..., :-1])
        own = log_probs.gather(-1, self._tokens(codes).unsqueeze(-1)).squeeze(-1)
        return own.sum(dim=-1).masked_fill(self.trie.leaf_of[items] < 0, -torch.inf)

    # Training.

    def loss(self, batch: HistoryBatch) -> dict[str, Tensor]:
        """``total``: the library's cross entropy, in nats an event; every event but the first is a sample."""
        batch = batch.to(self.device)
        rows, places = torch.nonzero(self._samples(batch), as_tuple=True)
        if not len(rows):
            return {"total": self.t5.shared.weight.sum() * 0.0}
        width = int(places.max())
        before = (torch.arange(width, device=places.device) < places.unsqueeze(1)).to(torch.int64)
        histories = HistoryBatch(
            items=batch.items[rows, :width] * before,
            timestamps=batch.timestamps[rows, :width] * before,
            lengths=places,
        )
        context = self.encode(histories)
        labels = self._tokens(self.bound.codes[batch.items[rows, places]])
        found: Any = self.t5(
            encoder_outputs=BaseModelOutput(context.hidden), attention_mask=context.mask, labels=labels
        )
        return {"total": found.loss * len(self.level_sizes)}

    def loss_events(self, batch: HistoryBatch) -> Tensor:
        """How many samples ``loss`` is a mean over."""
        return self._samples(batch.to(self.device)).sum()

    def _samples(self, batch: HistoryBatch) -> Tensor:
        """[B, T] the events that have a history and can be generated."""
        counted = learnable(self.trie, batch)
        counted[:, 0] = False
        return counted
