"""Fused HSTU attention over histories that lie one behind the other, without padding, for accelerators.

A history's weights, SiLU(Q K^T + rab^{p,t}) / n (equation 2 of Zhai et al. 2024), are made a tile at a time and never
written down, as FlashAttention does with softmax's (Dao et al. 2022, algorithm 1); with no softmax there is nothing to
rescale, so forward and backward are plain sums over tiles. The backward pass makes the weights again from queries and
keys. Tiles behind the diagonal and behind a history's end are skipped.

Shapes: S events of all B histories together, H heads, d numbers a head, P distances that the position's bias knows.

What this file defines runs on a GPU, or anywhere under Triton's interpreter (``TRITON_INTERPRET=1`` before Triton is
imported), by which the tests hold it to the plain sum. It takes Triton, which torch brings along where it supports CUDA.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from segue.errors import ConfigurationError
from segue.training.jagged import WIDEST

_TILE = 64  # rows, and columns, of weights that are made together, at most
_ROW_BYTES = (
    128  # of a head's numbers at one place, up to which such a tile fits into what GPUs share within a block
)
_SMALLEST = 16  # rows, columns and numbers that a tile's product has at least
_BUCKETS = 32  # of times, at most: seconds are counted in 32 bits
_COPIES = 64  # of the biases' gradients, among which programs spread what they add


def jagged_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    times: Tensor,
    offsets: Tensor,
    position_bias: Tensor,
    time_bias: Tensor,
    longest: int,
) -> Tensor:
    """[S, H, d] of queries, keys and values [S, H, d] at ``times`` [S] (int64, seconds, ascending in a history).

    History b is the rows ``offsets`` [B + 1] (int64) b to b + 1, none longer than ``longest``; each event sees those before it
    and itself, and the sum is divided by how many these are. ``position_bias`` [P] is added by the distance in events (P - 1
    and beyond alike), ``time_bias`` [T] by the whole part of log2(1 + seconds) (T - 1 and beyond alike). Differentiable in
    all but times and offsets, once; on a GPU the biases' gradients are added up in no fixed order, so their last bits differ from
    run to run. Raises ConfigurationError for heads of more than ``WIDEST`` numbers, and for more than 32 of time's buckets.
    """
    if len(time_bias) > _BUCKETS:
        raise ConfigurationError(f"{len(time_bias)} buckets of time: the fused kernel takes up to {_BUCKETS}")
    if query.shape[-1] > WIDEST:
        raise ConfigurationError(
            f"a head of {query.shape[-1]} numbers: the fused kernel takes up to {WIDEST}"
        )
    found: Tensor = _JaggedAttention.apply(  # type: ignore[no-untyped-call]
        query, key, value, times, offsets, position_bias, time_bias, longest
    )
    return found


class _JaggedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        times: Tensor,
        offsets: Tensor,
        position_bias: Tensor,
        time_bias: Tensor,
        longest: int,
    ) -> Tensor:
        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        biases = position_bias.float().contiguous(), time_bias.float().contiguous()
        times, offsets = times.contiguous(), offsets.contiguous()
        out = torch.empty_like(value)
        grid, shape = _launch(query, offsets, longest, biases)
        if len(query):
            _forward[grid](query, key, value, times, offsets, *biases, out, **shape)
        ctx.save_for_backward(query, key, value, times, offsets, *biases)
        ctx.longest = longest
        ctx.bias_types = position_bias.dtype, time_bias.dtype
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, times, offsets, *biases = ctx.saved_tensors
        gradient = gradient.contiguous()
        by_query, by_key, by_value = (torch.empty_like(each) for each in (query, key, value))
        by_biases = [each.new_zeros(_COPIES, len(each)) for each in biases]
        grid, shape = _launch(query, offsets, ctx.longest, biases)
        if len(query):
            given = (query, key, value, times, offsets, *biases, gradient)
            _backward_of_queries[grid](*given, by_query, *by_biases, copies=_COPIES, **shape)
            _backward_of_keys[grid](*given, by_key, by_value, **shape)
        by_position, by_time = (
            total.sum(dim=0).to(dtype) for total, dtype in zip(by_biases, ctx.bias_types, strict=True)
        )
        return by_query, by_key, by_value, None, None, by_position, by_time, None


def _launch(
    query: Tensor, offsets: Tensor, longest: int, biases: tuple[Tensor, ...] | list[Tensor]
) -> tuple[tuple[int, int], dict[str, int]]:
    """One program a history and head and a tile of its rows; and what the kernels are compiled for."""
    _, heads, width = query.shape
    lanes = max(_SMALLEST, triton.next_power_of_2(width))
    tile = max(_SMALLEST, min(_TILE, _TILE * _ROW_BYTES // (lanes * query.element_size())))
    shape = {
        "heads": heads,
        "distances": len(biases[0]),
        "buckets": len(biases[1]),
        "width": width,
        "lanes": lanes,
        "tile": tile,
    }
    # The first dimension of a grid may be far longer than the second.
    return ((len(offsets) - 1) * heads, triton.cdiv(max(1, longest), tile)), shape


@triton.jit  # type: ignore[untyped-decorator]
def _placed(offsets, heads: tl.constexpr, tile: tl.constexpr):  # type: ignore[no-untyped-def]
    """Of this program: the head, where its history begins and how long it is, and the first place of its tile."""
    history, head = tl.program_id(0) // heads, tl.program_id(0) % heads
    begin = tl.load(offsets + history)
    return head, begin, tl.load(offsets + history + 1) - begin, tl.program_id(1) * tile


@triton.jit  # type: ignore[untyped-decorator]
def _at(begin, places, length, head, heads, width: tl.constexpr, lanes: tl.constexpr):  # type: ignore[no-untyped-def]
    """[tile, lanes] where the events at ``places`` of one history stand, and which of these numbers there are."""
    lane = tl.arange(0, lanes)
    at = ((begin + places[:, None]) * heads + head) * width + lane[None, :]
    return at, (places < length)[:, None] & (lane < width)[None, :]


@triton.jit  # type: ignore[untyped-decorator]
def _rows(pointer, begin, places, length, head, heads, width: tl.constexpr, lanes: tl.constexpr):  # type: ignore[no-untyped-def]
    """[tile, lanes] of the events at ``places`` of one history, zeros behind its end."""
    at, mask = _at(begin, places, length, head, heads, width, lanes)
    return tl.load(pointer + at, mask=mask, other=0.0)


@triton.jit  # type: ignore[untyped-decorator]
def _kept(pointer, values, begin, places, length, head, heads, width: tl.constexpr, lanes: tl.constexpr):  # type: ignore[no-untyped-def]
    """Write ``values`` [tile, lanes] where :func:`_rows` reads."""
    at, mask = _at(begin, places, length, head, heads, width, lanes)
    tl.store(pointer + at, values.to(pointer.dtype.element_ty), mask=mask)


@triton.jit  # type: ignore[untyped-decorator]
def _asking(  # type: ignore[no-untyped-def]
    query,
    times,
    begin,
    low,
    length,
    head,
    heads,
    width: tl.constexpr,
    lanes: tl.constexpr,
    tile: tl.constexpr,
):
    """The places of a tile's rows, their times and their queries."""
    rows = low + tl.arange(0, tile)
    late = tl.load(times + begin + rows, mask=rows < length, other=0)
    return rows, late, _rows(query, begin, rows, length, head, heads, width, lanes)


@triton.jit  # type: ignore[untyped-decorator]
def _asked(  # type: ignore[no-untyped-def]
    key,
    value,
    times,
    begin,
    low,
    length,
    head,
    heads,
    width: tl.constexpr,
    lanes: tl.constexpr,
    tile: tl.constexpr,
):
    """The places of a tile's columns, their times, their keys and their values."""
    columns, early, keys = _asking(key, times, begin, low, length, head, heads, width, lanes, tile)
    return columns, early, keys, _rows(value, begin, columns, length, head, heads, width, lanes)


@triton.jit  # type: ignore[untyped-decorator]
def _scores(  # type: ignore[no-untyped-def]
    query,
    key,
    late,
    early,
    rows,
    columns,
    length,
    by_position,
    by_time,
    distances: tl.constexpr,
    buckets: tl.constexpr,
):
    """Of a tile: Q K^T + rab, whether a row sees a column, and the buckets of the times between them."""
    behind = rows[:, None] - columns[None, :]
    seen = (behind >= 0) & (rows < length)[:, None] & (columns < length)[None, :]
    behind = tl.minimum(tl.maximum(behind, 0), distances - 1)
    # The whole part of log2 is a float's exponent, but for what rounding carried over a power of two. What lies beyond the last
    # of 32 buckets is in it, so that 32 bits are enough.
    passed = tl.minimum(tl.maximum(late[:, None] - early[None, :], 0), (1 << 31) - 1).to(tl.uint32) + 1
    bucket = (passed.to(tl.float32).to(tl.int32, bitcast=True) >> 23) - 127
    bucket -= ((tl.full((1, 1), 1, tl.uint32) << bucket.to(tl.uint32)) > passed).to(tl.int32)
    bucket = tl.minimum(bucket, buckets - 1)
    score = tl.dot(query, tl.trans(key), input_precision="tf32x3")
    score += tl.load(by_position + behind, mask=seen, other=0.0) + tl.load(
        by_time + bucket, mask=seen, other=0.0
    )
    return score, seen, bucket


@triton.jit  # type: ignore[untyped-decorator]
def _forward(  # type: ignore[no-untyped-def]
    query,
    key,
    value,
    times,
    offsets,
    by_position,
    by_time,
    out,
    heads: tl.constexpr,
    distances: tl.constexpr,
    buckets: tl.constexpr,
    width: tl.constexpr,
    lanes: tl.constexpr,
    tile: tl.constexpr,
):
    head, begin, length, first = _placed(offsets, heads, tile)
    if first < length:
        rows, late, own = _asking(query, times, begin, first, length, head, heads, width, lanes, tile)
        total = tl.zeros((tile, lanes), dtype=tl.float32)
        for low in range(0, first + tile, tile):
            columns, early, keys, values = _asked(
                key, value, times, begin, low, length, head, heads, width, lanes, tile
            )
            score, seen, _ = _scores(
                own, keys, late, early, rows, columns, length, by_position, by_time, distances, buckets
            )
            weight = tl.where(seen, score * tl.sigmoid(score), 0.0)
            total += tl.dot(weight.to(values.dtype), values, input_precision="tf32x3")
        total /= (rows + 1).to(tl.float32)[:, None]
        _kept(out, total, begin, rows, length, head, heads, width, lanes)


@triton.jit
def _by_scores(score, seen, gradient, values):  # type: ignore[no-untyped-def]
    """The weights of a tile, and the loss's derivatives by its scores: SiLU'(s) = σ(s) (1 + s (1 - σ(s)))."""
    chance = tl.sigmoid(score)
    by_weight = tl.dot(gradient, tl.trans(values), input_precision="tf32x3")
    weight = tl.where(seen, score * chance, 0.0)
    return weight, tl.where(seen, by_weight * chance * (1 + score * (1 - chance)), 0.0)


@triton.jit  # type: ignore[untyped-decorator]
def _diagonals(values, ahead, tile: tl.constexpr):  # type: ignore[no-untyped-def]
    """[2 tile] the sums of the diagonals of ``values`` [tile, tile], and how far behind its row a column of each is, where the
    first row is ``ahead`` of the first column. The last diagonal does not exist: it sums to nothing."""
    row, diagonal = tl.arange(0, tile)[:, None], tl.arange(0, 2 * tile)[None, :]
    column = row + tile - 1 - diagonal
    inside = (column >= 0) & (column < tile)
    slanted = tl.gather(values, tl.where(inside, column, 0), axis=1)
    return tl.sum(tl.where(inside, slanted, 0.0), axis=0), ahead + tl.arange(0, 2 * tile) - (tile - 1)


@triton.jit  # type: ignore[untyped-decorator]
def _shared_out(gradient, rows, length, begin, head, heads, width: tl.constexpr, lanes: tl.constexpr):  # type: ignore[no-untyped-def]
    """[tile, lanes] of the output's gradient, divided as the output was."""
    given = _rows(gradient, begin, rows, length, head, heads, width, lanes)
    return (given.to(tl.float32) / (rows + 1).to(tl.float32)[:, None]).to(given.dtype)


@triton.jit  # type: ignore[untyped-decorator]
def _backward_of_queries(  # type: ignore[no-untyped-def]
    query,
    key,
    value,
    times,
    offsets,
    by_position,
    by_time,
    gradient,
    to_query,
    to_position,
    to_time,
    copies: tl.constexpr,
    heads: tl.constexpr,
    distances: tl.constexpr,
    buckets: tl.constexpr,
    width: tl.constexpr,
    lanes: tl.constexpr,
    tile: tl.constexpr,
):
    head, begin, length, first = _placed(offsets, heads, tile)
    copy = (tl.program_id(0) + tl.program_id(1)) % copies
    if first < length:
        rows, late, own = _asking(query, times, begin, first, length, head, heads, width, lanes, tile)
        given = _shared_out(gradient, rows, length, begin, head, heads, width, lanes)
        total = tl.zeros((tile, lanes), dtype=tl.float32)
        for low in range(0, first + tile, tile):
            columns, early, keys, values = _asked(
                key, value, times, begin, low, length, head, heads, width, lanes, tile
            )
            score, seen, bucket = _scores(
                own, keys, late, early, rows, columns, length, by_position, by_time, distances, buckets
            )
            _, by_score = _by_scores(score, seen, given, values)
            total += tl.dot(by_score.to(keys.dtype), keys, input_precision="tf32x3")
            # What lies on one diagonal is as far behind: one addition a diagonal, not one a weight.
            sums, behind = _diagonals(by_score, first - low, tile)
            to = tl.minimum(behind, distances - 1)
            tl.atomic_add(to_position + copy * distances + to, sums, mask=behind >= 0)
            # A tile far back has one or two of the buckets: one addition a bucket, not one a weight.
            latest = tl.max(tl.where(seen, bucket, 0))
            for one in range(tl.min(tl.where(seen, bucket, buckets)), latest + 1):
                share = tl.sum(tl.where(seen & (bucket == one), by_score, 0.0))
                tl.atomic_add(to_time + copy * buckets + one, share)
        _kept(to_query, total, begin, rows, length, head, heads, width, lanes)


@triton.jit  # type: ignore[untyped-decorator]
def _backward_of_keys(  # type: ignore[no-untyped-def]
    query,
    key,
    value,
    times,
    offsets,
    by_position,
    by_time,
    gradient,
    to_key,
    to_value,
    heads: tl.constexpr,
    distances: tl.constexpr,
    buckets: tl.constexpr,
    width: tl.constexpr,
    lanes: tl.constexpr,
    tile: tl.constexpr,
):
    head, begin, length, first = _placed(offsets, heads, tile)
    if first < length:
        columns, early, keys, values = _asked(
            key, value, times, begin, first, length, head, heads, width, lanes, tile
        )
        for_keys = tl.zeros((tile, lanes), dtype=tl.float32)
        for_values = tl.zeros((tile, lanes), dtype=tl.float32)
        for low in range(first, length, tile):
            rows, late, own = _asking(query, times, begin, low, length, head, heads, width, lanes, tile)
            given = _shared_out(gradient, rows, length, begin, head, heads, width, lanes)
            score, seen, _ = _scores(
                own, keys, late, early, rows, columns, length, by_position, by_time, distances, buckets
            )
            weight, by_score = _by_scores(score, seen, given, values)
            for_values += tl.dot(tl.trans(weight.to(given.dtype)), given, input_precision="tf32x3")
            for_keys += tl.dot(tl.trans(by_score.to(own.dtype)), own, input_precision="tf32x3")
        _kept(to_key, for_keys, begin, columns, length, head, heads, width, lanes)
        _kept(to_value, for_values, begin, columns, length, head, heads, width, lanes)
