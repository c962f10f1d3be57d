"""A small catalogue, model and data for the tests of this folder."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from segue.data.context import Vocabulary
from segue.data.sequences import Sequences
from segue.generative.house import HouseModel
from segue.generative.settings import GenerativeSettings
from segue.generative.store import new_model
from segue.protocols import BoundItems, HistoryBatch, TrainableRecommender
from segue.tokenizers.item_map import ItemMap

SIZES = (4, 3, 4)
SETTINGS = GenerativeSettings(
    dimensions=16,
    layers=2,
    heads=2,
    dropout=0.1,
    max_length=8,
    batch_events=48,
    epochs=2,
    threads=1,
    precision="fp32",
    pooled_tower=False,  # one expert a head; tests/generative/test_towers.py has the other
)


def items(
    count: int = 24, *, seed: int = 0, retired: tuple[int, ...] = (), absent: tuple[int, ...] = ()
) -> BoundItems:
    """The first ``count`` of one fixed order of items, so that a larger catalogue is a later revision."""
    generator = torch.Generator().manual_seed(seed)
    every = [(a, b, c) for a in range(SIZES[0]) for b in range(SIZES[1]) for c in range(SIZES[2])]
    order = torch.randperm(len(every), generator=generator)[:count]
    vectors = torch.randn(len(every), 6, generator=generator)[:count]
    active, present = torch.ones(count, dtype=torch.bool), torch.ones(count, dtype=torch.bool)
    active[list(retired)] = False
    present[list(absent)] = False
    return BoundItems(
        codebook_id="c" * 64,
        level_sizes=SIZES,
        codes=torch.tensor([every[i] for i in order.tolist()]),
        vectors=vectors,
        present=present,
        active=active,
    )


def item_map() -> ItemMap:
    """Of all items of :func:`items`."""
    bound = items()
    return ItemMap(
        codebook_id=bound.codebook_id,
        level_sizes=bound.level_sizes,
        revision=1,
        item_ids=[f"i{item:02d}" for item in range(len(bound.codes))],
        codes=bound.codes.numpy(),
        revision_added=np.ones(len(bound.codes), dtype=np.int32),
        retired=np.zeros(len(bound.codes), dtype=bool),
        vectors=bound.vectors.numpy(),
        present=bound.present.numpy(),
    )


def model(bound: BoundItems | None = None, settings: GenerativeSettings = SETTINGS) -> HouseModel:
    """With every weight away from zero, as after training."""
    made = named("house", bound, settings)
    assert isinstance(made, HouseModel)
    return made


def named(
    name: str,
    bound: BoundItems | None = None,
    settings: GenerativeSettings = SETTINGS,
    vocabulary: Vocabulary | None = None,
) -> TrainableRecommender:
    """Any model, likewise."""
    made = new_model(settings.model_copy(update={"model": name}), bound or items(), vocabulary)
    made.adopt(made.trie.leaf_of >= 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    made.eval()
    return made


def histories(lengths: list[int], count: int = 24, *, seed: int = 2) -> HistoryBatch:
    generator = torch.Generator().manual_seed(seed)
    width = max(1, *lengths)
    length = torch.tensor(lengths)
    inside = torch.arange(width) < length.unsqueeze(1)
    chosen = torch.randint(count, (len(lengths), width), generator=generator)
    gaps = torch.randint(100_000, (len(lengths), width), generator=generator)
    return HistoryBatch(items=chosen * inside, timestamps=gaps.cumsum(dim=1) * inside, lengths=length)


def wider(batch: HistoryBatch, by: int) -> HistoryBatch:
    """The same histories with ``by`` more columns of padding, which hold what must not be read."""
    return HistoryBatch(
        items=F.pad(batch.items, (0, by), value=5),
        timestamps=F.pad(batch.timestamps, (0, by), value=10**9),
        lengths=batch.lengths,
    )


def row(batch: HistoryBatch, number: int, length: int) -> HistoryBatch:
    """The first ``length`` events of one history, alone."""
    return HistoryBatch(
        items=batch.items[number : number + 1, : max(1, length)],
        timestamps=batch.timestamps[number : number + 1, : max(1, length)],
        lengths=torch.tensor([length]),
    )


def sequences(users: int = 12, count: int = 24, *, seed: int = 3) -> Sequences:
    """Users who walk along the catalogue, so that there is something to learn."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(4, 14, size=users)
    walks = [(int(generator.integers(count)) + np.arange(length)) % count for length in lengths]
    return Sequences(
        items=np.concatenate(walks).astype(np.int32),
        timestamps=np.concatenate([np.arange(length) * 3600 for length in lengths]).astype(np.int64),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        validation_at=(lengths - 2).astype(np.int32),
        test_at=(lengths - 1).astype(np.int32),
        user_ids=[f"u{user}" for user in range(users)],
    )
