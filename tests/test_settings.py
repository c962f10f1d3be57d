"""What an earlier version wrote must be readable; what a person writes must be right."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from segue.cascade.settings import CascadeSettings
from segue.generative.settings import GenerativeSettings


def test_retired_keys_are_read_beside_a_model_and_refused_in_parameters() -> None:
    old = CascadeSettings().model_dump()
    for tower in ("two_tower", "sasrec"):
        del old[tower]["batch_events"], old[tower]["averaging"]
        old[tower]["batch_size"] = 16
    old["sasrec"]["dimensions"] = 48
    assert CascadeSettings.stored(old).sasrec.dimensions == 48
    with pytest.raises(ValidationError, match="batch_size"):
        CascadeSettings.model_validate(old)
    assert GenerativeSettings.stored({"batch_size": 16, "epochs": 3}).epochs == 3
    with pytest.raises(ValidationError, match="unknown"):
        GenerativeSettings.stored({"unknown": 1})
