"""How much of one path's lists stands in another's: whether a refitted model is still the one that was judged.

What is evaluated never saw the test part; what is served was trained on everything. The second has no test
figures of its own, so its lists are held against those of the first.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from segue.data.sequences import Sequences
from segue.paths import ListRules, Path, Request


def full_histories(sequences: Sequences, users: int, seed: int) -> list[Request]:
    """Requests as serving would get them now: everything that ``users`` seeded users (at most) ever did."""
    chosen = np.sort(np.random.default_rng(seed).permutation(len(sequences))[:users])
    requests = []
    for user in chosen.tolist():
        items, timestamps = sequences.user(user)
        requests.append(
            Request(
                history=np.asarray(items, dtype=np.int64),
                timestamps=np.asarray(timestamps, dtype=np.int64),
                user_id=sequences.user_ids[user],
            )
        )
    return requests


def list_overlap(
    one: Path, other: Path, requests: Sequence[Request], rules: ListRules, k: int
) -> npt.NDArray[np.float64]:
    """[U] the share of the first ``k`` items that both paths' lists have in common, of the longer list.

    Two empty lists agree.
    """
    shares = np.empty(len(requests))
    both = zip(one.recommend(requests, k, rules), other.recommend(requests, k, rules), strict=True)
    for row, (left, right) in enumerate(both):
        longer = max(len(left.items), len(right.items))
        shares[row] = len(np.intersect1d(left.items, right.items)) / longer if longer else 1.0
    return shares
