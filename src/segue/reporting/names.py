"""What contenders and slices are called on pages, in the order in which they are shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

Value = TypeVar("Value")

CONTENDERS = {
    "popularity": "Popularity",
    "item_knn": "Item-to-item CF",
    "two_tower": "Two-tower",
    "sasrec": "SASRec",
    "cascade": "Cascade",
    "recall_route": "Cascade with generated candidates",
    "rerank": "Cascade, reranked by the generative model",
    "blended": "Cascade and generative, blended",
    "generative": "Generative",
    "replaced": "Generative, the model it replaces",
    "generative_code": "Generative, code head alone",
    "generative_dense": "Generative, dense head alone",
}

SLICES = {
    "all": ("All regular users", "the overall figures"),
    "new_users": ("New users", "nothing of them was trained on; not part of the overall figures"),
    "long_tail": ("Long tail", "the next item is an unpopular one"),
    "short_history": ("Short histories", "little is known of the user"),
    "new_items": ("New items", "nobody has the next item in the training data"),
    "no_history": ("No history", "the first event of users of whom nothing was trained on"),
    "one_event": ("One event", "the second event of such users, after the first"),
}


def ordered(found: Mapping[str, Value], order: Iterable[str]) -> dict[str, Value]:
    """``found`` in the order of ``order``; what that does not name comes last, by name."""
    rank = {name: number for number, name in enumerate(order)}
    return dict(sorted(found.items(), key=lambda entry: (rank.get(entry[0], len(rank)), entry[0])))
