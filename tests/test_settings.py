"""What an earlier version wrote must be readable; what a person writes must be right."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from segue.cascade.settings import CascadeSettings
from segue.generative.settings import GenerativeSettings
from segue.settings import HOW_TRAINING_RUNS


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
    assert not GenerativeSettings.stored({"epochs": 3}).pooled_tower  # from before there was such a tower
    assert GenerativeSettings().pooled_tower
    earlier = GenerativeSettings.stored(
        {"pooled_tower": True, "dense_temperature": 0.05, "identity_dropout": 0.4}
    )
    assert (earlier.pooled_temperature, earlier.pooled_identity_dropout) == (0.05, 0.4)
    later = GenerativeSettings(pooled_temperature=0.3, dense_temperature=0.05)
    assert GenerativeSettings.stored(later.model_dump()) == later
    before_other_models = {
        key: value for key, value in GenerativeSettings().model_dump().items() if key != "tiger"
    }
    assert GenerativeSettings.stored(before_other_models).tiger.targets == 4
    with pytest.raises(ValidationError, match="unknown"):
        GenerativeSettings.stored({"unknown": 1})


def test_heads_must_share_the_dimensions() -> None:
    with pytest.raises(ValidationError, match=r"dimensions 10 must be a multiple of twice the heads \(2\)"):
        GenerativeSettings(dimensions=10, heads=2)
    assert GenerativeSettings(dimensions=12, heads=2).dimensions == 12


def test_how_training_runs_is_no_part_of_what_it_makes() -> None:
    described = CascadeSettings().described()
    assert set(described) == set(CascadeSettings.model_fields)
    for name, left in (
        ("sasrec", described["sasrec"]),
        ("two_tower", described["two_tower"]),
        ("generative", GenerativeSettings().described()),
    ):
        whole = getattr(CascadeSettings(), name, GenerativeSettings()).model_dump(mode="json")
        assert {**left, **{key: whole[key] for key in HOW_TRAINING_RUNS}} == whole
        assert not HOW_TRAINING_RUNS & set(left)
