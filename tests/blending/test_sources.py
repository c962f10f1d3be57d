from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.blending.sources import NEITHER, places_of, team_of, written
from segue.errors import DataError

places = st.dictionaries(st.sampled_from(["cascade", "generative"]), st.integers(1, 500), min_size=1)


@given(places)
def test_what_is_written_is_read(own: dict[str, int]) -> None:
    assert list(places_of(written(own)).items()) == list(own.items())
    assert team_of(written(own)) == next(iter(own))
    assert places_of(NEITHER + written(own)) == own
    assert team_of(NEITHER + written(own)) is None


@pytest.mark.parametrize(
    "source", ["", "beam+dense", "cascade", "cascade@0", "cascade@1+", "neither:", "a@1,b@2"]
)
def test_other_texts_are_refused(source: str) -> None:
    with pytest.raises(DataError, match="tells no places"):
        team_of(source)
