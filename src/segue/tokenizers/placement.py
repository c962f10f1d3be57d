"""The last level: telling items with the same prefix apart, and finding room where a prefix is full.

Last codes are given out 0, 1, 2, … within a prefix and never taken back, so the state of a prefix is one
number: how many it has given out. What is placed is a function of the set of new items, never of their order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from segue.errors import DataError
from segue.tokenizers.codebook import Codebook
from segue.tokenizers.registry import Codes

Keys = npt.NDArray[np.int64]
SEARCH_WIDTH = 1024  # partial prefixes kept a level when room is sought; below it the search is exact

FIRST_CANDIDATES = 512  # looked at before all that the search finds


def prefix_keys(prefixes: Codes, level_sizes: Sequence[int]) -> Keys:
    """One integer a prefix [N, L - 1]: its codes as the digits of a number with the level sizes as
    radices."""
    keys = np.zeros(len(prefixes), dtype=np.int64)
    for level, size in enumerate(level_sizes[:-1]):
        keys = keys * size + prefixes[:, level]
    return keys


def given_out(codes: Codes, level_sizes: Sequence[int]) -> tuple[Keys, npt.NDArray[np.int64]]:
    """The prefixes in use, as sorted keys [P], and how many last codes each has given out [P]."""
    keys, inverse = np.unique(prefix_keys(codes, level_sizes), return_inverse=True)
    counts = np.zeros(len(keys), dtype=np.int64)
    np.maximum.at(counts, inverse, codes[:, -1] + 1)
    return keys, counts


def place(
    codebook: Codebook, vectors: npt.NDArray[np.float32], item_ids: Sequence[str], taken: Codes
) -> Codes:
    """Codes [N, L] for new items: vectors [N, d], with ``taken`` [M, L] all codes ever given out.

    An item gets the prefix that the codebook encodes it to. Within a prefix the last codes go by distance to
    what the prefix stands for, then by item id. Where that prefix is full, the item (again by distance, then
    id) gets the prefix with room whose reconstruction is nearest. A prefix is full when it has as many items as
    the codebook allows: its ``prefix_capacity``, or all codes of the last level. Raises DataError where the
    whole codebook is full.
    """
    size = codebook.room_per_prefix
    keys, counts = given_out(taken, codebook.level_sizes)
    free = codebook.capacity - int(counts.sum())
    if len(item_ids) > free:
        raise DataError(
            f"the codebook is full: level sizes {codebook.level_sizes} with {codebook.tokenizer.used_sizes} "
            f"codes in use{_allowed(codebook)} give {codebook.capacity} IDs, {free} are free, {len(item_ids)} items "
            f"need one; make tokenizer.level_sizes {_or_capacity(codebook)}larger and fit a new codebook "
            "(`segue keep --nothing`, then `segue run`)"
        )
    if not len(item_ids):
        return np.zeros((0, len(codebook.level_sizes)), dtype=np.int64)
    prefixes = codebook.encode(vectors)
    distances = ((vectors.astype(np.float64) - codebook.reconstruct(prefixes)) ** 2).sum(axis=1)
    wanted = prefix_keys(prefixes, codebook.level_sizes)
    order = np.lexsort((np.asarray(item_ids, dtype=np.str_), distances, wanted))

    sorted_keys = wanted[order]
    starts = np.flatnonzero(np.concatenate([[True], sorted_keys[1:] != sorted_keys[:-1]]))
    lengths = np.diff(np.concatenate([starts, [len(order)]]))
    rank = np.arange(len(order)) - np.repeat(starts, lengths)
    last = np.empty(len(order), dtype=np.int64)
    last[order] = rank + np.repeat(_lookup(keys, counts, sorted_keys[starts]), lengths)

    codes = np.concatenate([prefixes, last[:, None]], axis=1)
    overflow = np.flatnonzero(last >= size)
    if len(overflow):
        inside = last < size
        keys, counts = given_out(np.concatenate([taken, codes[inside]]), codebook.level_sizes)
        by_distance = np.lexsort((np.asarray(item_ids, dtype=np.str_)[overflow], distances[overflow]))
        state = dict(zip(keys.tolist(), counts.tolist(), strict=True))
        for row in overflow[by_distance].tolist():
            codes[row] = _nearest_with_room(codebook, vectors[row], state)
    return codes


def _lookup(keys: Keys, counts: npt.NDArray[np.int64], wanted: Keys) -> npt.NDArray[np.int64]:
    """The count of each wanted key; 0 for one that is not in use."""
    if not len(keys):
        return np.zeros(len(wanted), dtype=np.int64)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, counts[at], 0)


def _allowed(codebook: Codebook) -> str:
    return "" if codebook.prefix_capacity is None else f" and prefix_capacity {codebook.prefix_capacity}"


def _or_capacity(codebook: Codebook) -> str:
    return "" if codebook.prefix_capacity is None else "or tokenizer.prefix_capacity "


def _nearest_with_room(codebook: Codebook, vector: npt.NDArray[np.float32], state: dict[int, int]) -> Codes:
    """The code [L] of one item, marked as given out in ``state``."""
    size = codebook.room_per_prefix
    width = SEARCH_WIDTH
    most: int | None = FIRST_CANDIDATES
    while True:
        candidates = codebook.tokenizer.nearest_prefixes(vector, width, most)
        for candidate, key in enumerate(prefix_keys(candidates, codebook.level_sizes).tolist()):
            count = state.get(key, 0)
            if count < size:
                state[key] = count + 1
                return np.append(candidates[candidate], count)
        if most is not None:  # mostly the first few have room; sorting all of them would take longer
            most = None
            continue
        # Room exists (the caller counted), so a search that keeps everything ends here at the latest.
        width *= 8
