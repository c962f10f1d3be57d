"""What a model does first when it is bound: check that the items are its own, and bring them to its device."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from segue.errors import BindingError
from segue.protocols import BoundItems


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
