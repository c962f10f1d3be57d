"""Metrics of ranked lists: one family a function, one value a user, no loop over users.

A set of lists is an array ``lists [U, K]`` of item indices, best first, padded with :data:`PAD` where a
list is shorter. Everything here returns ``float64 [U]`` unless it says otherwise, so that the bootstrap can
resample users. NaN means *not defined for this user* (an empty list has no diversity), never zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from segue.paths import IndexArray

PAD = -1

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def relevance(lists: IndexArray, targets: IndexArray | Sequence[IndexArray]) -> tuple[Mask, IndexArray]:
    """Which positions hold a target, and how many targets each user has.

    ``targets``: ``[U]``, one item a user, or a sequence of U arrays of distinct items. Returns (``bool [U,
    K]``, ``int64 [U]``). Raises ValueError where the numbers of users differ.
    """
    if len(targets) != len(lists):
        raise ValueError(f"{len(lists)} lists, but targets of {len(targets)} users")
    if isinstance(targets, np.ndarray) and targets.ndim == 1 and targets.dtype != object:
        return lists == targets[:, None], np.ones(len(lists), dtype=np.int64)
    counts = np.array([len(items) for items in targets], dtype=np.int64)
    flat = np.concatenate([np.asarray(items, dtype=np.int64) for items in targets] or [np.empty(0, np.int64)])
    return _pairs_in(lists, np.repeat(np.arange(len(lists)), counts), flat), counts


def target_ranks(lists: IndexArray, targets: IndexArray) -> IndexArray:
    """``int64 [U]``: the position of each user's one target, from 0; -1 where the list misses it."""
    hit, _ = relevance(lists, targets)
    return np.where(hit.any(axis=1), hit.argmax(axis=1), -1).astype(np.int64)


def recall(hit: Mask, target_counts: IndexArray, k: int) -> Floats:
    """Share of the user's targets among the first ``k``. With one target a user this is the hit rate."""
    return _ratio(hit[:, :k].sum(axis=1), target_counts)


def ndcg(hit: Mask, target_counts: IndexArray, k: int) -> Floats:
    """Normalised discounted cumulative gain: binary gains, discount ``1 / log2(rank + 1)``, ranks from 1.

    Järvelin & Kekäläinen 2002. The ideal list holds ``min(targets, k)`` targets at its head; with one
    target a user the value is ``1 / log2(rank + 1)``.
    """
    discounts = 1.0 / np.log2(np.arange(2, max(hit.shape[1], k) + 2))
    gained = hit[:, :k] @ discounts[: min(k, hit.shape[1])]
    ideal = np.concatenate([[0.0], np.cumsum(discounts)])[np.minimum(target_counts, k)]
    return _ratio(gained, ideal)


def mrr(hit: Mask, target_counts: IndexArray, k: int) -> Floats:
    """Reciprocal rank of the first target among the first ``k``, 0 where there is none."""
    head = hit[:, :k]
    found = np.where(head.any(axis=1), 1.0 / (head.argmax(axis=1) + 1.0), 0.0)
    return np.where(target_counts > 0, found, np.nan)


def coverage(lists: IndexArray, catalogue: int, k: int) -> float:
    """Share of the ``catalogue`` items in anybody's first ``k``: a figure of the set of lists, not of a user.

    It grows with the number of users: compare paths over the same users only.
    """
    head = lists[:, :k]
    return float(np.unique(head[head != PAD]).size / catalogue) if catalogue else float("nan")


def diversity(lists: IndexArray, vectors: npt.NDArray[np.floating], present: Mask, k: int) -> Floats:
    """Mean of ``1 - cosine`` over the pairs of the first ``k`` (intra-list distance, Ziegler et al. 2005).

    ``vectors [N, D]`` need no normalisation; items without one (``present [N]`` false) are left out. NaN
    with fewer than two items. For unit vectors the sum over pairs is ``(|sum v|^2 - m) / 2``: no pairs are
    formed.
    """
    norms = np.linalg.norm(vectors, axis=1)
    usable = present & (norms > 0)
    unit = np.divide(
        vectors, norms[:, None], out=np.zeros(vectors.shape, dtype=np.float64), where=usable[:, None]
    )
    inside, known = _inside(lists[:, :k], len(vectors))
    known &= usable[inside]
    size = known.sum(axis=1).astype(np.float64)
    total = np.zeros((len(lists), vectors.shape[1]))
    for column in range(inside.shape[1]):  # k columns of U users: no [U, k, D] array
        total += unit[inside[:, column]] * known[:, column, None]
    pairs = size * (size - 1)
    return _ratio(pairs - (np.einsum("ud,ud->u", total, total) - size), pairs)


def novelty(lists: IndexArray, audience: IndexArray, users: int, k: int) -> Floats:
    """Mean self-information ``-log2 p(item)`` of the first ``k``, in bits (Zhou et al. 2010).

    ``p(item) = (audience + 1) / (users + 1)``: the share of training users who have the item, with one
    imaginary user who has everything, so that an item nobody has is ``log2(users + 1)`` bits and not
    infinitely new.
    """
    information = -np.log2((np.minimum(audience, users) + 1.0) / (users + 1.0))
    inside, known = _inside(lists[:, :k], len(audience))
    return _ratio((information[inside] * known).sum(axis=1), known.sum(axis=1))


def share_of(lists: IndexArray, members: Mask, k: int) -> Floats:
    """Share of the first ``k`` that are ``members [N]``: the long tail, the new items."""
    inside, known = _inside(lists[:, :k], len(members))
    return _ratio((members[inside] & known).sum(axis=1), known.sum(axis=1))


def invalid_rate(lists: IndexArray, valid: Mask, seen: Sequence[IndexArray] | None = None) -> Floats:
    """Share of a list that must not be there: outside the catalogue, not ``valid [N]``, twice, or seen.

    ``seen``: each user's items, or None where seen items may be shown.
    """
    inside, known = _inside(lists, len(valid))
    bad = (lists != PAD) & ~(known & valid[inside])
    order = np.argsort(lists, axis=1, kind="stable")
    ranked = np.take_along_axis(lists, order, axis=1)
    again = np.zeros_like(bad)
    np.put_along_axis(again, order[:, 1:], (ranked[:, 1:] == ranked[:, :-1]) & (ranked[:, 1:] != PAD), axis=1)
    bad |= again
    if seen is not None:
        counts = np.array([len(items) for items in seen], dtype=np.int64)
        flat = np.concatenate(
            [np.asarray(items, dtype=np.int64) for items in seen] or [np.empty(0, np.int64)]
        )
        bad |= _pairs_in(lists, np.repeat(np.arange(len(lists)), counts), flat)
    return _ratio(bad.sum(axis=1), (lists != PAD).sum(axis=1))


def source_share(sources: npt.NDArray[np.integer], names: Sequence[str], source: str, k: int) -> Floats:
    """Share of the first ``k`` that ``source`` proposed, alone or with others (``"beam+dense"`` is both).

    ``sources [U, K]`` are positions in ``names``, PAD where the list ends.
    """
    proposed = np.array([source in name.split("+") for name in names] + [False])  # PAD = -1 reads the last
    head = sources[:, :k]
    return _ratio(proposed[head].sum(axis=1), (head != PAD).sum(axis=1))


def long_tail(train_counts: IndexArray, share: float) -> Mask:
    """``bool [N]``: the least popular ``share`` of the catalogue; equal counts are ordered by item index."""
    tail = np.zeros(len(train_counts), dtype=np.bool_)
    tail[np.argsort(train_counts, kind="stable")[: round(share * len(train_counts))]] = True
    return tail


def _ratio(above: npt.NDArray[np.generic], below: npt.NDArray[np.generic]) -> Floats:
    numerator, denominator = above.astype(np.float64), below.astype(np.float64)
    ratio: Floats = np.full(len(numerator), np.nan)
    np.divide(numerator, denominator, out=ratio, where=denominator > 0)
    return ratio


def _inside(lists: IndexArray, items: int) -> tuple[IndexArray, Mask]:
    """Indices that are safe to look up, and which of them are real."""
    known = (lists >= 0) & (lists < items)
    return np.where(known, lists, 0), known


def _pairs_in(lists: IndexArray, rows: IndexArray, items: IndexArray) -> Mask:
    """``bool [U, K]``: whether (user, item) is among the pairs (``rows``, ``items``)."""
    width = (
        int(max(lists.max(initial=0), items.max(initial=0))) + 2
    )  # + 2: room for PAD, which equals no item
    keys = np.arange(len(lists), dtype=np.int64)[:, None] * width + lists + 1
    return np.isin(keys, rows * width + items + 1)
