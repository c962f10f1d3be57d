"""How far the data is from what is kept: keep, retrain, or think of a new codebook."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

from segue.tokenizers.codebook import Codebook
from segue.tokenizers.item_map import ItemMap
from segue.tokenizers.quality import reconstruction_error
from segue.tokenizers.settings import DriftSettings

Verdict = Literal["keep", "retrain", "new_codebook", "nothing_kept"]


def nothing_kept(missing: list[str], settings: DriftSettings) -> dict[str, Any]:
    """The report where there is nothing to compare with."""
    return _report("nothing_kept", [f"nothing is kept of {', '.join(missing)}"], {}, settings)


def drift_report(
    *,
    codebook: Codebook,
    current: ItemMap,
    kept: ItemMap,
    trained_items: Collection[str],
    events: int,
    kept_events: int,
    heldout_error: float | None,
    settings: DriftSettings,
) -> dict[str, Any]:
    """What has changed, and what the thresholds say about it.

    ``trained_items`` and ``kept_events`` are of the data that the kept weights were trained on, however often new
    items were inserted since; ``kept`` is the newest item map. Too many new items or events since then: *retrain*.
    The codebook does not fit the items any more (too many that it was not made on, codes that describe them badly,
    prefixes without room): *new_codebook*, which outweighs the former. A figure that cannot be computed is null and
    decides nothing. Raises BindingError where the maps belong to another codebook.
    """
    kept.require_codebook(codebook)
    current.require_codebook(codebook)
    active = ~current.retired
    items = int(active.sum())
    was_active = {item for item, gone in zip(kept.item_ids, kept.retired, strict=True) if not gone}
    now_active = {item for item, is_active in zip(current.item_ids, active, strict=True) if is_active}
    new_items = now_active.difference(trained_items)
    inserted = active & (current.revision_added > 1)
    inserted_error = ratio = None
    if inserted.sum() >= max(settings.min_inserted_items, 1):
        # By the prefix that an item asks for, not the one that had room: full_prefix_share is about room.
        vectors = current.vectors[inserted]
        inserted_error = round(
            reconstruction_error(vectors, codebook.reconstruct(codebook.encode(vectors))), 6
        )
        ratio = round(inserted_error / heldout_error, 6) if heldout_error else None
    free = current.room()["free"]
    figures: dict[str, float | int | None] = {
        "items": items,
        "new_items": len(new_items),
        "retired_items": len(was_active - now_active),
        "inserted_items": int(inserted.sum()),
        "events": events,
        "new_events": max(events - kept_events, 0),
        "new_item_share": _share(len(new_items), items),
        "new_event_share": _share(max(events - kept_events, 0), events),
        "inserted_share": _share(int(inserted.sum()), items),
        "full_prefix_share": _share(int((free <= 0).sum()), len(free)),
        "inserted_error": inserted_error,
        "heldout_error": heldout_error,
        "distance_ratio": ratio,
    }
    retrain = _above(
        figures,
        "new_item_share",
        settings.max_new_item_share,
        "of the items are new since the weights were trained",
    )
    retrain += _above(
        figures,
        "new_event_share",
        settings.max_new_event_share,
        "of the events are new since the weights were trained",
    )
    rebuild = _above(
        figures,
        "inserted_share",
        settings.max_inserted_share,
        "of the items came after the codebook was made",
    )
    rebuild += _above(
        figures,
        "distance_ratio",
        settings.max_distance_ratio,
        "is the reconstruction error of inserted items over what it was for items held out",
    )
    rebuild += _above(
        figures, "full_prefix_share", settings.max_full_prefix_share, "of the prefixes in use are full"
    )
    if rebuild:
        return _report("new_codebook", rebuild + retrain, figures, settings)
    if retrain:
        return _report("retrain", retrain, figures, settings)
    return _report("keep", ["every figure is within its threshold"], figures, settings)


def _share(part: int, whole: int) -> float:
    return round(part / whole, 6) if whole else 0.0


def _above(figures: dict[str, float | int | None], name: str, threshold: float, meaning: str) -> list[str]:
    value = figures[name]
    if value is None or value <= threshold:
        return []
    return [f"{name}: {value:.3f} {meaning}, more than {threshold:g}"]


def _report(
    verdict: Verdict, reasons: list[str], figures: dict[str, float | int | None], settings: DriftSettings
) -> dict[str, Any]:
    return {
        "kept": verdict != "nothing_kept",
        "verdict": verdict,
        "reasons": reasons,
        "figures": figures,
        "thresholds": settings.model_dump(mode="json"),
    }
