"""Constrained beam search beside its peers: ``python -m benchmarks.decoding``.

Fifty items by beam search over a catalogue of 1,682 items with 64x32x32 codes, for batches of 1 and 16
histories: the house model and ``segue.decoding.beam`` against Hugging Face ``generate`` with a Python
``prefix_allowed_tokens_fn``; and, with the model held equal, the tensor trie against a Python prefix function
that masks beam by beam.

``--quick`` runs a toy size and writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks import harness
from benchmarks.training import SEED, catalogue
from segue.decoding.beam import beam_search
from segue.generative.house import HouseModel
from segue.generative.settings import GenerativeSettings
from segue.generative.store import new_model
from segue.protocols import BoundItems, HistoryBatch

COLUMNS = ("task", "engine", "batch", "seconds", "low", "high", "ratio")


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is measured."""

    items: int = 1682
    level_sizes: tuple[int, ...] = (64, 32, 32)
    dimensions: int = 64
    width: int = 50
    batches: tuple[int, ...] = (1, 16)
    events: tuple[int, ...] = (1, 100)  # of the histories
    repeats: int = 9


QUICK = Size(
    items=100, level_sizes=(12, 6, 8), dimensions=16, width=8, batches=(1, 2), events=(1, 5), repeats=2
)


class PrefixTree:
    """Which codes may follow a prefix: dicts of dicts, as a user would write it.

    Its tokens are the codes, level after level."""

    def __init__(self, items: BoundItems) -> None:
        self.offsets = [sum(items.level_sizes[:level]) for level in range(len(items.level_sizes))]
        self.item_of = {tuple(codes): item for item, codes in enumerate(items.codes.tolist())}
        self._root: dict[int, Any] = {}
        for codes in self.item_of:
            node = self._root
            for code in codes:
                node = node.setdefault(code, {})

    def allowed(self, prefix: list[int]) -> list[int]:
        node = self._root
        for code in prefix:
            node = node.get(code, {})
        return list(node)

    def prefix_function(self, prompt: int) -> Callable[[int, Tensor], list[int]]:
        """For ``generate`` after a prompt of ``prompt`` tokens."""

        def allowed_tokens(_: int, tokens: Tensor) -> list[int]:
            spoken = tokens[prompt:].tolist()
            prefix = [token - offset for token, offset in zip(spoken, self.offsets, strict=False)]
            return [code + self.offsets[len(prefix)] for code in self.allowed(prefix)]

        return allowed_tokens


def main() -> None:
    harness.main("decoding", __doc__ or "", COLUMNS, measure, notes, size=Size(), quick=QUICK)


@torch.inference_mode()
def measure(size: Size) -> list[dict[str, Any]]:
    """One row a task, batch and engine; every engine's items are checked."""
    items = catalogue(size.items, size.level_sizes)
    tree, house = PrefixTree(items), house_model(size, items)
    peer = language_model(size, items)
    rows: list[dict[str, Any]] = []
    for batch in size.batches:
        for events in size.events:
            requests = histories(items, batch, events)
            rows += side_by_side(
                f"list from a history of {events} event{'s' if events > 1 else ''}",
                batch,
                {
                    "segue": partial(segue_items, house, requests, size.width),
                    "hf_generate": partial(hf_items, peer, items, tree, requests, size.width),
                },
                size,
            )
        context = house.encode(histories(items, batch, max(size.events)))
        found, scores = beam_search(house, context, house.trie, None, size.width)
        theirs, their_scores = python_beam_search(house, context, tree, size.width)
        if not torch.equal(found, theirs) or not torch.allclose(scores, their_scores, atol=1e-5):
            raise SystemExit("the tensor trie and the Python prefix function find different items")
        rows += side_by_side(
            "beam search of one model, encoding left out",
            batch,
            {
                "segue": partial(beam_search, house, context, house.trie, None, size.width),
                "python_prefix_function": partial(python_beam_search, house, context, tree, size.width),
            },
            size,
        )
    return rows


def side_by_side(
    task: str, batch: int, engines: Mapping[str, Callable[[], tuple[Tensor, ...]]], size: Size
) -> list[dict[str, Any]]:
    """Rows of ``engines``, which return items [B, W] first; ``ratio``: seconds of segue over theirs."""
    last: dict[str, Tensor] = {}

    def kept(name: str, engine: Callable[[], tuple[Tensor, ...]]) -> Callable[[], None]:
        def run() -> None:
            last[name] = engine()[0]

        return run

    seconds = harness.median_seconds({name: kept(name, run) for name, run in engines.items()}, size.repeats)
    for name, found in last.items():
        check(f"{name}, {task}", found, batch, size)
    return [
        {
            "task": task,
            "engine": name,
            "batch": batch,
            "seconds": taken["median"],
            "low": taken["low"],
            "high": taken["high"],
            "ratio": seconds["segue"]["median"] / taken["median"],
        }
        for name, taken in seconds.items()
    ]


def check(what: str, found: Tensor, batch: int, size: Size) -> None:
    """A full list of different items of the catalogue for every request."""
    if tuple(found.shape) != (batch, size.width):
        raise SystemExit(f"{what}: {tuple(found.shape)} items, not {(batch, size.width)}")
    for row in found.tolist():
        if len(set(row)) != size.width or min(row) < 0 or max(row) >= size.items:
            raise SystemExit(f"{what}: items that repeat or do not exist: {row}")


def house_model(size: Size, items: BoundItems) -> HouseModel:
    """With every weight away from zero, as after training: no two items score the same."""
    model = new_model(GenerativeSettings(dimensions=size.dimensions, precision="fp32"), items)
    assert isinstance(model, HouseModel)
    generator = torch.Generator().manual_seed(SEED)
    for parameter in model.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model.eval()


def language_model(size: Size, items: BoundItems) -> GPT2LMHeadModel:
    """A GPT-2 as wide, deep and many-headed, with random weights, whose tokens are the codes."""
    settings = GenerativeSettings(dimensions=size.dimensions)
    config = GPT2Config(
        vocab_size=sum(items.level_sizes) + 1,  # the last one pads, and is never spoken
        n_positions=(max(size.events) + 1) * len(items.level_sizes),
        n_embd=settings.dimensions,
        n_layer=settings.layers,
        n_head=settings.heads,
        activation_function="gelu",
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=sum(items.level_sizes),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = GPT2LMHeadModel(config)
    model.train(False)
    return model


def histories(items: BoundItems, batch: int, events: int) -> HistoryBatch:
    """Seeded histories of one length, so that neither engine pads."""
    generator = torch.Generator().manual_seed(SEED)
    gaps = torch.randint(1, 100_000, (batch, events), generator=generator)
    return HistoryBatch(
        items=torch.randint(len(items.codes), (batch, events), generator=generator),
        timestamps=gaps.cumsum(dim=1),
        lengths=torch.full((batch,), events),
    )


def segue_items(model: HouseModel, requests: HistoryBatch, width: int) -> tuple[Tensor, Tensor]:
    return beam_search(model, model.encode(requests), model.trie, None, width)


def hf_items(
    model: GPT2LMHeadModel, items: BoundItems, tree: PrefixTree, requests: HistoryBatch, width: int
) -> tuple[Tensor, ...]:
    """Items [B, W] that ``generate`` speaks after the flattened codes of the histories; -1: no item."""
    offsets = torch.tensor(tree.offsets)
    prompt = (items.codes[requests.items] + offsets).flatten(1)
    spoken = model.generate(  # type: ignore[misc,operator,unused-ignore]
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        num_beams=width,
        num_return_sequences=width,
        max_new_tokens=len(offsets),
        prefix_allowed_tokens_fn=tree.prefix_function(prompt.shape[1]),
    )
    codes = (spoken[:, prompt.shape[1] :] - offsets).tolist()
    found = [tree.item_of.get(tuple(path), -1) for path in codes]
    return (torch.tensor(found).view(len(prompt), width),)


def python_beam_search(
    model: HouseModel, context: Any, tree: PrefixTree, width: int
) -> tuple[Tensor, Tensor]:
    """``segue.decoding.beam.beam_search`` with the trie as dicts and a mask a beam: equal model and result."""
    batch = len(context)
    prefix = torch.zeros((batch, 1, 0), dtype=torch.int64)
    scores = torch.zeros((batch, 1))
    for depth, codes in enumerate(model.level_sizes):
        step = model.next_code_log_probs(context, prefix).float()
        mask = torch.full_like(step, -torch.inf)
        for row in range(batch):
            for beam in range(prefix.shape[1]):
                mask[row, beam, tree.allowed(prefix[row, beam].tolist())] = 0
        total = (scores.unsqueeze(-1) + step + mask).flatten(1)
        scores, chosen = total.topk(min(width, total.shape[1]), dim=1)
        before = prefix.gather(1, (chosen // codes).unsqueeze(-1).expand(-1, -1, depth))
        prefix = torch.cat([before, (chosen % codes).unsqueeze(-1)], dim=-1)
    found = [[tree.item_of.get(tuple(path), -1) for path in row] for row in prefix.tolist()]
    return torch.tensor(found), scores


def notes(size: Size) -> list[str]:
    settings = GenerativeSettings(dimensions=size.dimensions)
    longest, levels = max(size.events), len(size.level_sizes)
    return [
        f"Median, lowest and highest of {size.repeats} repeats, interleaved, after a warm-up; fp32; "
        f"beam width {size.width}. `ratio` is the seconds of segue over those of the row's engine: "
        "below 1, segue is faster.",
        f"Every engine's lists were checked: {size.width} different items of the catalogue for each request.",
        f"Both models have width {settings.dimensions}, {settings.layers} layers, {settings.heads} "
        "heads and random weights. They are not the same model: the lists differ, and quality is not "
        "compared.",
        f"The house model reads one position an event ({longest} for {longest} events), GPT-2 one a "
        f"code ({longest * levels}). That is a choice of model, and part of the ratio in the rows of "
        "whole lists.",
        "The house model encodes a history once and speaks the codes from its last state by a small "
        "head, its item tables warm as in serving. GPT-2 runs all its layers for every code, over the "
        "KV cache that `generate` keeps by default.",
        "`generate` copies a prompt once a beam before reading it. With long histories that is most "
        "of its time, not the constraint; the rows of one event leave it out.",
        "`python_prefix_function` has the model, context and beam of its segue row and finds the same "
        "items (checked). Only the constraint differs: a walk through dicts and a masked row of codes "
        "for each beam, against children gathered from tensors. The model's own steps, which use the "
        "tensor trie to normalise, are in both, so the ratio understates what the constraint alone "
        "gains.",
    ]


if __name__ == "__main__":
    main()
