"""The fused kernel under Triton's interpreter, held to the sum written out; on a GPU compiled, too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segue.errors import ConfigurationError
from segue.generative import hstu
from segue.generative.hstu import HstuModel
from segue.generative.layers import time_bucket
from segue.training.jagged import WIDEST, padded, runs_jagged

from . import tiny
from .test_context import VOCABULARY, coded

pytest.importorskip("triton", reason="Triton comes with torch where torch supports CUDA")
hstu_kernel = pytest.importorskip("segue.generative.hstu_kernel")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hstu_kernel, "_TILE", 16)


def plain(
    query: Tensor, key: Tensor, value: Tensor, times: Tensor, offsets: Tensor, position: Tensor, time: Tensor
) -> Tensor:
    parts = []
    for low, high in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        place = torch.arange(high - low, device=query.device)
        behind = place.unsqueeze(1) - place
        when = times[low:high]
        bias = position[behind.clamp(0, len(position) - 1)] + time[time_bucket(when.unsqueeze(1) - when)]
        scores = torch.einsum("ihd,jhd->hij", query[low:high], key[low:high]) + bias
        weights = F.silu(scores) * (behind >= 0)
        mixed = torch.einsum("hij,jhd->ihd", weights, value[low:high])
        parts.append(mixed / (place + 1)[:, None, None])
    return torch.cat(parts)


def inputs(lengths: list[int], heads: int, width: int) -> tuple[list[Tensor], Tensor, Tensor]:
    """Queries, keys, values and both biases; times, some a power of two of seconds apart; offsets."""
    generator = torch.Generator().manual_seed(len(lengths) + width)
    total = sum(lengths)
    learnt = [torch.randn(total, heads, width, generator=generator) for _ in range(3)]
    learnt += [torch.randn(size, generator=generator) for size in (20, 32)]
    gaps = [2**power + off for power in range(0, 36, 2) for off in (-1, 0)]
    chosen = torch.randint(len(gaps), (total,), generator=generator)
    times = torch.tensor(gaps)[chosen]
    times = torch.cat([part.cumsum(0) for part in times.split(lengths)])
    offsets = F.pad(torch.tensor(lengths).cumsum(0), (1, 0))
    return [each.to(DEVICE).requires_grad_() for each in learnt], times.to(DEVICE), offsets.to(DEVICE)


@pytest.mark.parametrize(
    ("lengths", "heads", "width"),
    [([37, 1, 0, 20], 2, 8), ([16, 32], 1, 16), ([5], 3, 20), ([48], 1, 32)],
    ids=["ends inside tiles", "whole tiles", "width of no power of two", "three tiles"],
)
def test_it_is_the_plain_sum_and_so_are_its_gradients(lengths: list[int], heads: int, width: int) -> None:
    (query, key, value, position, time), times, offsets = inputs(lengths, heads, width)
    found = hstu_kernel.jagged_attention(query, key, value, times, offsets, position, time, max(lengths))
    expected = plain(query, key, value, times, offsets, position, time)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    learnt = (query, key, value, position, time)
    given = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    for own, wanted in zip(
        torch.autograd.grad(found, learnt, given), torch.autograd.grad(expected, learnt, given), strict=True
    ):
        torch.testing.assert_close(own, wanted, atol=1e-4, rtol=1e-3)


def test_a_history_may_be_shorter_than_the_longest_is_said_to_be() -> None:
    (query, key, value, position, time), times, offsets = inputs([7, 3], 2, 8)
    given = query, key, value, times, offsets, position, time
    found = hstu_kernel.jagged_attention(*given, 100)
    torch.testing.assert_close(found, plain(*given), atol=1e-5, rtol=1e-4)


def test_seconds_just_below_a_power_of_two_are_in_the_lower_bucket() -> None:
    """Where a float's rounding carries them over it."""
    (query, key, value, position, time), _, offsets = inputs([2] * 7, 1, 8)
    times = torch.tensor([[0, 2**power - 2] for power in range(25, 32)]).flatten().to(DEVICE)
    given = query, key, value, times, offsets, position, time
    torch.testing.assert_close(hstu_kernel.jagged_attention(*given, 2), plain(*given), atol=1e-5, rtol=1e-4)


def test_no_event_at_all_is_no_error() -> None:
    (query, key, value, position, time), times, offsets = inputs([0, 0], 1, 8)
    found = hstu_kernel.jagged_attention(query, key, value, times, offsets, position, time, 0)
    assert found.shape == (0, 1, 8)
    assert float(torch.autograd.grad(found.sum(), (position,))[0].abs().sum()) == 0


def test_the_kernels_compile_for_a_gpu_and_fit_into_what_a_small_one_shares(tmp_path: Path) -> None:
    """In both precisions, without a GPU: what the interpreter lets pass, as a product of unequal types, the compiler does not."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.generative.compile_kernels"],
        env={**environment, "TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 6
    assert max(found.values()) <= 99 * 1024, found


@pytest.mark.parametrize(("code_tower", "interleaved"), [("shared", False), ("own", True)])
def test_a_model_reads_jagged_histories_as_it_reads_padded_ones(
    monkeypatch: pytest.MonkeyPatch, code_tower: str, interleaved: bool
) -> None:
    """States, M-FALCON's scores and every gradient."""
    chosen = tiny.SETTINGS.model_copy(
        update={
            "code_tower": code_tower,
            "dropout": 0.0,
            "identity_dropout": 0.0,
            "hstu": tiny.SETTINGS.hstu.model_copy(update={"ranking_weight": 0.5, "interleaved": interleaved}),
        }
    )
    model = tiny.named("hstu", settings=chosen, vocabulary=VOCABULARY if interleaved else None)
    assert isinstance(model, HstuModel)
    model.to(DEVICE)
    model.bind(tiny.items())
    monkeypatch.setattr("segue.generative.layers._UNSAID", 0.0)
    batch, wanted = tiny.histories([8, 3, 0, 1]), torch.arange(12).view(4, 3)
    if interleaved:
        batch = coded(batch)
    found = []
    for jagged in (False, True):
        monkeypatch.setattr(hstu, "runs_jagged", lambda device, width, jagged=jagged: jagged)
        model.eval()
        with torch.no_grad():
            context = model.encode(batch)
            scores = model.mfalcon(context, wanted)
        model.train()
        model.zero_grad()
        torch.manual_seed(0)  # of the ranking loss's negatives
        model.loss(batch)["total"].backward()  # type: ignore[no-untyped-call]
        gradients = {
            name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None
        }
        found.append({"state": context.state, "code": context.code_state, "scores": scores, **gradients})
    padded, jagged_found = found
    assert padded.keys() == jagged_found.keys()
    assert any("position" in name for name in padded)
    for name, value in padded.items():
        torch.testing.assert_close(
            jagged_found[name], value, atol=1e-5, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_a_cpu_reads_padded_histories() -> None:
    assert not runs_jagged(torch.device("cpu"), 64)


def test_a_gpu_that_multiplies_bf16_reads_jagged_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    gpu = torch.device("cuda")
    assert runs_jagged(gpu, WIDEST)
    assert not runs_jagged(gpu, 2 * WIDEST)
    with padded():
        assert not runs_jagged(gpu, 64)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert not runs_jagged(gpu, 64)


def test_a_head_too_wide_is_refused() -> None:
    (query, key, value, position, time), times, offsets = inputs([3], 1, 129)
    with pytest.raises(ConfigurationError, match="a head of 129 numbers"):
        hstu_kernel.jagged_attention(query, key, value, times, offsets, position, time, 3)


def test_more_buckets_of_time_than_32_bits_have_are_refused() -> None:
    (query, key, value, position, _), times, offsets = inputs([3], 1, 8)
    with pytest.raises(ConfigurationError, match="33 buckets of time"):
        hstu_kernel.jagged_attention(
            query, key, value, times, offsets, position, torch.zeros(33, device=DEVICE), 3
        )


def test_whole_tiles_in_half_precision_are_near_the_plain_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # tiles as they are
    (query, key, value, position, time), times, offsets = inputs([150, 65], 1, 32)
    learnt = (query, key, value, position, time)
    half = [each.detach().half().requires_grad_() for each in (query, key, value)]
    found = hstu_kernel.jagged_attention(*half, times, offsets, position, time, 150)
    expected = plain(query, key, value, times, offsets, position, time)
    torch.testing.assert_close(found.float(), expected, atol=0.01, rtol=0.01)
    given = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    own = torch.autograd.grad(found, (*half, position, time), given.half())
    for one, wanted in zip(own, torch.autograd.grad(expected, learnt, given), strict=True):
        error = (one.float() - wanted).norm() / wanted.norm()
        assert float(error) < 0.01
