"""One space for all modalities, learnt from which items are consumed together.

A linear map for each modality; an item's vector is the sum of what its modalities are mapped to, scaled to length one.
They are learnt by a symmetric InfoNCE loss (van den Oord et al. 2018, eq. 4) over item-to-item pairs, as OneRec aligns its
multimodal tokens with behaviour (Zhou et al. 2025, section 3.1: pairs of items that users consume together), with the
other pairs of the batch as negatives. Both sides of a pair see a random part of their modalities. So text alone, a picture
alone, or content without any collaborative vector all land where the whole item would: what is missing later was missing
in training. A part of each batch pairs items with themselves, which aligns the modalities of items that nobody consumed
(CLIP; Radford et al. 2021).

Fitting is torch in float32 on one thread; what is kept are plain arrays, and applying them is NumPy in float64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segue.encoders.text import unit
from segue.items import ItemVectors
from segue.tokenizers.fusion import (
    Bools,
    Floats,
    Modality,
    modalities_of,
    modality_arrays,
    of_the_codebook,
    require_a_modality,
    same_items,
)
from segue.tokenizers.reproducible import deterministic
from segue.tokenizers.settings import AlignmentSettings

Pairs = npt.NDArray[
    np.int64
]  # [P, 2] rows of items that are consumed together, drawn in proportion to how often


@dataclass(frozen=True)
class Alignment:
    """The frozen maps. Implements what :class:`segue.tokenizers.fusion.Fusion` does."""

    name: ClassVar[str] = "contrastive"

    modalities: dict[str, Modality]  # in the order in which they are summed
    maps: dict[str, Floats]  # [D modality, d]

    @property
    def dimensions(self) -> int:
        return int(next(iter(self.maps.values())).shape[1])

    @classmethod
    def fit(
        cls,
        modalities: Mapping[str, ItemVectors],
        weights: Mapping[str, float],
        dimensions: int,
        *,
        pairs: Pairs,
        settings: AlignmentSettings,
        seed: int,
    ) -> Alignment:
        """Fit on the items given. A modality of weight 0, or that no item has, is left out.

        Of a weight only whether it is above 0 counts: how much a modality says is learnt. Deterministic for equal
        arguments. Raises DataError where nothing is left, or a vector is not finite.
        """
        ids = same_items(modalities)
        fitted: dict[str, Modality] = {}
        for name in sorted(modalities):
            # A vector of length zero has no direction and counts as absent.
            has = modalities[name].present & modalities[name].vectors.any(axis=1)
            if weights.get(name, 0.0) > 0 and has.any():
                fitted[name] = Modality.fit(modalities[name], name, weight=1.0)
        require_a_modality(fitted, modalities, weights)
        prepared = {name: each.prepare(modalities[name], name) for name, each in fitted.items()}
        with deterministic(seed):
            maps = _train(
                [torch.from_numpy(rows.astype(np.float32)) for rows, _ in prepared.values()],
                torch.from_numpy(np.stack([present for _, present in prepared.values()], axis=1)),
                torch.from_numpy(pairs if len(pairs) else np.zeros((0, 2), dtype=np.int64)),
                dimensions=min(dimensions, max(1, len(ids) - 1)),
                settings=settings,
            )
        return cls(modalities=fitted, maps=dict(zip(fitted, maps, strict=True)))

    def fuse(self, modalities: Mapping[str, ItemVectors]) -> tuple[npt.NDArray[np.float32], Bools]:
        """Unit vectors [N, d] float32, zero for an item of no modality, and which items have one [N].

        Raises BindingError where a modality of the codebook is missing or has another dimension, DataError for
        a vector that is not finite.
        """
        used = of_the_codebook(self.modalities, modalities)
        total = np.zeros((len(next(iter(used.values())).item_ids), self.dimensions))
        present = np.zeros(len(total), dtype=bool)
        for name, modality in self.modalities.items():
            rows, has = modality.prepare(used[name], name)
            total += rows @ self.maps[name]
            present |= has
        return unit(total), present

    def project(self, name: str, vectors: ItemVectors) -> npt.NDArray[np.float32]:
        """Unit vectors [N, d] of one modality alone, such as a query's text; zero where it is absent.

        Raises KeyError where the codebook knows no such modality.
        """
        rows, _ = self.modalities[name].prepare(vectors, name)
        return unit(rows @ self.maps[name])

    def arrays(self) -> dict[str, Floats]:
        """Everything fitted, by name, to be stored and hashed."""
        return {
            **modality_arrays(self.modalities),
            **{f"fusion.{name}.map": table for name, table in self.maps.items()},
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Floats], modalities: Sequence[str]) -> Alignment:
        """The inverse of :meth:`arrays`. Raises KeyError naming the array that is missing."""
        return cls(
            modalities=modalities_of(arrays, modalities),
            maps={name: arrays[f"fusion.{name}.map"] for name in modalities},
        )


def _train(
    rows: list[Tensor], present: Tensor, pairs: Tensor, *, dimensions: int, settings: AlignmentSettings
) -> list[Floats]:
    """Maps [D, d] of the modalities' rows [N, D]; ``present`` [N, M]."""
    maps = [nn.Parameter(torch.randn(each.shape[1], dimensions) / dimensions**0.5) for each in rows]
    optimizer = torch.optim.AdamW(maps, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    somewhere = torch.nonzero(present.any(dim=1)).flatten()
    both = present[pairs].any(dim=-1).all(dim=-1)
    pairs = pairs[both]

    def vectors(items: Tensor) -> Tensor:
        seen = present[items] & (torch.rand(len(items), len(rows)) >= settings.modality_dropout)
        nothing = ~seen.any(dim=1)
        # Whoever lost everything keeps one, drawn among what it has.
        one = torch.multinomial(present[items[nothing]].float(), 1) if bool(nothing.any()) else None
        if one is not None:
            seen[nothing] = F.one_hot(one.squeeze(1), len(rows)).bool()
        total = sum(
            (each[items] * seen[:, [place]]) @ table
            for place, (each, table) in enumerate(zip(rows, maps, strict=True))
        )
        assert isinstance(total, Tensor)
        return F.normalize(total, dim=-1)

    for step in range(settings.steps):
        alike = somewhere[torch.randint(len(somewhere), (settings.batch_size,))]
        left, right = alike, alike
        if len(pairs):
            count = round(settings.batch_size * (1 - settings.self_pair_share))
            drawn = pairs[torch.randint(len(pairs), (count,))]
            left, right = torch.cat([drawn[:, 0], left[count:]]), torch.cat([drawn[:, 1], right[count:]])
        one, other = vectors(left), vectors(right)
        logits = one @ other.T / settings.temperature
        # An item that stands twice in the batch is no negative of itself.
        same = (right.unsqueeze(0) == right.unsqueeze(1)) & ~torch.eye(len(right), dtype=torch.bool)
        mirrored = (left.unsqueeze(0) == left.unsqueeze(1)) & ~torch.eye(len(left), dtype=torch.bool)
        place = torch.arange(len(left))
        loss = F.cross_entropy(logits.masked_fill(same, -torch.inf), place) + F.cross_entropy(
            logits.T.masked_fill(mirrored, -torch.inf), place
        )
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * (1 - step / settings.steps)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return [table.detach().numpy().astype(np.float64) for table in maps]
