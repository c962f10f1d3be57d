"""What an item that no training knew is taken for: the known items that are nearest to it in content.

Content tells poorly what an identity would be (a linear map of it explains a small part), but well who is alike. So an item
without an identity is what its neighbours are on average, weighed by how near they are: a kernel regression (Nadaraya 1964,
Watson 1964) from content to what training made of the known items. Nothing of it is trained.

A mean of unit vectors, made a unit vector again, lies near everybody: as a target of a cosine it beats known items, and
inserted items crowd them out. The mean as it is scores as its neighbours do on average, which seldom is enough for a list of
ten, because who is in one is an extreme. Between the two its length, which says how much the neighbours agree, is replaced by
the cube root: known items that are stood in for like that are in about as many lists as they are themselves (docs/adr/0021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

COUNT: Final = 20  # of neighbours
TEMPERATURE: Final = 0.1  # of a cosine of content
DOUBT: Final = (
    1 / 3
)  # the power of a mean's length that is kept: 0 believes it, 1 doubts it as much as its neighbours differ
SEARCHED: Final = 100_000  # known items; of more, so many at even distances are looked at
_CELLS: Final = 16_777_216  # cosines that are held at once


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Of U items."""

    items: Tensor  # [U] their indices
    nearest: Tensor  # [U, K] indices of known items, the nearest first
    weights: Tensor  # [U, K]; a row's sum is 1

    @classmethod
    def find(cls, content: Tensor, known: Tensor, wanted: Tensor) -> Neighbours | None:
        """For the items ``wanted`` [N] bool among those ``known`` [N] bool, by the cosine of ``content`` [N, D].

        None where there is nothing to do or to be done with."""
        items, sources = torch.nonzero(wanted).flatten(), torch.nonzero(known).flatten()
        if not len(items) or not len(sources):
            return None
        if len(sources) > SEARCHED:
            sources = sources[torch.arange(SEARCHED, device=sources.device) * len(sources) // SEARCHED]
        unit = F.normalize(content.float(), dim=-1)
        among, count = unit[sources], min(COUNT, len(sources))
        found = [
            (unit[rows] @ among.T).topk(count, dim=1)
            for rows in torch.split(items, max(1, _CELLS // len(sources)))
        ]
        cosines = torch.cat([each.values for each in found])
        nearest = sources[torch.cat([each.indices for each in found])]
        return cls(items, nearest, (cosines / TEMPERATURE).softmax(dim=1))

    def scored(self, vectors: Tensor) -> Tensor:
        """[N, d] unit vectors, but for the U items: their neighbours' mean, its length to the power of ``DOUBT``."""
        mean = self._mean(vectors)
        length = mean.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        return self._put(vectors, mean / length * length**DOUBT)

    def read(self, raw: Tensor) -> Tensor:
        """[N, d] as a tower reads items, but for the U items: the way their neighbours point, as long as these are."""
        lengths = raw.norm(dim=-1, keepdim=True)
        direction = F.normalize(self._mean(raw / lengths.clamp(min=1e-12)), dim=-1)
        return self._put(raw, direction * self._mean(lengths))

    def _mean(self, rows: Tensor) -> Tensor:
        """[U, d] of rows [N, d]."""
        mean: Tensor = F.embedding_bag(
            self.nearest, rows, per_sample_weights=self.weights.to(rows), mode="sum"
        )
        return mean

    def _put(self, rows: Tensor, found: Tensor) -> Tensor:
        return rows.index_copy(0, self.items, found)
