"""What a request may look like."""

from __future__ import annotations

import time
from typing import Any

import pytest
from pydantic import ValidationError

from segue.serving.requests import Event, Feedback, RecommendRequest


def test_numbers_are_ids_too() -> None:
    assert RecommendRequest.model_validate({"history": [1, "50"], "user_id": 7}).history == ["1", "50"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "give a user_id, a history"),
        ({"k": 3}, "give a user_id, a history"),
        ({"history": [], "k": 0}, "greater than or equal to 1"),
        ({"history": [], "path": "magic"}, "'generative', 'interleaved' or 'popularity'"),
        ({"history": ["a"], "timestamps": [1, 2]}, "of one length"),
        ({"user_id": "u", "timestamps": [1]}, "of one length"),
        ({"history": [""]}, "at least 1 character"),
        ({"history": "abc"}, "valid list"),
        ({"history": [], "surprise": 1}, "not permitted"),
        ({"user_id": ""}, "at least 1 character"),
    ],
)
def test_bad_requests_are_refused(body: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RecommendRequest.model_validate(body)


@pytest.mark.parametrize("ahead", [2 * 86_400, 99_999_999_999, 999 * int(1.8e9)])
def test_a_moment_that_lies_far_ahead_is_asked_about(ahead: int) -> None:
    """Milliseconds taken for seconds would be somebody's newest event for ever."""
    event = {"event_id": "e", "user_id": "u", "item_id": "i"}
    click = {"feedback_id": "f", "kind": "click", "user_id": "u", "item_id": "i"}
    now = int(time.time())
    assert (
        Event.model_validate(event | {"timestamp": now + 3600}).timestamp == now + 3600
    )  # a clock may be off
    assert Feedback.model_validate(click | {"timestamp": now - 0.5}).timestamp == now - 0.5
    for model, body in ((Event, event), (Feedback, click)):
        with pytest.raises(ValidationError, match=r"more than a day ahead.*milliseconds"):
            model.model_validate(body | {"timestamp": now + ahead})
