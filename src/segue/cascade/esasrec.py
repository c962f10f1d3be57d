"""eSASRec: SASRec's objective, LiGR layers, and a sampled softmax with many negatives.

"eSASRec: Enhancing Transformer-based Recommendations in a Modular Fashion" (Tikhonovich et al., RecSys 2025) finds this
combination the strongest of those that need nothing but item ids. Its layer is that of "From Features to Transformers:
Redefining Ranking for Scalable Impact" (Borisyuk et al., 2025, LiGR): what each sub-layer adds to the residual stream is
multiplied by a learnt gate of the stream itself,

    y = x + F(norm(x)) * sigmoid(W x + b),    F self-attention, then a feed-forward network,

here a SwiGLU (Shazeer 2020). Positions, scores and everything else are those of :class:`segue.cascade.sasrec.Sasrec`.

Negatives are drawn from q(j) = (1 - s) / V + s f_j, uniform and by frequency mixed (Yang et al., WWW 2020 companion,
"Mixed negative sampling"), and every score of a negative is corrected by -log(n q(j)) (log-Q; Bengio & Senécal 2008,
equation 10; Yi et al., RecSys 2019, equation 5), so that their sum estimates that over the whole catalogue without
bias whatever s."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segue.cascade.sasrec import Sasrec
from segue.cascade.settings import EsasrecSettings
from segue.training.ops import Dropout, causal_attention


class LigrBlock(nn.Module):
    """Gated self-attention and a gated SwiGLU; d dimensions, ``feed_forward`` times as many inside."""

    def __init__(self, dimensions: int, heads: int, dropout: float, feed_forward: int) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = Dropout(dropout)
        self.attention_norm = nn.LayerNorm(dimensions)
        self.query_key_value = nn.Linear(dimensions, 3 * dimensions)
        self.attention_out = nn.Linear(dimensions, dimensions)
        self.attention_gate = nn.Linear(dimensions, dimensions)
        self.feed_forward_norm = nn.LayerNorm(dimensions)
        self.feed_forward_in = nn.Linear(dimensions, 2 * feed_forward * dimensions)
        self.feed_forward_out = nn.Linear(feed_forward * dimensions, dimensions)
        self.feed_forward_gate = nn.Linear(dimensions, dimensions)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, d] -> [B, T, d]; position t sees the positions up to t."""
        rows, width, dimensions = x.shape
        split = self.query_key_value(self.attention_norm(x)).view(rows, width, 3, self.heads, -1)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        mixed = causal_attention(query, key, value).transpose(1, 2).reshape(rows, width, dimensions)
        mixed = self.dropout(self.attention_out(mixed))
        x = x + mixed * torch.sigmoid(self.attention_gate(x))
        gate, inner = self.feed_forward_in(self.feed_forward_norm(x)).chunk(2, dim=-1)
        hidden = self.dropout(self.feed_forward_out(F.silu(gate) * inner))
        result: Tensor = x + hidden * torch.sigmoid(self.feed_forward_gate(x))
        return result


class Esasrec(Sasrec):
    """B histories of T events over V items, d dimensions."""

    settings: EsasrecSettings
    proposal: Tensor  # [V] q: the chance that a negative is this item

    def __init__(
        self, items: int, settings: EsasrecSettings, counts: Tensor, content: Tensor | None = None
    ) -> None:
        """``counts`` [V]: how often each item occurs in what is trained on."""
        super().__init__(items, settings, content)
        self.blocks = nn.ModuleList(
            LigrBlock(settings.dimensions, settings.heads, settings.dropout, settings.feed_forward)
            for _ in range(settings.layers)
        )
        for parameter in self.blocks.parameters():
            if parameter.ndim >= 2:
                nn.init.trunc_normal_(parameter, std=0.02)
        share = settings.popularity_share
        frequency = counts.float() / counts.sum().clamp(min=1)
        self.register_buffer("proposal", (1 - share) / items + share * frequency)

    def _negatives(self, count: int) -> tuple[Tensor, Tensor]:
        """``count`` items drawn from the proposal, and [count] log q of each."""
        negatives = torch.multinomial(self.proposal, count, replacement=True)
        return negatives, self.proposal[negatives].log()
