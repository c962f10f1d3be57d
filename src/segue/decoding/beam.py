"""The only beam search: over a trie, batched, with log-probabilities that a view never changes."""

from __future__ import annotations

from collections.abc import Sized

import torch
from torch import Tensor

from segue.decoding.trie import Trie, View
from segue.errors import DataError
from segue.protocols import GenerativeRecommender


@torch.no_grad()
def beam_search(
    model: GenerativeRecommender,
    context: Sized,
    trie: Trie,
    view_mask: Tensor | None,
    width: int,
) -> tuple[Tensor, Tensor]:
    """The ``width`` likeliest items that a beam finds.

    ``model`` is bound to the items that ``trie`` is made of; ``context`` is what its ``encode`` returned
    for B requests. ``view_mask`` [B or 1, N] bool says which items may be shown (None: all of the trie): it
    prunes the search and never renormalises it, so log-probabilities stay those over the whole catalogue. A
    ``width`` of at least the number of items is full enumeration.

    Returns ``items`` [B, W] int64, likeliest first, -1 where fewer are left, and ``log_probs`` [B, W], -inf
    there; W = min(width, leaves). Raises DataError for a width below 1.
    """
    if width < 1:
        raise DataError(f"beam_width is {width}: it must be at least 1")
    device, batch = trie.items.device, len(context)
    view = None if view_mask is None else View.cut(trie, view_mask.to(device))
    nodes = torch.zeros((batch, 1), dtype=torch.int64, device=device)
    prefix = torch.zeros((batch, 1, 0), dtype=torch.int64, device=device)
    scores = torch.zeros((batch, 1), device=device)
    for depth in range(trie.levels):
        step = model.next_code_log_probs(context, prefix).float()  # [B, W, V]
        child, exists = trie.children(nodes, depth)  # [B, W, C]
        if view is not None:
            exists = exists & view.allows(child, depth + 1)
        code = trie.codes[depth][child]
        total = (scores.unsqueeze(-1) + step.gather(-1, code)).masked_fill(~exists, -torch.inf)
        scores, chosen = total.flatten(1).topk(min(width, total[0].numel(), trie.nodes(depth + 1)), dim=1)
        nodes = child.flatten(1).gather(1, chosen)
        beam = chosen // trie.most_children[depth]
        prefix = torch.cat(
            [
                prefix.gather(1, beam.unsqueeze(-1).expand(-1, -1, depth)),
                code.flatten(1).gather(1, chosen).unsqueeze(-1),
            ],
            dim=-1,
        )
    return torch.where(scores.isneginf(), -1, trie.items[nodes]), scores
