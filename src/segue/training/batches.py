"""From jagged sequences to padded batches, in an order that the seed and the epoch decide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from segue.data.sequences import Sequences
from segue.protocols import HistoryBatch

_WIDTH_MULTIPLE = 16


def sequence_batches(
    sequences: Sequences, *, batch_size: int, max_length: int, seed: int, epoch: int
) -> Iterator[HistoryBatch]:
    """Every event once: users' histories, those longer than ``max_length`` cut into consecutive windows.

    Where a long history is cut changes from epoch to epoch. Windows are shuffled by (``seed``, ``epoch``),
    sorted by length inside buckets of 32 batches so that a batch holds little padding, and the batches are
    shuffled again. Equal arguments give equal batches, whatever ran before."""
    generator = np.random.default_rng([seed, epoch])
    starts, ends = _windows(sequences, max_length, generator)
    order = generator.permutation(len(starts))
    bucket = batch_size * 32
    batches: list[np.ndarray] = []
    for low in range(0, len(order), bucket):
        rows = order[low : low + bucket]
        rows = rows[np.argsort(ends[rows] - starts[rows], kind="stable")]
        batches.extend(rows[at : at + batch_size] for at in range(0, len(rows), batch_size))
    for index in generator.permutation(len(batches)):
        rows = batches[int(index)]
        # Few different shapes: CPU kernels for bf16 are compiled once a shape, at a price above running them.
        yield _padded(sequences, starts[rows], ends[rows], multiple=_WIDTH_MULTIPLE, at_most=max_length)


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
    """Histories before each (user index, position) of ``targets``, in batches of similar length.

    Yields the batch, its targets' item indices [B] and the rows of ``targets`` that it holds [B].
    """
    users = np.asarray([user for user, _ in targets], dtype=np.int64)
    positions = np.asarray([position for _, position in targets], dtype=np.int64)
    order = np.argsort(np.minimum(positions, max_length), kind="stable")
    for low in range(0, len(order), batch_size):
        rows = order[low : low + batch_size]
        ends = sequences.offsets[users[rows]] + positions[rows]
        batch = histories(sequences, users[rows], ends, max_length=max_length)
        yield batch, np.asarray(sequences.items[ends], dtype=np.int64), rows


def histories(sequences: Sequences, users: np.ndarray, ends: np.ndarray, *, max_length: int) -> HistoryBatch:
    """The newest ``max_length`` events of each of ``users`` [B] before the flat positions ``ends`` [B]."""
    return _padded(sequences, np.maximum(np.asarray(sequences.offsets)[users], ends - max_length), ends)


def _padded(
    sequences: Sequences,
    starts: np.ndarray,
    ends: np.ndarray,
    *,
    multiple: int = 1,
    at_most: int | None = None,
) -> HistoryBatch:
    """Events ``[start, end)`` of the flat arrays, one row each, padded on the right to a multiple of a
    width."""
    lengths = ends - starts
    width = -(-max(1, int(lengths.max(initial=0))) // multiple) * multiple
    columns = np.arange(width if at_most is None else min(width, at_most))
    inside = columns[None, :] < lengths[:, None]
    flat = np.where(inside, starts[:, None] + columns[None, :], 0)
    return HistoryBatch(
        items=torch.from_numpy(np.where(inside, sequences.items[flat], 0).astype(np.int64)),
        timestamps=torch.from_numpy(np.where(inside, sequences.timestamps[flat], 0).astype(np.int64)),
        lengths=torch.from_numpy(lengths.astype(np.int64)),
    )
