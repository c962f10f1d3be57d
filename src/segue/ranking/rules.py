"""What can be said about one item alone: the rules of a request as one mask over the items."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from segue.errors import DataError
from segue.paths import ListRules, Request

BoolArray = npt.NDArray[np.bool_]


def allowed_mask(rules: ListRules, request: Request, n_items: int) -> BoolArray:
    """[N] bool: the items that ``request`` may be shown.

    What recall filters by and what a trie view is cut to. Seen items are those of ``request.history``. Raises
    DataError where ``rules.allowed`` is not a mask over the ``n_items`` items, or an excluded or seen item is
    none of them.
    """
    if rules.allowed is None:
        mask = np.ones(n_items, dtype=bool)
    else:
        check_allowed(rules, n_items)
        mask = rules.allowed.astype(bool, copy=True)
    if rules.excluded is not None:
        mask[checked_items(rules.excluded, n_items, "excluded")] = False
    if rules.filter_seen:
        mask[checked_items(request.history, n_items, "history")] = False
    return mask


def check_allowed(rules: ListRules, n_items: int) -> None:
    """Raises DataError where ``rules.allowed`` is given and is no mask of ``n_items`` entries."""
    if rules.allowed is not None and rules.allowed.shape != (n_items,):
        raise DataError(
            f"rules.allowed has shape {rules.allowed.shape}, and there are {n_items} items: "
            "give one entry per item"
        )


def hidden_items(rules: ListRules, seen: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Sorted items that this request alone must not show: the excluded, and the seen where those are
    filtered.
    """
    parts = [np.asarray(seen, dtype=np.int64)] if rules.filter_seen else []
    if rules.excluded is not None:
        parts.append(np.asarray(rules.excluded, dtype=np.int64))
    return np.unique(np.concatenate(parts)) if parts else np.empty(0, dtype=np.int64)


def checked_items(items: npt.NDArray[np.integer], n_items: int, name: str) -> npt.NDArray[np.int64]:
    """``items`` as int64. Raises DataError naming ``name`` for an index that none of the ``n_items`` has."""
    indices = np.asarray(items, dtype=np.int64)
    wrong = indices[(indices < 0) | (indices >= n_items)]
    if wrong.size:
        raise DataError(f"{name} names item index {wrong[0]}, and the {n_items} items are 0 … {n_items - 1}")
    return indices
