"""Small exposures, events and feedback."""

from __future__ import annotations

from typing import Any

from segue.serving.requests import Event, Feedback
from segue.serving.store import Exposure


def event(name: str, item: str = "i039", when: int | None = 2_000_000, user: str = "u00") -> Event:
    return Event(event_id=name, user_id=user, item_id=item, timestamp=when)


def exposure(name: str, user: str | None = "u00", **change: Any) -> Exposure:
    values: dict[str, Any] = {
        "exposure_id": name, "user_id": user, "arm": "treatment", "path": "generative", "bundle": "b" * 64,
        "deployment": 3, "item_ids": ["i001", "i002"], "fallback": None, "warnings": [], "latency_ms": 2.0,
        "shown_at": 1000.5, "sources": ["beam", "dense"],
    }  # fmt: skip
    return Exposure(**(values | change))


def click(name: str, exposure_id: str | None = None, user: str | None = None, **change: Any) -> Feedback:
    values: dict[str, Any] = {
        "feedback_id": name, "kind": "click", "item_id": "i001", "exposure_id": exposure_id,
        "user_id": user, "timestamp": 1001.0,
    }  # fmt: skip
    return Feedback(**(values | change))
