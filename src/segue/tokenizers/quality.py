"""How good semantic IDs are, before anything is trained on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segue.tokenizers.codebook import Codebook
from segue.tokenizers.placement import prefix_keys
from segue.tokenizers.registry import Codes, load_tokenizer
from segue.tokenizers.settings import TokenizerSettings

MAX_QUERIES = 2000  # items whose neighbours are looked at; more are sampled (seeded)
_CHUNK = 256
_MIN_HELD_OUT = 10


def codes_quality(
    codebook: Codebook, vectors: npt.NDArray[np.float32], codes: Codes, *, neighbours: int, seed: int
) -> dict[str, Any]:
    """The report on ``codes``: prefixes [N, L - 1], or whole IDs [N, L], of fused vectors [N, d].

    ``unique_rate``: different prefixes / items. ``collisions``: items that share their prefix with another.
    ``levels``: codes in use, entropy in bits, perplexity, and perplexity / level size.
    ``reconstruction_error``: Σ‖x − x̂‖² / Σ‖x‖². ``neighbour_agreement``: of an item's nearest items in
    the fused space, the share with the same first code; ``by_chance`` is what random neighbours would give.
    """
    prefixes = codes[:, : len(codebook.level_sizes) - 1]
    _, sizes = np.unique(prefix_keys(prefixes, codebook.level_sizes), return_counts=True)
    counts, occurrences = np.unique(sizes, return_counts=True)
    count = len(codes)
    first = np.bincount(codes[:, 0]) / max(count, 1)
    return {
        "items": count,
        "unique_rate": _figure(len(sizes) / max(count, 1)),
        "collisions": int(sizes[sizes > 1].sum()),
        "prefixes_in_use": len(sizes),
        "full_prefixes": int((sizes >= codebook.room_per_prefix).sum()),
        "largest_prefix": int(sizes.max(initial=0)),
        "items_per_prefix": {str(size): int(times) for size, times in zip(counts, occurrences, strict=True)},
        "levels": [_level(codes[:, level], codebook.level_sizes[level]) for level in range(codes.shape[1])],
        "reconstruction_error": _figure(reconstruction_error(vectors, codebook.reconstruct(codes))),
        "neighbours": neighbours,
        "neighbour_agreement": _figure(neighbour_agreement(vectors, codes[:, 0], neighbours, seed)),
        "neighbour_agreement_by_chance": _figure(float((first**2).sum())),
    }


def reconstruction_error(vectors: npt.NDArray[np.float32], reconstructed: npt.NDArray[np.float64]) -> float:
    """Σ‖x − x̂‖² / Σ‖x‖² of fused vectors [N, d]: 0 is perfect, 1 is as good as the mean of the codebook's
    items, which is the origin of the fused space. 0 where all vectors lie there.
    """
    wide = vectors.astype(np.float64)
    spread = float((wide**2).sum())
    return float(((wide - reconstructed) ** 2).sum()) / spread if spread > 0 else 0.0


def heldout_error(vectors: npt.NDArray[np.float32], settings: TokenizerSettings) -> float | None:
    """The reconstruction error of items that the quantizers have not seen: what a codebook made in the same
    way on a seeded 80 % of the items does to the other 20 %. It is what inserted items are fairly compared
    with, for k-means fits its own items better than any others. None where there are too few different items
    to tell.
    """
    order = np.random.default_rng(settings.seed).permutation(len(vectors))
    held, rest = order[: len(order) // 5], order[len(order) // 5 :]
    if len(held) < _MIN_HELD_OUT or bool((vectors[rest] == vectors[rest[0]]).all()):
        return None
    fitted = load_tokenizer(settings.name).fit(vectors[rest], settings)
    return _figure(reconstruction_error(vectors[held], fitted.reconstruct(fitted.encode(vectors[held]))))


def neighbour_agreement(
    vectors: npt.NDArray[np.float32], first_codes: npt.NDArray[np.int64], neighbours: int, seed: int
) -> float:
    """Mean share of the ``neighbours`` nearest other items (Euclidean, exact) that share the item's first
    code."""
    count = len(vectors)
    k = min(neighbours, count - 1)
    if k < 1:
        return 0.0
    queries = np.arange(count)
    if count > MAX_QUERIES:
        queries = np.sort(np.random.default_rng(seed).choice(count, MAX_QUERIES, replace=False))
    wide = vectors.astype(np.float64)
    norms = (wide**2).sum(axis=1)
    shares = []
    for low in range(0, len(queries), _CHUNK):
        rows = queries[low : low + _CHUNK]
        squared = norms[None, :] - 2.0 * wide[rows] @ wide.T
        squared[np.arange(len(rows)), rows] = np.inf
        nearest = np.argpartition(squared, k - 1, axis=1)[:, :k]
        shares.append((first_codes[nearest] == first_codes[rows][:, None]).mean(axis=1))
    return float(np.concatenate(shares).mean())


def plot_usage(codes: Codes, level_sizes: Sequence[int], path: Path) -> None:
    """A PNG with one panel a level: how many items each code has, codes sorted by use."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.0 * codes.shape[1], 3.0), layout="constrained")
    for level, axes in enumerate(figure.subplots(1, codes.shape[1], squeeze=False)[0]):
        usage = np.sort(np.bincount(codes[:, level], minlength=level_sizes[level]))[::-1]
        axes.bar(np.arange(len(usage)), usage, width=1.0)
        axes.axhline(len(codes) / level_sizes[level], color="grey", linestyle="--", linewidth=1)
        used = int((usage > 0).sum())
        axes.set_title(f"level {level + 1}: {used} of {level_sizes[level]} codes in use")
        axes.set_xlabel("codes, most used first")
        axes.set_ylabel("items")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, metadata={"Software": None})


def _level(codes: npt.NDArray[np.int64], size: int) -> dict[str, Any]:
    usage = np.bincount(codes, minlength=size)
    shares = usage[usage > 0] / max(usage.sum(), 1)
    entropy = float(-(shares * np.log2(shares)).sum())
    return {
        "size": size,
        "in_use": int((usage > 0).sum()),
        "usage": _figure(float((usage > 0).mean())),
        "entropy_bits": _figure(entropy),
        "perplexity": _figure(2.0**entropy),
        "relative_perplexity": _figure(2.0**entropy / size),
    }


def _figure(value: float) -> float:
    """Rounded where the last bits would differ between machines."""
    return round(float(value), 6) + 0.0
