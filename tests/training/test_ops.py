"""The fast operations against torch's own, gradients included."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from segue.training.ops import Dropout, causal_attention, cross_entropies, dropout, full_softmax


def test_attention_equals_torchs():
    torch.manual_seed(1)
    mine = [torch.randn(2, 3, 5, 4, requires_grad=True) for _ in range(3)]
    theirs = [tensor.detach().clone().requires_grad_() for tensor in mine]
    weight = torch.randn(2, 3, 5, 4)
    found, expected = causal_attention(*mine), F.scaled_dot_product_attention(*theirs, is_causal=True)
    torch.testing.assert_close(found, expected)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_the_loss_in_pieces_equals_torchs_in_one():
    torch.manual_seed(2)
    users, items = torch.randn(600, 4, requires_grad=True), torch.randn(9, 4, requires_grad=True)
    targets = torch.randint(9, (600,))
    found = full_softmax(users, items, targets)
    gradient = torch.autograd.grad(found, [users, items])
    expected = F.cross_entropy(users @ items.T, targets)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, [users, items]))


def test_weighted_losses_have_torchs_gradients():
    torch.manual_seed(3)
    users, items = torch.randn(600, 4, requires_grad=True), torch.randn(9, 4, requires_grad=True)
    targets, weights = torch.randint(9, (600,)), torch.rand(600)
    found = (cross_entropies(users, items, targets) * weights).sum()
    expected = (F.cross_entropy(users @ items.T, targets, reduction="none") * weights).sum()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, [users, items]), torch.autograd.grad(expected, [users, items])
    )


def test_half_precision_stays_near_full_precision():
    torch.manual_seed(4)
    users, items = torch.randn(300, 16, requires_grad=True), torch.randn(50, 16, requires_grad=True)
    targets = torch.randint(50, (300,))
    with torch.autocast("cpu", torch.bfloat16):
        found = full_softmax(users, items, targets)
    exact = F.cross_entropy(users @ items.T, targets)
    assert found.dtype is torch.float32
    torch.testing.assert_close(found, exact, rtol=0.01, atol=0)
    for one, other in zip(
        torch.autograd.grad(found, [users, items]), torch.autograd.grad(exact, [users, items]), strict=True
    ):
        assert (one - other).norm() < 0.02 * other.norm()


def test_a_hopeless_target_has_a_finite_loss():
    users, items = torch.tensor([[1.0]]), torch.tensor([[1000.0], [-1000.0]])
    loss = full_softmax(users, items, torch.tensor([1]))
    assert torch.isfinite(loss)
    assert loss > 80


@pytest.mark.parametrize("rate", [0.1, 0.4, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_leaves_out_the_rate_and_keeps_the_mean(rate: float, dtype: torch.dtype):
    torch.manual_seed(5)
    x = torch.ones(401, 251, dtype=dtype, requires_grad=True)
    left = dropout(x, rate)
    gone = (left == 0).float().mean().item()
    assert left.dtype is dtype
    assert gone == pytest.approx(rate, abs=0.005)  # the rounding to 1/256, and four standard errors
    assert left.float().mean().item() == pytest.approx(1, abs=0.01)
    left.float().sum().backward()
    assert torch.equal(x.grad == 0, left == 0)  # what was left out learns nothing


def test_dropout_draws_anew_and_the_same_for_the_same_seed():
    x = torch.ones(1003)
    torch.manual_seed(6)
    first, second = dropout(x, 0.5), dropout(x, 0.5)
    torch.manual_seed(6)
    assert torch.equal(dropout(x, 0.5), first)
    assert not torch.equal(first, second)
    # Neighbours share a random number, yet are independent: both are kept as often as chance has it.
    pairs = dropout(torch.ones(80_000), 0.5).view(-1, 2) != 0
    assert pairs.all(dim=1).float().mean().item() == pytest.approx(0.25, abs=0.01)


def test_dropout_is_for_training_and_has_ends():
    x = torch.ones(5)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(dropout(x, 0.0), x)
    assert not dropout(x, 1.0).any()
