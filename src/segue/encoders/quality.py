"""How good the items' content is, modality by modality, before any code is made of it.

Two contents are *the same* where their bytes are (a text, a picture's file, a row of attributes). Contents
that are not the same are *near duplicates* where their vectors' cosine, or for pictures the Hamming distance
of their difference hashes, passes a threshold.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from segue.data.images import NoFile
from segue.encoders.settings import ContentQualitySettings
from segue.items import ItemVectors

Floats = npt.NDArray[np.float32]

COSINE_EDGES: Final = tuple(
    round(0.05 * step, 2) for step in range(21)
)  # the first bin takes what is below 0
TEXT_EDGES: Final = (0, 10, 20, 40, 80, 160, 320, 640, 1280, 2560)  # characters; the last bin is open
SIDE_EDGES: Final = (0, 32, 64, 128, 256, 512, 1024, 2048)  # pixels of the shorter side; the last bin is open


@dataclass(frozen=True, slots=True)
class Nearest:
    """Of each content looked at, the most similar other content."""

    row: npt.NDArray[np.int64]  # [Q] the content
    other: npt.NDArray[np.int64]  # [Q]
    value: npt.NDArray[np.float64]  # [Q] cosine, or bits that differ


def content_quality(
    modalities: Mapping[str, ItemVectors],
    *,
    texts: Sequence[str],
    pictures: pl.DataFrame,
    settings: ContentQualitySettings,
    seed: int,
) -> dict[str, Any]:
    """The report. ``texts`` [N] and ``pictures`` [N rows] (as the step image_embeddings writes them) are
    aligned with the modalities' items."""
    ids = next(iter(modalities.values())).item_ids
    contents = {name: _row_keys(vectors) for name, vectors in modalities.items()}
    contents["text"] = [text or None for text in texts]
    contents["image"] = pictures["sha256"].to_list()
    report: dict[str, Any] = {}
    for name, vectors in sorted(modalities.items()):
        groups = _groups(contents[name], vectors.present)
        report[name] = {
            "items": int(vectors.present.sum()),
            "coverage": _share(int(vectors.present.sum()), len(ids)),
            "dimensions": int(vectors.vectors.shape[1]),
            "duplicates": _duplicates(groups, ids, settings),
            "near_duplicates": _near(vectors, groups, ids, settings, seed),
        }
    if "text" in report:
        report["text"] |= _lengths(texts, settings)
    if "image" in report:
        report["image"] |= _files(pictures, settings) | {
            "same_picture": _same_picture(pictures, settings, seed)
        }
    findings = _findings(report, len(ids), settings)
    present = np.stack([vectors.present for vectors in modalities.values()])
    nothing: npt.NDArray[np.bool_] = present.sum(axis=0) == 0
    return {
        "items": len(ids),
        "modalities": report,
        "modalities_per_item": {
            str(count): int(times) for count, times in sorted(Counter(present.sum(axis=0).tolist()).items())
        },
        "without_content": _examples(ids, nothing, settings),
        "findings": findings,
        "thresholds": settings.model_dump(mode="json"),
    }


def nearest_by_cosine(vectors: Floats, queries: npt.NDArray[np.int64]) -> Nearest:
    """Exact, by FAISS on one thread. ``vectors`` [M, D] are unit vectors."""
    import faiss

    index = faiss.IndexFlatIP(vectors.shape[1])
    with _one_thread():
        index.add(vectors)
        values, found = index.search(vectors[queries], 2)
    return _without_self(queries, found, values.astype(np.float64))


def nearest_by_bits(hashes: Sequence[str], queries: npt.NDArray[np.int64]) -> Nearest:
    """Of 64-bit hashes in hexadecimal digits, the one that differs in the fewest bits."""
    import faiss

    codes = np.frombuffer(bytes.fromhex("".join(hashes)), dtype=np.uint8).reshape(len(hashes), 8)
    index = faiss.IndexBinaryFlat(64)
    with _one_thread():
        index.add(codes)
        values, found = index.search(codes[queries], 2)
    return _without_self(queries, found, values.astype(np.float64))


def _without_self(
    queries: npt.NDArray[np.int64], found: npt.NDArray[np.int64], values: npt.NDArray[np.float64]
) -> Nearest:
    """Of the two nearest, the one that is not the query. With many equal ones the query may be neither."""
    rows = np.arange(len(queries))
    column = np.where(found[:, 0] == queries, 1, 0)
    return Nearest(queries, found[rows, column].astype(np.int64), values[rows, column])


def _row_keys(vectors: ItemVectors) -> list[str | None]:
    return [
        hashlib.sha256(row.tobytes()).hexdigest() if there else None
        for row, there in zip(np.ascontiguousarray(vectors.vectors), vectors.present, strict=True)
    ]


def _groups(keys: Sequence[str | None], present: npt.NDArray[np.bool_]) -> dict[str, list[int]]:
    """Rows by content, of those that are present."""
    groups: dict[str, list[int]] = defaultdict(list)
    for row, (key, there) in enumerate(zip(keys, present, strict=True)):
        if there and key is not None:
            groups[key].append(row)
    return dict(groups)


def _duplicates(
    groups: Mapping[str, list[int]], ids: Sequence[str], settings: ContentQualitySettings
) -> dict[str, Any]:
    """Items that share their content with another."""
    shared = sorted(
        (rows for rows in groups.values() if len(rows) > 1), key=lambda rows: (-len(rows), rows[0])
    )
    count = sum(map(len, shared))
    return {
        "groups": len(shared),
        "items": count,
        "share": _share(count, sum(map(len, groups.values()))),
        "largest": [[ids[row] for row in rows[:10]] for rows in shared[: settings.examples]],
    }


def _near(
    vectors: ItemVectors,
    groups: Mapping[str, list[int]],
    ids: Sequence[str],
    settings: ContentQualitySettings,
    seed: int,
) -> dict[str, Any]:
    first = np.array([rows[0] for rows in groups.values()], dtype=np.int64)
    if len(first) < 2:
        return _pairs(None, settings.near_duplicate_cosine, [], settings) | {"nearest_cosine": None}
    queries = _queries(len(first), settings.max_queries, seed)
    found = nearest_by_cosine(np.ascontiguousarray(vectors.vectors[first], dtype=np.float32), queries)
    near = found.value >= settings.near_duplicate_cosine
    order = np.lexsort((found.row, -found.value))
    named = [
        (ids[first[found.row[at]]], ids[first[found.other[at]]], round(float(found.value[at]), 4))
        for at in order
        if near[at]
    ]
    counts, _ = np.histogram(np.clip(found.value, 0, 1), bins=COSINE_EDGES)
    return _pairs(near, settings.near_duplicate_cosine, named, settings) | {
        "nearest_cosine": {"edges": list(COSINE_EDGES), "counts": counts.tolist()}
    }


def _same_picture(pictures: pl.DataFrame, settings: ContentQualitySettings, seed: int) -> dict[str, Any]:
    """Pictures in other bytes (another size, another compression): by difference hash, without any model."""
    usable = pictures.filter(pl.col("reason").is_null()).unique("sha256", keep="first", maintain_order=True)
    if usable.height < 2:
        return _pairs(None, settings.near_duplicate_bits, [], settings)
    queries = _queries(usable.height, settings.max_queries, seed)
    found = nearest_by_bits(usable["dhash"].to_list(), queries)
    near = found.value <= settings.near_duplicate_bits
    ids = usable["item_id"].to_list()
    order = np.lexsort((found.row, found.value))
    named = [(ids[found.row[at]], ids[found.other[at]], int(found.value[at])) for at in order if near[at]]
    return _pairs(near, settings.near_duplicate_bits, named, settings)


def _pairs(
    near: npt.NDArray[np.bool_] | None,
    threshold: float,
    named: Sequence[tuple[str, str, float]],
    settings: ContentQualitySettings,
) -> dict[str, Any]:
    """``named`` holds a pair once from either side; it is shown once."""
    once = {tuple(sorted(pair[:2])): pair for pair in reversed(named)}
    shown = [list(pair) for pair in named if once[tuple(sorted(pair[:2]))] == pair]
    return {
        "threshold": threshold,
        "looked_at": 0 if near is None else len(near),
        "contents": 0 if near is None else int(near.sum()),
        "share": 0.0 if near is None else _share(int(near.sum()), len(near)),
        "nearest": shown[: settings.examples],
    }


def _lengths(texts: Sequence[str], settings: ContentQualitySettings) -> dict[str, Any]:
    lengths = np.array([len(text) for text in texts if text], dtype=np.int64)
    counts, _ = np.histogram(lengths, bins=[*TEXT_EDGES, np.iinfo(np.int64).max])
    quantiles = np.quantile(lengths, (0.05, 0.5, 0.95)).tolist() if len(lengths) else [0.0, 0.0, 0.0]
    return {
        "empty": len(texts) - len(lengths),
        "short": int((lengths < settings.short_text).sum()),
        "characters": {
            "quantiles": dict(zip(("0.05", "0.5", "0.95"), quantiles, strict=True)),
            "edges": list(TEXT_EDGES),
            "counts": counts.tolist(),
        },
    }


def _files(pictures: pl.DataFrame, settings: ContentQualitySettings) -> dict[str, Any]:
    there = pictures.filter(pl.col("sha256").is_not_null())
    usable = there.filter(pl.col("reason").is_null())
    sides = usable.select(pl.min_horizontal("width", "height")).to_series().to_numpy()
    counts, _ = np.histogram(sides, bins=[*SIDE_EDGES, np.iinfo(np.int64).max])
    without = pictures.filter(pl.col("reason").is_not_null())
    reasons = dict(sorted(Counter(without["reason"]).items()))
    unusable = there.height - usable.height + reasons.get(NoFile.UNREADABLE.value, 0)
    return {
        "files": there.height,
        "unusable": unusable,
        "unusable_share": _share(unusable, there.height + reasons.get(NoFile.UNREADABLE.value, 0)),
        "reasons": {
            reason: {
                "items": count,
                "examples": without.filter(pl.col("reason") == reason)["item_id"]
                .head(settings.examples)
                .to_list(),
            }
            for reason, count in reasons.items()
        },
        "formats": dict(sorted(Counter(usable["format"]).items())),
        "modes": dict(sorted(Counter(usable["mode"]).items())),
        "shorter_side": {"edges": list(SIDE_EDGES), "counts": counts.tolist()},
    }


def _findings(
    report: Mapping[str, Any], items: int, settings: ContentQualitySettings
) -> list[dict[str, str]]:
    """What somebody should look at; none of it stops anything."""
    found: list[dict[str, str]] = []

    def add(modality: str, finding: str, told: str) -> None:
        found.append({"modality": modality, "finding": finding, "told": told})

    for name, entry in report.items():
        if not entry["items"]:
            continue  # a modality that the dataset does not have is no fault
        if entry["coverage"] < settings.min_coverage:
            add(
                name,
                "coverage",
                f"{entry['items']} of {items} items ({entry['coverage']:.1%}) have it, less than "
                f"{settings.min_coverage:.0%}",
            )
        share = entry["duplicates"]["share"]
        if name in ("text", "image") and share > settings.max_duplicate_share:
            add(
                name,
                "duplicates",
                f"{entry['duplicates']['items']} items ({share:.1%}) share their {name} with another, more than "
                f"{settings.max_duplicate_share:.0%}",
            )
    image = report.get("image")
    if image is not None and image["unusable_share"] > settings.max_unusable_image_share:
        add(
            "image",
            "unusable",
            f"{image['unusable']} picture files ({image['unusable_share']:.1%}) are of no use, more than "
            f"{settings.max_unusable_image_share:.0%}",
        )
    return found


def _queries(count: int, most: int, seed: int) -> npt.NDArray[np.int64]:
    if count <= most:
        return np.arange(count, dtype=np.int64)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False)).astype(np.int64)


def _examples(
    ids: Sequence[str], chosen: npt.NDArray[np.bool_], settings: ContentQualitySettings
) -> dict[str, Any]:
    rows = np.flatnonzero(chosen)
    return {"items": len(rows), "examples": [ids[row] for row in rows[: settings.examples]]}


def _share(part: int, whole: int) -> float:
    return round(part / whole, 6) if whole else 0.0


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums in the same order on every run."""
    import faiss
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        with threadpool_limits(limits=1):
            yield
    finally:
        faiss.omp_set_num_threads(threads)
