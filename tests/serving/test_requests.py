"""What a request may look like."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from segue.serving.requests import RecommendRequest


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
