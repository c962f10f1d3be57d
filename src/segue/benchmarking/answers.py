"""What a contender answers to the cases, and, of a generative model, what each of its heads would have answered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from segue.evaluation.metrics import PAD, target_ranks
from segue.evaluation.protocol import Cases, evaluate_path
from segue.generative.path import Candidates, GenerativePath, fused
from segue.paths import IndexArray, ListRules, Path
from segue.ranking.select import select

SERVED = "served"
HEADS = (SERVED, "beam", "code", "dense")
_TOGETHER = {"cpu": 64, "cuda": 256}  # requests that are decoded together
_ASKED = 256  # requests that another path is given at once


@dataclass(frozen=True, slots=True)
class Answer:
    """Lists of U users. ``beam_share``: which part of the lists' places hold an item that the beam proposed; None where
    there is no beam."""

    ranks: IndexArray  # [U] of the target, from 0; -1 where the list misses it
    beam_share: float | None = None


Judge = Callable[[Cases, ListRules, int], dict[str, Answer]]


def of_path(path: Path) -> Judge:
    """Of a path with nothing to be told apart: what it serves."""

    def judge(cases: Cases, rules: ListRules, k: int) -> dict[str, Answer]:
        return {SERVED: Answer(evaluate_path(path, cases, rules, k, _ASKED).ranks)}

    return judge


def of_heads(path: GenerativePath) -> Judge:
    """Of a generative path: its lists by head.

    ``served``: every candidate by the fused score. ``beam``: the beam's candidates alone, by the fused score. ``code``: the
    beam's by the code head. ``dense``: the dense head's by the dense head. Every history is encoded and decoded once for
    all of them. A model without a dense head has ``served`` alone.
    """

    def judge(cases: Cases, rules: ListRules, k: int) -> dict[str, Answer]:
        heads = HEADS if path.has_dense_head else (SERVED,)
        lists = {head: np.full((len(cases), k), PAD, dtype=np.int64) for head in heads}
        beam = {head: np.zeros((len(cases), k), dtype=bool) for head in heads}
        together = _TOGETHER[path.model.trie.items.device.type]
        order = np.argsort(cases.history_lengths, kind="stable")  # little padding
        for low in range(0, len(order), together):
            rows = order[low : low + together]
            requests = [cases.requests[row] for row in rows]
            found = path.propose(requests, rules, at_least=k)
            items, from_beam = found.items.cpu().numpy(), found.from_beam.cpu().numpy()
            for head in heads:
                scores, member = (each.cpu().numpy() for each in _part(found, head, path.dense_weight))
                for place, row in enumerate(rows):
                    own = member[place]
                    answer = select(
                        items[place][own],
                        scores[place][own],
                        ["beam" if each else "dense" for each in from_beam[place][own]],
                        rules,
                        k,
                        requests[place].history,
                    )
                    size = len(answer.items)
                    lists[head][row, :size] = answer.items
                    beam[head][row, :size] = [source == "beam" for source in answer.sources]
        return {
            head: Answer(
                target_ranks(lists[head], cases.targets),
                float(beam[head].sum() / max(1, int((lists[head] != PAD).sum()))),
            )
            for head in heads
        }

    return judge


def _part(found: Candidates, head: str, dense_weight: float) -> tuple[Tensor, Tensor]:
    """Scores [B, M] by which ``head`` ranks, and [B, M] which candidates are its own."""
    exists = found.items >= 0
    if head == SERVED:
        return fused(found, dense_weight), exists
    if head == "beam":
        return fused(found, dense_weight), exists & found.from_beam
    if head == "code":
        return found.code, exists & found.from_beam
    return found.dense, exists & found.from_dense
