from __future__ import annotations

import pytest
from pydantic import ValidationError

from segue.decoding.settings import DecodingSettings


@pytest.mark.parametrize(
    "changes",
    [
        {"beam_width": 0},
        {"dense_candidates": -1},
        {"fusion_grid": ()},
        {"fusion_grid": (0.5, 2.0)},
        {"fusion_grid": (-0.1,)},
    ],
)
def test_what_cannot_decode_is_refused(changes: dict[str, object]) -> None:
    (name,) = changes
    with pytest.raises(ValidationError, match=name):
        DecodingSettings.model_validate(changes)
