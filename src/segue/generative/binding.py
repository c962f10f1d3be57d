"""What every model does alike: it belongs to a codebook, is bound to items of it, and learns from what can be said."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segue.decoding.trie import Trie
from segue.errors import BindingError
from segue.generative.settings import GenerativeSettings
from segue.protocols import BoundItems, HistoryBatch


class CodebookModel(nn.Module):
    """What the models of this folder share of :class:`segue.protocols.TrainableRecommender`.

    Nothing that is bound is saved with the weights.
    """

    def __init__(
        self,
        settings: GenerativeSettings,
        *,
        codebook_id: str,
        level_sizes: Sequence[int],
        content_dimensions: int,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.codebook_id = codebook_id
        self.level_sizes = tuple(int(size) for size in level_sizes)
        self.content_dimensions = content_dimensions
        self._bound: tuple[BoundItems, Trie, Tensor] | None = None

    def bind(self, items: BoundItems) -> None:
        """Check the items, bring them to the model's device and build their trie.

        Raises BindingError for another codebook, other level sizes, or vectors of another width.
        """
        items = checked(
            items,
            codebook_id=self.codebook_id,
            level_sizes=self.level_sizes,
            content_dimensions=self.content_dimensions,
            device=self.device,
        )
        trie = Trie.build(items.codes, self.level_sizes, items.active)
        self._bound = (items, trie, torch.nonzero(items.active).flatten())

    def adopt(self, items: Tensor) -> None:
        """Nothing, unless a model has parameters of single items."""

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def max_length(self) -> int:
        return self.settings.max_length

    @property
    def bound(self) -> BoundItems:
        """The items that the model is bound to, on its device, their vectors scaled. Raises BindingError for none."""
        return self._binding[0]

    @property
    def trie(self) -> Trie:
        """Of the items that the model is bound to."""
        return self._binding[1]

    @property
    def active(self) -> Tensor:
        """[A] indices of the bound items that are active."""
        return self._binding[2]

    @property
    def _binding(self) -> tuple[BoundItems, Trie, Tensor]:
        if self._bound is None:
            raise BindingError("the model is bound to no items: call bind first")
        return self._bound


def learnable(trie: Trie, batch: HistoryBatch) -> Tensor:
    """[B, T] bool: the events of ``batch`` whose items can be generated, so that a model can learn to."""
    inside = torch.arange(batch.items.shape[1], device=batch.items.device) < batch.lengths.unsqueeze(1)
    return inside & (trie.leaf_of[batch.items] >= 0)


def mean_weights(counted: Tensor) -> Tensor:
    """[B T]: what weighs every event that is ``counted`` [B, T] alike; the sum is 1, or 0 where there is none."""
    weights = counted.float().flatten()
    return weights / weights.sum().clamp(min=1)


def draw(counted: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Up to ``count`` of the events of each history that are ``counted`` [B, T].

    Their places [B, K], which of these were drawn (a history may have fewer), and how many events each stands for."""
    order = torch.rand(counted.shape, device=counted.device).masked_fill(~counted, -1.0)
    places = order.topk(min(count, counted.shape[1]), dim=1).indices
    drawn = counted.gather(1, places)
    return (
        places,
        drawn,
        counted.sum(dim=1, keepdim=True) / drawn.sum(dim=1, keepdim=True).clamp(min=1) * drawn,
    )


def checked(
    items: BoundItems,
    *,
    codebook_id: str,
    level_sizes: Sequence[int],
    content_dimensions: int,
    device: torch.device,
) -> BoundItems:
    """``items`` on ``device``, their vectors scaled.

    Raises BindingError for another codebook, other level sizes, or vectors of another width than the model's.
    """
    sizes = tuple(level_sizes)
    if items.codebook_id != codebook_id or tuple(items.level_sizes) != sizes:
        raise BindingError(
            f"the model speaks codebook {codebook_id[:12]} {list(sizes)}, "
            f"the item map {items.codebook_id[:12]} {list(items.level_sizes)}: "
            "bind an item map of the model's codebook"
        )
    if items.vectors.shape[1] != content_dimensions:
        raise BindingError(
            f"the model reads content of {content_dimensions} dimensions, the items' vectors have "
            f"{items.vectors.shape[1]}: bind the vectors that belong to the item map"
        )
    return BoundItems(
        codebook_id=codebook_id,
        level_sizes=sizes,
        codes=items.codes.to(device, torch.int64),
        vectors=scaled(items.vectors.to(device, torch.float32), items.present.to(device)),
        present=items.present.to(device),
        active=items.active.to(device),
    )


def scaled(vectors: Tensor, present: Tensor) -> Tensor:
    """Rows of length sqrt(D), so that their entries are of order one; zeros for items without a vector."""
    return F.normalize(vectors, dim=-1) * math.sqrt(vectors.shape[-1]) * present.unsqueeze(-1)
