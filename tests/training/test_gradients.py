from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from segue.protocols import HistoryBatch
from segue.training.gradients import Gradients, all_events, events_with_history
from tests.training.examples import NextItem, batches, next_item, settings, train


def gradients(accumulate: int, events=events_with_history) -> tuple[NextItem, list[dict[str, torch.Tensor]]]:
    model = next_item(dropout=0.0)
    made = Gradients(model, model.loss, events=events, accumulate=accumulate, precision="fp32")
    return model, [made.add(batch) for batch in batches(0)]


@given(accumulate=st.integers(2, 9))
@hypothesis_settings(deadline=None)
def test_micro_batches_add_up_to_the_gradient_and_the_losses_of_the_batch(accumulate: int) -> None:
    whole, expected = gradients(1)
    pieces, found = gradients(accumulate)
    for (name, one), other in zip(whole.named_parameters(), pieces.parameters(), strict=True):
        if name.startswith("unused"):
            assert one.grad is None
            assert other.grad is None
        else:
            torch.testing.assert_close(other.grad, one.grad)
    for one, other in zip(expected, found, strict=True):
        assert set(one) == {"total", "doubled"}
        torch.testing.assert_close(other, one)


def test_a_mean_over_pieces_would_be_another_gradient() -> None:
    """The test above can fail: the weights by events are what makes the pieces add up."""
    whole, _ = gradients(1)
    pieces, _ = gradients(3, events=lambda batch: torch.tensor(len(batch.lengths)))
    assert whole.layer.weight.grad is not None
    assert not torch.allclose(pieces.layer.weight.grad, whole.layer.weight.grad, rtol=1e-3)


def test_each_history_is_in_one_micro_batch_with_whose_it_is() -> None:
    model, seen = next_item(), []
    batch = replace(batches(0)[0], users=torch.arange(7) + 10)

    def loss(piece: HistoryBatch) -> dict[str, torch.Tensor]:
        assert piece.users is not None
        seen.extend((int(user), items.tolist()) for user, items in zip(piece.users, piece.items, strict=True))
        return model.loss(piece)

    Gradients(model, loss, accumulate=3, precision="fp32").add(batch)
    assert sorted(seen) == [(10 + row, items.tolist()) for row, items in enumerate(batch.items)]


@pytest.mark.parametrize("clip_norm", [0.0, 0.1])
def test_a_training_in_micro_batches_follows_the_same_curve(clip_norm: float) -> None:
    whole, pieces = next_item(dropout=0.0), next_item(dropout=0.0)
    expected = train(whole, settings(averaging=0.8, clip_norm=clip_norm))
    found = train(pieces, settings(averaging=0.8, clip_norm=clip_norm, accumulate=4))
    for one, other in zip(expected.history, found.history, strict=True):
        assert other == pytest.approx(one, rel=1e-4)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(pieces.state_dict()[name], value, rtol=1e-3, atol=1e-5)


def test_events_are_counted_as_the_losses_count_them() -> None:
    batch = batches(0)[0]
    assert int(all_events(batch)) == int(batch.lengths.sum())
    assert int(events_with_history(batch)) == int(batch.lengths.sum()) - len(batch.lengths)
