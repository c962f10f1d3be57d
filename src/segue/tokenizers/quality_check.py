"""What the report on the semantic IDs warns of. A warning stops nothing: the evidence decides what is served."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segue.tokenizers.settings import SemanticIdSettings


def findings(quality: Mapping[str, Any], settings: SemanticIdSettings) -> list[dict[str, Any]]:
    """The figures that pass a threshold: ``finding``, ``value``, ``threshold`` and what it means (``told``)."""
    excess = quality["excess_collisions"] / max(quality["items"], 1)
    alone = quality["unique_item_rate"]
    usage = quality["levels"][0]["usage"]
    found = []
    if alone < settings.least_unique_item_rate:
        told = f"{alone:.1%} of the items have a prefix to themselves, less than {settings.least_unique_item_rate:.1%}"
        found.append(_finding("unique_item_rate", alone, settings.least_unique_item_rate, told))
    if usage < settings.least_first_level_usage:
        told = f"{usage:.1%} of the first level's codes are in use, less than {settings.least_first_level_usage:.1%}"
        found.append(_finding("first_level_usage", usage, settings.least_first_level_usage, told))
    if excess > settings.most_excess_collision_rate:
        told = (
            f"{excess:.1%} of the items are told apart by the last level alone, more than "
            f"{settings.most_excess_collision_rate:.1%}"
        )
        found.append(_finding("excess_collision_rate", excess, settings.most_excess_collision_rate, told))
    return found


def _finding(name: str, value: float, threshold: float, told: str) -> dict[str, Any]:
    return {"finding": name, "value": round(float(value), 6), "threshold": threshold, "told": told}
