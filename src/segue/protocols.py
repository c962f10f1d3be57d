"""What a generative recommender promises to decoding, evaluation and serving."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from segue.paths import Request, user_key

if TYPE_CHECKING:
    from segue.data.context import Vocabulary
    from segue.decoding.trie import Trie


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundItems:
    """The items a model is bound to: an item map and the items' aligned vectors."""

    codebook_id: str
    level_sizes: tuple[int, ...]
    codes: Tensor  # [N, L] int64
    vectors: Tensor  # [N, D] float32
    present: Tensor  # [N] bool: the item has a vector of its own
    active: Tensor  # [N] bool: may be generated (not retired)


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryBatch:
    """Histories, padded on the right inside the batch only."""

    items: Tensor  # [B, T] int64 item indices, 0 where padded
    timestamps: Tensor  # [B, T] int64 seconds
    lengths: Tensor  # [B] int64; 0: no history
    users: Tensor | None = None  # [B] int64 :func:`segue.paths.user_key`; None: nobody asked for them
    # Of F declared context features (segue.data.context), None where none are declared or nobody asked for them:
    contexts: Tensor | None = None  # [B, T, F] int64 codes of each event
    request: Tensor | None = None  # [B, F] int64 codes of the request itself: of the event that comes next

    def to(self, device: torch.device) -> HistoryBatch:
        """The same batch on ``device``."""
        return self.map(lambda value: value.to(device))

    def map(self, change: Callable[[Tensor], Tensor]) -> HistoryBatch:
        """The batch with every tensor that it has changed alike, each of which has B rows."""
        held: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(self)}
        return replace(self, **{name: change(value) for name, value in held.items() if value is not None})

    @classmethod
    def from_requests(
        cls, requests: Sequence[Request], max_length: int, vocabulary: Vocabulary | None = None
    ) -> HistoryBatch:
        """The newest ``max_length`` events of each request, with context codes where there is a ``vocabulary``."""
        lengths = [min(len(request.history), max_length) for request in requests]
        width = max([1, *lengths])
        items = np.zeros((len(requests), width), dtype=np.int64)
        timestamps = np.zeros((len(requests), width), dtype=np.int64)
        features = 0 if vocabulary is None else len(vocabulary.features)
        contexts = np.zeros((len(requests), width, features), dtype=np.int64)
        asked = np.zeros((len(requests), features), dtype=np.int64)
        for row, (request, length) in enumerate(zip(requests, lengths, strict=True)):
            if length:
                items[row, :length] = request.history[-length:]
                timestamps[row, :length] = request.timestamps[-length:]
            if vocabulary is not None:
                contexts[row, :length] = vocabulary.history(request.context, timestamps[row, :length])
                newest = int(request.timestamps[-1]) if length else 0
                asked[row] = vocabulary.request(request.context, request.now, newest)
        return cls(
            items=torch.from_numpy(items),
            timestamps=torch.from_numpy(timestamps),
            lengths=torch.tensor(lengths, dtype=torch.int64),
            users=torch.tensor([user_key(request.user_id) for request in requests], dtype=torch.int64),
            contexts=None if vocabulary is None else torch.from_numpy(contexts),
            request=None if vocabulary is None else torch.from_numpy(asked),
        )


@runtime_checkable
class GenerativeRecommender(Protocol):
    """A model that is bound to a codebook and speaks its codes. :class:`DenseHead` is what it may have besides.

    B requests, W beams, L levels, N items, d width.
    """

    codebook_id: str
    level_sizes: tuple[int, ...]

    @property
    def trie(self) -> Trie:
        """Of the items that the model is bound to. Raises BindingError where there are none."""
        ...

    def bind(self, items: BoundItems) -> None:
        """Derive the tables that follow from the items; no training.

        Raises BindingError for another codebook.
        """
        ...

    def loss(self, batch: HistoryBatch) -> dict[str, Tensor]:
        """``total`` and its parts; each event of the batch is predicted from those before it.

        Each is a mean over the events whose items are in the trie; a model that counts otherwise says over how many of a
        batch it is by a method ``loss_events(batch) -> Tensor``, or micro-batches would be weighted wrongly."""
        ...

    def encode(self, histories: HistoryBatch, context: Sequence[dict[str, str]] | None = None) -> Any:
        """Once a request, whatever the beam. The context's ``len`` is B."""
        ...

    def append(self, context: Any, events: HistoryBatch) -> Any:
        """Equal to encoding the longer history, inside the window."""
        ...

    def next_code_log_probs(self, context: Any, prefix: Tensor) -> Tensor:
        """[B, W, level_size] for prefixes [B, W, l] of codes.

        Normalised over the children that exist in the item map, whatever a request may be shown; -inf
        elsewhere."""
        ...

    def log_likelihood(self, context: Any, items: Tensor) -> Tensor:
        """[B, M] exact log-probabilities of candidate items [B, M]."""
        ...


@runtime_checkable
class ReadsContext(Protocol):
    """What a recommender has beside that, where it heeds declared context features."""

    vocabulary: Vocabulary | None  # None: no features were declared to it

    def declare_context(self, vocabulary: Vocabulary) -> None:
        """Told before training, or before its weights are loaded, how contexts are coded.

        Until something is learnt of them, the model answers as it would without."""
        ...


@runtime_checkable
class DenseHead(Protocol):
    """What a recommender has beside that, where it also scores the whole catalogue by dot products."""

    def user_vectors(self, context: Any, prefix: Tensor | None = None) -> Tensor:
        """[B, d], or [B, W, d] for prefixes [B, W, l] where the head is conditioned on them."""
        ...

    def item_vectors(self, items: Tensor | None = None) -> Tensor:
        """[N, d] (or [M, d]): scores are dot products with user vectors."""
        ...


class TrainableRecommender(GenerativeRecommender, Protocol):
    """What training, saving and loading need beside that: the usual methods of ``torch.nn.Module``."""

    content_dimensions: int

    def adopt(self, items: Tensor) -> None:
        """Told before training which of the bound items ([N] bool) have events to learn from.

        A model with parameters of single items makes them for these alone: what has no event would only be
        pushed away. Others do nothing."""
        ...

    @property
    def max_length(self) -> int:
        """Events of a history that it reads, the newest."""
        ...

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...

    def eval(self) -> Any: ...

    def to(self, device: str) -> Any: ...
