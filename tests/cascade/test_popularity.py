"""Popularity: counts, half lives, and items that came later."""

from __future__ import annotations

import numpy as np
import pytest

from segue.cascade.popularity import Popularity
from segue.errors import ArtifactError

from .conftest import make_items, make_sequences


def test_counts_every_event():
    found = Popularity.fit(make_sequences([[0, 1, 1], [1, 2]]), ["a", "b", "c", "d"])
    assert found.counts.tolist() == [1, 3, 1, 0]


def test_an_event_one_half_life_old_counts_half():
    sequences = make_sequences([[0, 1]])  # an hour apart
    found = Popularity.fit(sequences, ["a", "b"], half_life_days=1 / 24)
    assert found.counts.tolist() == pytest.approx([0.5, 1.0])


def test_is_found_by_id_in_a_table_that_grew(tmp_path):
    Popularity.fit(make_sequences([[0, 1, 1]]), ["b", "d"]).save(tmp_path)
    loaded = Popularity.load(tmp_path, make_items(["a", "b", "c", "d"]))
    assert loaded.counts.tolist() == [0, 1, 0, 2]


def test_refuses_an_empty_folder(tmp_path):
    with pytest.raises(ArtifactError, match="run the step"):
        Popularity.load(tmp_path, make_items(["a"]))
    assert not np.any(list(tmp_path.iterdir()))
