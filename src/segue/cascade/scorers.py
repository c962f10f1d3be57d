"""The neural models of the cascade, aligned with today's item table: requests in, vectors out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from segue.cascade.alignment import rows_of
from segue.cascade.sasrec import load_sasrec
from segue.cascade.two_tower import TwoTower, load_two_tower
from segue.errors import ArtifactError
from segue.items import Items, ItemVectors
from segue.paths import IndexArray, Request
from segue.protocols import HistoryBatch

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

CONTENT = "content"
_ROWS_AT_ONCE = 128  # requests encoded together, of similar length


class DenseScorer(Protocol):
    """A model whose score of an item is a product of two vectors. N items, B requests, d dimensions."""

    name: str
    vectors: Floats  # [N, d]; zeros where not known
    known: Bools  # [N] the items that it can score

    def users(self, requests: Sequence[Request]) -> tuple[Floats, Bools]:
        """[B, d] vectors, and [B] whether the request had any history that the model can read."""
        ...


class SequentialModel(Protocol):
    """A model of item ids: SASRec, and those that are asked like it. V rows, B histories, d dimensions."""

    @property
    def settings(self) -> Any:
        """With ``max_length``: how many events of a history it reads."""
        ...

    def eval(self) -> Any: ...

    def user_vectors(self, batch: HistoryBatch) -> Tensor:
        """[B, d] after the newest event of each history."""
        ...

    def item_vectors(self, items: Tensor | None = None) -> Tensor:
        """[V, d]: scores are products with user vectors."""
        ...


class SasrecScorer:
    """SASRec, or a model like it, over today's items: those without a row in its embedding are neither read nor
    scored."""

    def __init__(
        self, model: SequentialModel, item_ids: Sequence[str], items: Items, name: str = "sasrec"
    ) -> None:
        self.name = name
        model.eval()
        self._model = model
        self._rows = rows_of(items, item_ids)
        self.known: Bools = self._rows >= 0
        with torch.inference_mode():
            own = model.item_vectors().float().numpy()
        self.vectors: Floats = _aligned(own, self._rows)

    @classmethod
    def load(cls, folder: Path, items: Items) -> SasrecScorer:
        """Raises ArtifactError where the folder holds no SASRec."""
        model, ids = load_sasrec(folder)
        return cls(model, ids, items)

    def users(self, requests: Sequence[Request]) -> tuple[Floats, Bools]:
        own = [_readable(request, self.known, self._rows) for request in requests]
        return _encode(own, self._model.settings.max_length, self.vectors.shape[1], self._model.user_vectors)


class TwoTowerScorer:
    """The two-tower model over today's items: known by their id, by their content, or by both."""

    name = "two_tower"

    def __init__(self, model: TwoTower, item_ids: Sequence[str], content: ItemVectors, items: Items) -> None:
        """``content``: of any items, found by id. Raises ArtifactError where its width is not the model's."""
        expected = model.content.shape[1]
        if content.vectors.shape[1] != expected:
            raise ArtifactError(
                f"the items' content has {content.vectors.shape[1]} numbers, the two-tower model was trained "
                f"on {expected}: use the same encoders, or fit the incumbent again"
            )
        self._model = model.eval()
        rows = rows_of(items, item_ids)
        places = rows_of(items, content.item_ids)
        described = places >= 0
        described[described] = content.present[places[described]]
        self.known: Bools = (rows >= 0) | described
        with torch.inference_mode():
            told = torch.from_numpy(_aligned(content.vectors, np.where(described, places, -1)))
            vectors = model.item_vectors(told, model.id_vectors(torch.from_numpy(rows))).float().numpy()
        vectors[~self.known] = 0.0
        self.vectors: Floats = vectors
        self._table = torch.from_numpy(vectors)

    @classmethod
    def load(cls, folder: Path, items: Items) -> TwoTowerScorer:
        """Raises ArtifactError where the folder holds no two-tower model with its content."""
        model, ids = load_two_tower(folder)
        return cls(model, ids, ItemVectors.load(folder / CONTENT), items)

    def users(self, requests: Sequence[Request]) -> tuple[Floats, Bools]:
        own = [_readable(request, self.known, None) for request in requests]
        return _encode(own, self._model.settings.max_length, self.vectors.shape[1], self._user_vectors)

    def _user_vectors(self, batch: HistoryBatch) -> Tensor:
        return self._model.user_vectors(
            torch.nn.functional.embedding(batch.items, self._table), batch.lengths
        )


def _aligned(own: Floats, rows: IndexArray) -> Floats:
    """[N, d]: row ``rows[i]`` of ``own`` for item i, zeros for -1."""
    aligned = np.zeros((len(rows), own.shape[1]), dtype=np.float32)
    aligned[rows >= 0] = own[rows[rows >= 0]]
    return aligned


def _readable(request: Request, known: Bools, rows: IndexArray | None) -> Request:
    """The request with the events that the model can read, as its own rows where it has some."""
    keep = known[request.history]
    history = request.history[keep]
    return replace(
        request, history=history if rows is None else rows[history], timestamps=request.timestamps[keep]
    )


def _encode(
    requests: Sequence[Request],
    max_length: int,
    dimensions: int,
    user_vectors: Callable[[HistoryBatch], Tensor],
) -> tuple[Floats, Bools]:
    """[B, d] and [B], in batches of similar length so that little padding is computed."""
    lengths = np.array([len(request.history) for request in requests], dtype=np.int64)
    vectors = np.zeros((len(requests), dimensions), dtype=np.float32)
    order = np.argsort(lengths, kind="stable")[int((lengths == 0).sum()) :]
    with torch.inference_mode():
        for low in range(0, len(order), _ROWS_AT_ONCE):
            rows = order[low : low + _ROWS_AT_ONCE]
            batch = HistoryBatch.from_requests([requests[row] for row in rows], max_length)
            vectors[rows] = user_vectors(batch).float().numpy()
    return vectors, lengths > 0
