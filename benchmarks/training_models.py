"""Training speed and MFU of every generative model on a GPU: ``python -m benchmarks.training_models``.

Tokens (events) a second of the training loop that the graph uses, in bf16, and model FLOPs utilisation (MFU): the FLOPs that
torch counts on a batch without padding, over the best matrix product of the same GPU in the same run. On seeded synthetic data:
as many items as Amazon Beauty has, 12,000, with codes of 256 x 128 x 128, and histories of about 100 events. At the width of
the quality benchmark and at one that is nearer to what a GPU is made for. Without a GPU every row says that it was not
measured.

``--quick`` runs a toy size on whatever there is and writes nothing.
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from benchmarks import harness
from benchmarks.training import catalogue, first_batches, histories
from segue.data.sequences import Sequences
from segue.generative.settings import GenerativeSettings
from segue.generative.store import new_model
from segue.generative.training import events_of
from segue.protocols import BoundItems
from segue.training.loop import FitSettings, fit
from segue.training.throughput import throughput

COLUMNS = ("model", "d", "layers", "parameters", "tokens_per_second", "low", "high", "mfu", "peak_tflops")
MODELS = ("house", "hstu", "tiger", "cobra")


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is measured."""

    items: int = 12_000
    levels: tuple[int, ...] = (256, 128, 128)
    users: int = 4_000
    shapes: tuple[tuple[int, int, int], ...] = ((128, 2, 2), (512, 8, 8))  # width, layers, heads
    batch_events: int = 8192
    steps: int = 10
    repeats: int = 3
    device: Literal["cpu", "cuda"] = "cuda"


QUICK = Size(
    items=100, levels=(8, 8, 32), users=40, shapes=((16, 1, 2),), batch_events=256, steps=2, repeats=1, device="cpu"
)  # fmt: skip


def main() -> None:
    harness.main(
        "training_models", __doc__ or "", COLUMNS, measure, notes, size=Size(), quick=QUICK, figure="mfu"
    )


def notes(size: Size) -> list[str]:
    return [
        f"Median, lowest and highest of {size.repeats} times {size.steps} steps of {size.batch_events} padded positions, "
        "after as many for warming up: forward, backward, clipping and AdamW; the batches are made before.",
        "A token is one event (all its codes). Padding is computed, but counts neither as tokens nor as FLOPs.",
    ]


def measure(size: Size) -> list[dict[str, Any]]:
    """One row a model and shape."""
    items, sequences = catalogue(size.items, size.levels), histories(size.users, size.items)
    there = size.device == "cpu" or torch.cuda.is_available()
    return [
        {
            "model": name,
            "d": width,
            "layers": layers,
            **(_measured(name, (width, layers, heads), size, items, sequences) if there else {}),
        }
        for width, layers, heads in size.shapes
        for name in MODELS
    ]


def _measured(
    name: str, shape: tuple[int, int, int], size: Size, items: BoundItems, sequences: Sequences
) -> dict[str, Any]:
    width, layers, heads = shape
    settings = GenerativeSettings(
        model=name,
        dimensions=width,
        layers=layers,
        heads=heads,
        batch_events=size.batch_events,
        device=size.device,
    )
    model = new_model(settings, items)
    assert isinstance(model, nn.Module)
    model.adopt(items.active)
    batches = first_batches(settings, sequences, size.steps)
    how = FitSettings.of(settings, epochs=1, threads=torch.get_num_threads())

    def run() -> Any:
        return fit(
            model,
            batches=lambda _: batches,
            loss=model.loss,
            validate=None,
            settings=how,
            checkpoints=None,
            progress=lambda _: None,
            events=events_of(model),
        )

    run()
    results = [run() for _ in range(size.repeats)]
    results.sort(key=lambda result: result.tokens_per_second)
    speeds = [result.tokens_per_second for result in results]
    middle = results[len(results) // 2]
    found = throughput(
        model, middle, loss=model.loss, batches=lambda _: batches, precision=settings.precision
    )
    print(
        f"{name}, d {width}: {statistics.median(speeds):,.0f} tokens/s, MFU {found['mfu']:.2%}",
        file=sys.stderr,
        flush=True,
    )
    return {
        "parameters": sum(each.numel() for each in model.parameters()),
        "tokens_per_second": statistics.median(speeds),
        "low": speeds[0],
        "high": speeds[-1],
        "mfu": found["mfu"],
        "peak_tflops": found["peak_flops"] / 1e12,
    }


if __name__ == "__main__":
    main()
