"""What the incumbent is chosen by."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from segue.cascade.validation import Validation, Vocabulary, gains

from .conftest import make_sequences


def test_a_gain_falls_with_the_rank_and_ties_cost():
    scores = np.array([[3.0, 2.0, 2.0, -np.inf]] * 4, dtype=np.float32)
    found = gains(scores, np.array([0, 1, 3, -1]))
    assert found.tolist() == pytest.approx([1.0, 1 / np.log2(4), 0.0, 0.0])


def test_ranks_the_unseen_items_of_a_history():
    sequences = make_sequences([[0, 1, 2, 3]])  # history 0 1, target 2
    validation = Validation(sequences, rows=4, max_length=5)
    # Scores fall with the index: 0 and 1 are seen, so the target is first.
    items = torch.tensor([[4.0], [3.0], [2.0], [1.0]])
    assert validation.ndcg(lambda batch: torch.ones(len(batch.lengths), 1), items) == 1.0


def test_a_vocabulary_has_rows_for_what_occurs():
    vocabulary = Vocabulary.of(make_sequences([[4, 2], [2, 7]]), 9)
    assert vocabulary.items.tolist() == [2, 4, 7]
    assert vocabulary.apply(make_sequences([[7, 2, 5]])).items.tolist() == [2, 0, -1]
