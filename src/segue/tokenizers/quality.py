"""How good semantic IDs are, before anything is trained on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segue.tokenizers.agreement import by_chance, neighbour_agreement_by_depth, prefix_groups
from segue.tokenizers.codebook import Codebook
from segue.tokenizers.placement import prefix_keys
from segue.tokenizers.registry import Codes, load_tokenizer
from segue.tokenizers.settings import TokenizerSettings

_MIN_HELD_OUT = 10


def codes_quality(
    codebook: Codebook, vectors: npt.NDArray[np.float32], codes: Codes, *, neighbours: int, seed: int
) -> dict[str, Any]:
    """The report on ``codes``: prefixes [N, L - 1], or whole IDs [N, L], of fused vectors [N, d].

    ``unique_rate``: different prefixes / items. ``unique_item_rate``: share of the items whose prefix is theirs
    alone. ``collisions``: items that share their prefix with another. ``excess_collisions``: items − different
    prefixes, those that only the last level tells from an item before them. ``levels``: codes in use and dead ones,
    entropy in bits, perplexity, and perplexity / level size. ``reconstruction_error``: Σ‖x − x̂‖² / Σ‖x‖²;
    ``by_depth``: after 1, 2, … codes (:func:`reconstruction_error_by_depth`). ``neighbour_agreement``: of an item's
    nearest items in the fused space, the share with the same first code; ``by_depth``: with the same first 1, 2, …
    codes; ``by_chance`` is what random neighbours would give.
    """
    prefixes = codes[:, : len(codebook.level_sizes) - 1]
    _, sizes = np.unique(prefix_keys(prefixes, codebook.level_sizes), return_counts=True)
    counts, occurrences = np.unique(sizes, return_counts=True)
    count = len(codes)
    groups = prefix_groups(prefixes)
    reconstructed = codebook.reconstruct(codes)
    agreement = [_figure(one) for one in neighbour_agreement_by_depth(vectors, groups, neighbours, seed)]
    chance = [_figure(one) for one in by_chance(groups)]
    return {
        "items": count,
        "unique_rate": _figure(len(sizes) / max(count, 1)),
        "unique_item_rate": _figure(float((sizes == 1).sum()) / max(count, 1)),
        "collisions": int(sizes[sizes > 1].sum()),
        "excess_collisions": count - len(sizes),
        "prefixes_in_use": len(sizes),
        "full_prefixes": int((sizes >= codebook.room_per_prefix).sum()),
        "largest_prefix": int(sizes.max(initial=0)),
        "items_per_prefix": {str(size): int(times) for size, times in zip(counts, occurrences, strict=True)},
        "levels": [_level(codes[:, level], codebook.level_sizes[level]) for level in range(codes.shape[1])],
        "reconstruction_error": _figure(reconstruction_error(vectors, reconstructed)),
        "reconstruction_error_by_depth": [
            _figure(one) for one in reconstruction_error_by_depth(vectors, reconstructed, groups)
        ],
        "neighbours": neighbours,
        "neighbour_agreement": agreement[0],
        "neighbour_agreement_by_chance": chance[0],
        "neighbour_agreement_by_depth": agreement,
        "neighbour_agreement_by_depth_by_chance": chance,
    }


def quality_metrics(quality: Mapping[str, Any]) -> dict[str, float]:
    """The single figures of a report of :func:`codes_quality`, by name, for whoever lists metrics."""
    names = (
        "unique_rate",
        "unique_item_rate",
        "collisions",
        "excess_collisions",
        "full_prefixes",
        "largest_prefix",
        "reconstruction_error",
        "neighbour_agreement",
        "neighbour_agreement_by_chance",
    )
    metrics = {name: quality[name] for name in names}
    for number, level in enumerate(quality["levels"], start=1):
        for name in ("usage", "entropy_bits", "perplexity", "dead"):
            metrics[f"level_{number}_{name}"] = level[name]
    for name in ("reconstruction_error", "neighbour_agreement"):
        for depth, value in enumerate(quality[f"{name}_by_depth"], start=1):
            metrics[f"{name}_depth_{depth}"] = value
    return metrics


def reconstruction_error(vectors: npt.NDArray[np.float32], reconstructed: npt.NDArray[np.float64]) -> float:
    """Σ‖x − x̂‖² / Σ‖x‖² of fused vectors [N, d]: 0 is perfect, 1 is as good as the mean of the codebook's
    items, which is the origin of the fused space. 0 where all vectors lie there.
    """
    wide = vectors.astype(np.float64)
    spread = float((wide**2).sum())
    return float(((wide - reconstructed) ** 2).sum()) / spread if spread > 0 else 0.0


def reconstruction_error_by_depth(
    vectors: npt.NDArray[np.float32],
    reconstructed: npt.NDArray[np.float64],
    groups: npt.NDArray[np.int64],
) -> list[float]:
    """The reconstruction error after the first 1, 2, … P codes, of ``groups`` [N, P] as :func:`prefix_groups` makes
    them: the first d codes stand for the mean reconstruction of the items that begin with them.

    That is a definition for every tokenizer, whether its levels add up (residual k-means) or stand side by side
    (product quantization); with all P codes it is :func:`reconstruction_error`.
    """
    errors = []
    for depth in range(groups.shape[1]):
        of_item = groups[:, depth]
        sizes = np.bincount(of_item)
        means = np.zeros((len(sizes), reconstructed.shape[1]))
        np.add.at(means, of_item, reconstructed)
        errors.append(reconstruction_error(vectors, (means / np.maximum(sizes, 1)[:, None])[of_item]))
    return errors


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
    return neighbour_agreement_by_depth(vectors, first_codes[:, None], neighbours, seed)[0]


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
        "dead": int((usage == 0).sum()),
        "usage": _figure(float((usage > 0).mean())),
        "entropy_bits": _figure(entropy),
        "perplexity": _figure(2.0**entropy),
        "relative_perplexity": _figure(2.0**entropy / size),
    }


def _figure(value: float) -> float:
    """Rounded where the last bits would differ between machines."""
    return round(float(value), 6) + 0.0
