"""How many more items the prefixes can take."""

from __future__ import annotations

from typing import Any

import numpy as np

from segue.tokenizers.codebook import Codebook
from segue.tokenizers.item_map import ItemMap


def room_report(codebook: Codebook, item_map: ItemMap) -> dict[str, Any]:
    """``prefixes_by_free``: how many prefixes in use can take 0, 1, … more items. ``least``, ``median``, ``most``: of
    the prefixes in use. ``in_use``: what they can take together; ``in_all``: with the prefixes that nothing uses yet.

    Retired items count as taken, for their codes are never given out again.
    """
    free = item_map.room()["free"].to_numpy()
    if not len(free):
        return {
            "prefixes_by_free": {},
            "least": None,
            "median": None,
            "most": None,
            "in_use": 0,
            "in_all": codebook.capacity,
        }
    sizes, counts = np.unique(free, return_counts=True)
    return {
        "prefixes_by_free": {str(size): int(count) for size, count in zip(sizes, counts, strict=True)},
        "least": int(free.min()),
        "median": float(np.median(free)),
        "most": int(free.max()),
        "in_use": int(free.sum()),
        "in_all": codebook.capacity - len(item_map.item_ids),
    }
