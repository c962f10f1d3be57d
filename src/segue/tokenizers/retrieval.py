"""Items by text and by picture: queries in the space that the items' own vectors live in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from segue.items import ItemVectors
from segue.tokenizers.alignment import Alignment, Pairs
from segue.tokenizers.fusion import select
from segue.tokenizers.settings import TokenizerSettings

HELD_OUT = 0.1  # of the items that have the modality
MOST_QUERIES = 2_000  # held out; more would say nothing new
_BLOCK = 256  # queries that are compared with the catalogue at a time
QUERYABLE = ("text", "image")  # what a person can ask with


def nearest(
    query: npt.NDArray[np.float32], vectors: npt.NDArray[np.float32], allowed: npt.NDArray[np.bool_], k: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Rows of the ``k`` vectors [N, d] of largest cosine with ``query`` [d], and the cosines; ties by row.

    Only rows that are ``allowed`` [N] and not zero are found.
    """
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    rows = np.flatnonzero(allowed & (lengths > 0))
    cosines = (vectors[rows].astype(np.float64) @ query.astype(np.float64)) / lengths[rows]
    cosines /= max(float(np.linalg.norm(query)), 1e-12)
    best = np.lexsort((rows, -cosines))[:k]
    return rows[best], cosines[best]


def cross_modal_recall(
    modalities: Mapping[str, ItemVectors],
    pairs: Pairs,
    settings: TokenizerSettings,
    k: int = 10,
) -> dict[str, dict[str, Any]]:
    """How well a text (a picture) finds its own item, for items that the alignment never saw.

    For each queryable modality an alignment is fitted without a seeded tenth of the items that have it and something
    else besides. Then every item of the catalogue is represented *without* that modality, and each held-out item's own
    text (picture) is the query: recall@k is the share that is found among the first k of all items, beside what chance
    would find. Modalities with fewer than ten such items are left out.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in QUERYABLE:
        if name not in modalities or not settings.modality_weights.get(name):
            continue
        others = [each.present for other, each in modalities.items() if other != name]
        if not others:
            continue
        eligible = np.flatnonzero(modalities[name].present & np.logical_or.reduce(others))
        count = min(MOST_QUERIES, int(HELD_OUT * len(eligible)))
        if not count:
            continue
        held = np.random.default_rng(settings.seed).permutation(eligible)[:count]
        seen = np.setdiff1d(np.arange(len(modalities[name].present)), held)
        place = np.full(len(modalities[name].present), -1, dtype=np.int64)
        place[seen] = np.arange(len(seen))
        inside = place[pairs]
        alignment = Alignment.fit(
            {other: select(each, seen) for other, each in modalities.items()},
            settings.modality_weights,
            settings.dimensions,
            pairs=inside[(inside >= 0).all(axis=1)],
            settings=settings.alignment,
            seed=settings.seed,
        )
        if name not in alignment.modalities:
            continue
        blind = {
            other: each if other != name else _absent(each)
            for other, each in modalities.items()
            if other in alignment.modalities
        }
        vectors, known = alignment.fuse(blind)
        queries = alignment.project(name, select(modalities[name], held))
        ranks = np.concatenate(
            [
                _ranks(queries[low : low + _BLOCK], vectors, known, held[low : low + _BLOCK])
                for low in range(0, count, _BLOCK)
            ]
        )
        found[name] = {
            "k": k,
            "queries": count,
            "candidates": int(known.sum()),
            "recall": float((ranks < k).mean()),
            "by_chance": min(1.0, k / max(1, int(known.sum()))),
        }
    return found


def _ranks(
    queries: npt.NDArray[np.float32],
    vectors: npt.NDArray[np.float32],
    known: npt.NDArray[np.bool_],
    own: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """From 0. Ties count against the item: a space in which all are alike finds nothing."""
    scores = np.where(known, queries @ vectors.T, -np.inf)
    ranks: npt.NDArray[np.int64] = (scores >= scores[np.arange(len(own)), own][:, None]).sum(axis=1) - 1
    return ranks


def _absent(vectors: ItemVectors) -> ItemVectors:
    return ItemVectors(
        vectors=np.zeros_like(vectors.vectors),
        present=np.zeros_like(vectors.present),
        item_ids=vectors.item_ids,
    )
