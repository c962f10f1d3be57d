from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.canonical import canonical_json, sha256_of

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=25)
@given(st.dictionaries(st.text(max_size=4), values, max_size=4))
def test_order_of_keys_does_not_matter(value: dict[str, object]) -> None:
    assert sha256_of(value) == sha256_of(dict(reversed(list(value.items()))))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"x": bad})
