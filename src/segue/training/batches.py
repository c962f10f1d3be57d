"""From jagged sequences to padded batches, in an order that the seed and the epoch decide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from segue.data.sequences import Sequences
from segue.protocols import HistoryBatch

_SHORT_WIDTHS = (4, 8)  # and then multiples of
_WIDTH_MULTIPLE = 16


def sequence_batches(
    sequences: Sequences, *, batch_events: int, max_length: int, seed: int, epoch: int, users: bool = False
) -> Iterator[HistoryBatch]:
    """Every event once: users' histories, those longer than ``max_length`` cut into consecutive windows.

    A batch holds as many windows of about one length as fill ``batch_events`` padded positions, and at least
    one: a step costs much the same whether it learns from a hundred events or from a thousand, and where
    histories are short a fixed number of them would make it a hundred. Where a long history is cut changes
    from epoch to epoch, as does the order. Equal arguments give equal batches, whatever ran before. With
    ``users`` a batch says whose windows it holds."""
    generator = np.random.default_rng([seed, epoch])
    starts, ends = _windows(sequences, max_length, generator)
    order = generator.permutation(len(starts))
    widths = _padded_width(ends[order] - starts[order], max_length)
    batches: list[np.ndarray] = []
    waiting = order[:0]
    for width in np.unique(widths):
        # Windows that do not fill a batch join those of the next width. Few different shapes: CPU kernels for
        # bf16 are compiled once a shape, at a price above running them.
        rows = np.concatenate([waiting, order[widths == width]])
        size = max(1, batch_events // int(width))
        whole = len(rows) // size * size
        batches.extend(rows[at : at + size] for at in range(0, whole, size))
        waiting = rows[whole:]
    if len(waiting):
        batches.append(waiting)
    for index in generator.permutation(len(batches)):
        rows = batches[int(index)]
        lengths = ends[rows] - starts[rows]
        batch = _padded(sequences, starts[rows], ends[rows], int(_padded_width(lengths, max_length).max()))
        if users:
            owners = np.searchsorted(np.asarray(sequences.offsets), starts[rows], side="right") - 1
            batch = replace(batch, users=torch.from_numpy(sequences.user_keys[owners]))
        yield batch


def _padded_width(lengths: np.ndarray, max_length: int) -> np.ndarray:
    """The width that each length is padded to: few different ones, none above ``max_length``."""
    widths = -(-np.maximum(lengths, 1) // _WIDTH_MULTIPLE) * _WIDTH_MULTIPLE
    for short in reversed(_SHORT_WIDTHS):
        widths = np.where(lengths <= short, short, widths)
    narrow: np.ndarray = np.minimum(widths, max(1, max_length))
    return narrow


def _windows(
    sequences: Sequences, max_length: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Flat start and end of every window, [number of windows] each."""
    lows, lengths = np.asarray(sequences.offsets[:-1]), np.diff(sequences.offsets)
    phases = np.where(lengths > max_length, generator.integers(0, max_length, size=len(lengths)), 0)
    leading = phases > 0
    whole = -(-(lengths - phases) // max_length)
    owner = np.repeat(np.arange(len(lengths)), whole)
    nth = np.arange(len(owner)) - np.repeat(np.cumsum(whole) - whole, whole)
    starts = lows[owner] + phases[owner] + nth * max_length
    ends = np.minimum(starts + max_length, lows[owner] + lengths[owner])
    return np.concatenate([lows[leading], starts]), np.concatenate([(lows + phases)[leading], ends])


def target_batches(
    sequences: Sequences, targets: Sequence[tuple[int, int]], *, batch_size: int, max_length: int
) -> Iterator[tuple[HistoryBatch, np.ndarray, np.ndarray]]:
    """Histories before each (user index, position) of ``targets``, in batches of similar length, with their users.

    Yields the batch, its targets' item indices [B] and the rows of ``targets`` that it holds [B].
    """
    users = np.asarray([user for user, _ in targets], dtype=np.int64)
    positions = np.asarray([position for _, position in targets], dtype=np.int64)
    order = np.argsort(np.minimum(positions, max_length), kind="stable")
    for low in range(0, len(order), batch_size):
        rows = order[low : low + batch_size]
        ends = sequences.offsets[users[rows]] + positions[rows]
        batch = replace(
            histories(sequences, users[rows], ends, max_length=max_length),
            users=torch.from_numpy(sequences.user_keys[users[rows]]),
            request=None
            if sequences.contexts is None
            else torch.from_numpy(np.asarray(sequences.contexts[ends]).astype(np.int64)),
        )
        yield batch, np.asarray(sequences.items[ends], dtype=np.int64), rows


def histories(sequences: Sequences, users: np.ndarray, ends: np.ndarray, *, max_length: int) -> HistoryBatch:
    """The newest ``max_length`` events of each of ``users`` [B] before the flat positions ``ends`` [B]."""
    starts = np.maximum(np.asarray(sequences.offsets)[users], ends - max_length)
    return _padded(sequences, starts, ends, max(1, int((ends - starts).max(initial=0))))


def _padded(sequences: Sequences, starts: np.ndarray, ends: np.ndarray, width: int) -> HistoryBatch:
    """Events ``[start, end)`` of the flat arrays, one row each, padded on the right to ``width``."""
    lengths = ends - starts
    columns = np.arange(width)
    inside = columns[None, :] < lengths[:, None]
    flat = np.where(inside, starts[:, None] + columns[None, :], 0)
    return HistoryBatch(
        items=torch.from_numpy(np.where(inside, sequences.items[flat], 0).astype(np.int64)),
        timestamps=torch.from_numpy(np.where(inside, sequences.timestamps[flat], 0).astype(np.int64)),
        lengths=torch.from_numpy(lengths.astype(np.int64)),
        contexts=None
        if sequences.contexts is None
        else torch.from_numpy(np.where(inside[..., None], sequences.contexts[flat], 0).astype(np.int64)),
    )
