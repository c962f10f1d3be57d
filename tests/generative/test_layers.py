from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from segue.generative.layers import TIME_BUCKETS, ContentProjection, attention, time_bucket, zero_linear


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_attention_equals_that_of_torch(biased: bool, masked: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(3, 2, 4, 8, generator=generator, requires_grad=True)
    key, value = torch.randn(2, 3, 2, 5, 8, generator=generator)
    bias = torch.randn(1, 2, 4, 5, generator=generator) if biased else None
    seen = torch.rand(3, 1, 1, 5, generator=generator) > 0.4 if masked else None
    if seen is not None:
        seen[..., 0] = True
    mask = torch.zeros(3, 2, 4, 5) if bias is None else bias.expand(3, -1, -1, -1)
    mask = mask if seen is None else mask.masked_fill(~seen, -torch.inf)
    found = attention(query, key, value, bias=bias, seen=seen)
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    (first,) = torch.autograd.grad(found.square().sum(), query)
    (second,) = torch.autograd.grad(expected.square().sum(), query)
    torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-4)


def test_what_starts_at_zero_learns_and_the_rest_of_a_projection_is_linear() -> None:
    content = torch.randn(4, 3)
    assert not zero_linear(3, 2)(content).any()
    projection = ContentProjection(3, 2, dropout=0.0)
    torch.testing.assert_close(projection(content), projection.linear(content))
    projection(content).sum().backward()
    assert projection.outer.weight.grad is not None
    assert float(projection.outer.weight.grad.abs().max()) > 0


def test_a_time_is_in_the_bucket_of_its_binary_digits() -> None:
    near = [2**power + off for power in range(40) for off in (-2, -1, 0)]
    wanted = [min(max(0, (max(0, seconds) + 1).bit_length() - 1), TIME_BUCKETS - 1) for seconds in near]
    assert time_bucket(torch.tensor(near)).tolist() == wanted
