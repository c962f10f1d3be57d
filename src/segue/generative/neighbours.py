"""What an item that no training knew is taken for: the known items that are nearest to it in content.

Content tells poorly what an identity would be (a linear map of it explains a small part), but well who is alike. So an item
without an identity is what its neighbours are on average, weighed by how near they are: a kernel regression (Nadaraya 1964,
Watson 1964) from content to what training made of the known items. Nothing of it is trained.

A mean of unit vectors, made a unit vector again, lies near everybody: as a target of a cosine it beats known items, and
inserted items crowd them out. The mean as it is scores as its neighbours do on average, which seldom is enough for a list of
ten, because who is in one is an extreme. Between the two its length, which says how much the neighbours agree, is replaced by
a root of it. Which one was chosen on one dataset so that known items that were stood in for were in about as many lists as
they are themselves (docs/adr/0021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

COUNT: Final = 20  # of neighbours
TEMPERATURE: Final = 0.1  # of a cosine of content
# The power of a mean's length that is kept; 0: none, so that every mean counts as a known item.
AGREEMENT: Final = 1 / 3
COSINES: Final = (
    2_000_000_000  # that a search takes; known items at even distances are looked at where it would take more
)
LEAST: Final = (
    2_000  # known items that are looked at at least: beyond a million that look for neighbours it takes more
)
_CELLS: Final = 16_777_216  # cosines that are held at once


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Of U items."""

    items: Tensor  # [U] their indices
    nearest: Tensor  # [U, K] indices of known items, the nearest first
    weights: Tensor  # [U, K]; a row's sum is 1

    @classmethod
    def find(cls, content: Tensor, present: Tensor, known: Tensor) -> Neighbours | None:
        """Of all items that are not ``known`` [N] bool, by the cosine of ``content`` [N, D].

        Nobody is near an item whose content is not ``present`` [N] bool: known items at even distances stand in for it alike,
        and for all such items the same ones. None where every item is known, or no known one has content."""
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(content.device.type, enabled=False):
            present = present & (content != 0).any(dim=1)
            items, sources = torch.nonzero(~known).flatten(), torch.nonzero(known & present).flatten()
            if not len(items) or not len(sources):
                return None
            count = min(COUNT, len(sources))
            nearest = _spread(sources, count).repeat(len(items), 1)
            cosines = content.new_zeros(len(items), count)
            told = torch.nonzero(present[items]).flatten()
            sources = _spread(sources, min(len(sources), max(LEAST, COSINES // max(1, len(told)))))
            unit = F.normalize(content, dim=-1)
            among = unit[sources]
            for rows in torch.split(told, max(1, _CELLS // len(sources))):
                found = (unit[items[rows]] @ among.T).topk(count, dim=1)
                cosines[rows], nearest[rows] = found.values, sources[found.indices]
            return cls(items, nearest, (cosines / TEMPERATURE).softmax(dim=1))

    def placed(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Each [N, d], of what a tower makes of items, ``raw`` [N, d]: how it reads them, and how it scores them.

        Known items are read as they are, and scored as unit vectors. The U items are read the way the mean of their neighbours'
        unit vectors points, as long as these neighbours are, and scored as that mean, of its length the power ``AGREEMENT``."""
        vectors = F.normalize(raw, dim=-1)
        mean = self._mean(vectors)
        length = mean.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        direction = mean / length
        read = direction * self._mean(raw.norm(dim=-1, keepdim=True))
        return self._put(raw, read), self._put(vectors, direction * length**AGREEMENT)

    def _mean(self, rows: Tensor) -> Tensor:
        """[U, d] of rows [N, d]."""
        mean: Tensor = F.embedding_bag(
            self.nearest, rows, per_sample_weights=self.weights.to(rows), mode="sum"
        )
        return mean

    def _put(self, rows: Tensor, found: Tensor) -> Tensor:
        return rows.index_copy(0, self.items, found)


def _spread(rows: Tensor, count: int) -> Tensor:
    """``count`` of ``rows`` at even distances."""
    return rows[torch.arange(count, device=rows.device) * len(rows) // count]
