"""Training speed and MFU of the house model on this machine: ``python -m benchmarks.training``.

Tokens (events) a second of the training loop that the graph uses, and model FLOPs utilisation (MFU) against
the matmul peak measured in the same run in the same dtype, on seeded synthetic data of ML-100K's size: 1,682
items, 64x32x32 codes, 943 histories of about 100 events. Precision is a row: nothing here chooses one.

``--quick`` runs a toy size and writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch

from benchmarks import harness
from segue.data.sequences import Sequences
from segue.generative.house import HouseModel
from segue.generative.settings import GenerativeSettings
from segue.generative.store import new_model
from segue.protocols import BoundItems, HistoryBatch
from segue.training.batches import sequence_batches
from segue.training.flops import house_flops_per_token, house_table_flops, matmul_peak, mfu
from segue.training.loop import FitSettings, fit

SEED = 17
LEVEL_SIZES = (64, 32, 32)
CONTENT_DIMENSIONS = 96
COLUMNS = ("model", "precision", "tokens_per_second", "low", "high", "mfu", "peak_tflops")
DTYPES: dict[Literal["fp32", "bf16"], torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is measured."""

    items: int = 1682
    users: int = 943
    dimensions: tuple[int, ...] = (64, 128)
    steps: int = 20
    repeats: int = 5
    peak: int = 2048  # rows and columns of the product that gives the peak


QUICK = Size(items=200, users=40, dimensions=(16,), steps=2, repeats=2, peak=256)


def main() -> None:
    harness.main("training", __doc__ or "", COLUMNS, measure, notes, size=Size(), quick=QUICK)


def measure(size: Size) -> list[dict[str, Any]]:
    """One row a width and precision, all of them interleaved."""
    items, sequences = catalogue(size.items), histories(size.users, size.items)
    runs = {
        (dimensions, precision): GenerativeSettings(
            dimensions=dimensions, precision=precision, threads=torch.get_num_threads()
        )
        for dimensions in size.dimensions
        for precision in DTYPES
    }
    peaks = {precision: matmul_peak(dtype, size=size.peak) for precision, dtype in DTYPES.items()}
    seconds = harness.median_seconds(
        {
            f"{dimensions} {precision}": trainer(settings, items, sequences, size.steps)
            for (dimensions, precision), settings in runs.items()
        },
        size.repeats,
    )
    for precision, dtype in DTYPES.items():  # a peak is the best that the machine did, before or after
        peaks[precision] = max(peaks[precision], matmul_peak(dtype, size=size.peak))
    rows = []
    for (dimensions, precision), settings in runs.items():
        taken = seconds[f"{dimensions} {precision}"]
        lengths = [batch.lengths for batch in first_batches(settings, sequences, size.steps)]
        tokens = int(torch.cat(lengths).sum())
        rows.append(
            {
                "model": f"house, d {dimensions}",
                "precision": precision,
                "tokens_per_second": tokens / taken["median"],
                "low": tokens / taken["high"],
                "high": tokens / taken["low"],
                "mfu": mfu(
                    flops_per_token(settings, items, torch.cat(lengths).double(), size.steps),
                    tokens / taken["median"],
                    peaks[precision],
                ),
                "peak_tflops": peaks[precision] / 1e12,
            }
        )
    return rows


def trainer(
    settings: GenerativeSettings, items: BoundItems, sequences: Sequences, steps: int
) -> Callable[[], Any]:
    """Trains one model for ``steps`` steps a call, each call on the same batches."""
    model = new_model(settings, items)
    assert isinstance(model, HouseModel)
    how = FitSettings(
        epochs=1,
        learning_rate=settings.learning_rate,
        precision=settings.precision,
        seed=settings.seed,
        threads=settings.threads,
    )

    def run() -> Any:
        return fit(
            model,
            batches=lambda _: first_batches(settings, sequences, steps),
            loss=model.loss,
            validate=None,
            settings=how,
            checkpoints=None,
            progress=lambda _: None,
        )

    return run


def first_batches(settings: GenerativeSettings, sequences: Sequences, steps: int) -> list[HistoryBatch]:
    """The first ``steps`` batches of the first epoch, of which there must be so many."""
    batches = sequence_batches(
        sequences,
        batch_events=settings.batch_events,
        max_length=settings.max_length,
        seed=settings.seed,
        epoch=0,
    )
    taken = list(islice(batches, steps))
    if len(taken) < steps:
        raise SystemExit(f"an epoch has only {len(taken)} batches, {steps} steps were asked for")
    return taken


def flops_per_token(
    settings: GenerativeSettings, items: BoundItems, lengths: torch.Tensor, steps: int
) -> float:
    """Training FLOPs an event of windows of ``lengths``, padding left out."""
    model = new_model(settings, items)
    nodes = [model.trie.nodes(depth + 1) for depth in range(model.trie.levels)]
    count, tokens = int(items.active.sum()), float(lengths.sum())
    tables = house_table_flops(
        settings, content_dimensions=items.vectors.shape[1], nodes=nodes, items=len(items.active)
    )
    estimates = {
        length: house_flops_per_token(
            settings, length=length, nodes=nodes, items=count, coded_content=tables * steps / tokens
        )
        for length in {int(length) for length in lengths}
    }
    return sum(estimates[int(length)] * float(length) for length in lengths) / tokens


def catalogue(count: int, sizes: tuple[int, ...] = LEVEL_SIZES) -> BoundItems:
    """Items with seeded content and codes; as in a real item map, the last code tells apart those that share
    the rest."""
    generator = np.random.default_rng(SEED)
    seen: dict[tuple[int, ...], int] = {}
    codes: list[tuple[int, ...]] = []
    while len(codes) < count:
        above = tuple(int(generator.integers(size)) for size in sizes[:-1])
        rank = seen.get(above, 0)
        if rank < sizes[-1]:
            seen[above] = rank + 1
            codes.append((*above, rank))
    everything = torch.ones(count, dtype=torch.bool)
    vectors = generator.standard_normal((count, CONTENT_DIMENSIONS), dtype=np.float32)
    return BoundItems(
        codebook_id="0" * 64,
        level_sizes=sizes,
        codes=torch.tensor(codes, dtype=torch.int64),
        vectors=torch.from_numpy(vectors),
        present=everything,
        active=everything.clone(),
    )


def histories(users: int, items: int) -> Sequences:
    """Seeded users: skewed lengths of at least 20 and about 100 on average, items by a Zipf-like weight."""
    generator = np.random.default_rng(SEED + 1)
    lengths = np.clip(generator.lognormal(np.log(65), 1.0, size=users), 20, 740).astype(np.int64)
    total = int(lengths.sum())
    weight = 1 / (10 + np.arange(items))
    nothing = np.full(users, -1, dtype=np.int32)
    return Sequences(
        items=generator.choice(items, size=total, p=weight / weight.sum()).astype(np.int32),
        timestamps=np.cumsum(generator.integers(0, 1000, size=total)).astype(np.int64),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        validation_at=nothing,
        test_at=nothing,
        user_ids=[f"u{user}" for user in range(users)],
    )


def notes(size: Size) -> list[str]:
    settings = GenerativeSettings()
    return [
        f"Median, lowest and highest of {size.repeats} repeats, interleaved, after a warm-up. A repeat "
        f"is {size.steps} steps of `segue.training.loop.fit` on the same batches of "
        f"at most {settings.batch_events} padded events, windows of at most {settings.max_length}: making the batches, "
        "forward, backward, clipping and AdamW.",
        "A token is one event (all its codes). Padding is computed, but counts neither as tokens nor "
        "as FLOPs.",
        "MFU is the FLOPs of `segue.training.flops` (matrix products and attention; the backward pass "
        f"counts as two forward ones) over the best {size.peak} x {size.peak} matrix product of the "
        "same dtype on the same threads, before or after training.",
        f"{settings.layers} layers, {settings.heads} heads. The matrices of so small a model are far "
        "from the size at which a processor reaches its peak.",
        "bf16 is autocast: weights, optimizer, softmaxes and norms stay in fp32. What it gives "
        "depends on the processor's instructions for it; its peak is the one measured here, not a "
        "data sheet's.",
    ]


if __name__ == "__main__":
    main()
