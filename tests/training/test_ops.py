"""The fast operations against torch's own, gradients included."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from segue.training.ops import causal_attention, full_softmax


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
