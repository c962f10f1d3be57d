"""The generative path: encode, constrained beam, dense candidates, one score for all of them, select.

The score of a candidate i is ``(1 - w) log p_code(i) + w log p_dense(i)``: a geometric mixture of two
distributions over the whole catalogue, the product of the code head's steps and the dense head's softmax.
Both terms are exact for every candidate, whoever proposed it; neither is renormalised over what the rules
leave. A model without a dense head (TIGER) proposes by its beam alone and is scored by its codes alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from segue.decoding.beam import beam_search
from segue.decoding.settings import DecodingSettings
from segue.errors import ConfigurationError, DataError
from segue.generative.store import Folder, load_fusion, load_model
from segue.paths import IndexArray, ListRules, RankedList, Request, Scores
from segue.protocols import (
    BoundItems,
    DenseHead,
    GenerativeRecommender,
    HistoryBatch,
    ReadsContext,
    TrainableRecommender,
)
from segue.ranking.rules import allowed_mask, checked_items
from segue.ranking.select import select
from segue.schema import PathName

Heads = Literal["fused", "code", "dense"]

_BATCH = {"cpu": 64, "cuda": 256}  # requests that are decoded together: caches there, launches here
_BEAM, _DENSE = 1, 2  # bits of who proposed a candidate
_SOURCES = {_BEAM: "beam", _DENSE: "dense", _BEAM | _DENSE: "beam+dense"}


@dataclass(frozen=True, slots=True)
class Candidates:
    """What the heads propose for B requests, M places each, before selection."""

    items: Tensor  # [B, M] int64, -1: no candidate; an item stands once
    proposers: Tensor  # [B, M] int64: bits of ``_BEAM`` and ``_DENSE``
    code: Tensor  # [B, M] log-probabilities of the code head, -inf where there is no candidate
    dense: Tensor  # [B, M] of the dense head, likewise

    @property
    def from_beam(self) -> Tensor:
        """[B, M] bool: proposed by the beam, alone or too."""
        return (self.proposers & _BEAM) > 0

    @property
    def from_dense(self) -> Tensor:
        """[B, M] bool: proposed by the dense head, alone or too."""
        return (self.proposers & _DENSE) > 0


class GenerativePath:
    """A :class:`segue.paths.Path` over any :class:`GenerativeRecommender`.

    ``heads``: ``fused`` is what serves; ``code`` has neither dense candidates nor a dense score, ``dense``
    no beam and no code score. Where the model has no :class:`DenseHead`, ``fused`` is the code head and
    ``dense`` is refused, as is a ``dense_weight`` above 0. A beam or a number of dense candidates below the
    list's length is widened to it."""

    name = PathName.GENERATIVE

    def __init__(
        self,
        model: GenerativeRecommender,
        items: BoundItems,
        *,
        dense_weight: float,
        beam_width: int,
        dense_candidates: int,
        max_length: int,
        heads: Heads = "fused",
    ) -> None:
        if heads not in get_args(Heads):
            raise ConfigurationError(f"heads is {heads!r}: one of {', '.join(get_args(Heads))}")
        if not 0 <= dense_weight <= 1:
            raise ConfigurationError(f"dense_weight is {dense_weight}: it must lie between 0 and 1")
        self._dense = model if isinstance(model, DenseHead) else None
        if self._dense is None and (heads == "dense" or dense_weight > 0):
            asked = f"heads is {heads!r}" if heads == "dense" else f"dense_weight is {dense_weight}"
            raise ConfigurationError(
                f"{asked}, but {type(model).__name__} has no dense head: its weight must be 0, "
                "and its heads fused or code"
            )
        self.model = model
        self.vocabulary = model.vocabulary if isinstance(model, ReadsContext) else None
        self.dense_weight = {"fused": dense_weight, "code": 0.0, "dense": 1.0}[heads]
        self._fused_weight = dense_weight
        self.beam_width = beam_width
        self.dense_candidates = dense_candidates
        self.max_length = max_length
        self.heads: Heads = heads
        self._items = items
        self._active = items.active.numpy()

    @property
    def has_dense_head(self) -> bool:
        """Whether there are two heads to be fused, and to be looked at one by one."""
        return self._dense is not None

    def variant(self, heads: Heads) -> GenerativePath:
        """The same model with other heads (for the evaluation's table)."""
        return GenerativePath(
            self.model,
            self._items,
            dense_weight=self._fused_weight,
            beam_width=self.beam_width,
            dense_candidates=self.dense_candidates,
            max_length=self.max_length,
            heads=heads,
        )

    def recommend(self, requests: Sequence[Request], k: int, rules: ListRules) -> list[RankedList]:
        """One list a request. Raises DataError for k below 1, and for items that do not exist."""
        if k < 1:
            raise DataError(f"k is {k}: ask for at least one item")
        lists: list[RankedList] = []
        together = _BATCH[self.model.trie.items.device.type]
        for low in range(0, len(requests), together):
            lists.extend(self._recommend(requests[low : low + together], k, rules))
        return lists

    def propose(self, requests: Sequence[Request], rules: ListRules, *, at_least: int = 1) -> Candidates:
        """:meth:`candidates` for ``requests`` under ``rules``: all at once, with all that the model reads of a request."""
        masks = np.stack(
            [allowed_mask(rules, request, len(self._active)) & self._active for request in requests]
        )
        histories = HistoryBatch.from_requests(requests, self.max_length, self.vocabulary)
        return self.candidates(
            histories,
            torch.from_numpy(masks),
            at_least=at_least,
            contexts=[request.context for request in requests],
        )

    def _recommend(self, requests: Sequence[Request], k: int, rules: ListRules) -> list[RankedList]:
        found = self.propose(requests, rules, at_least=k)
        scores = fused(found, self.dense_weight).cpu().numpy()
        items, proposers = found.items.cpu().numpy(), found.proposers.cpu().numpy()
        lists = []
        for row, request in enumerate(requests):
            real = items[row] >= 0
            lists.append(
                select(
                    items[row][real],
                    scores[row][real],
                    [_SOURCES[int(bits)] for bits in proposers[row][real]],
                    rules,
                    k,
                    request.history,
                )
            )
        return lists

    @torch.inference_mode()
    def score(self, requests: Sequence[Request], items: Sequence[IndexArray]) -> list[Scores]:
        """[M] exact scores of each request's ``items`` [M]: those of its own lists. -inf: a retired item, which cannot be
        said.

        Raises DataError for items that do not exist, and where not every request has its array of them.
        """
        if len(items) != len(requests):
            raise DataError(f"{len(items)} arrays of items for {len(requests)} requests: give each its own")
        scores: list[Scores] = []
        together = _BATCH[self.model.trie.items.device.type]
        for low in range(0, len(requests), together):
            scores.extend(self._score(requests[low : low + together], items[low : low + together]))
        return scores

    def _score(self, requests: Sequence[Request], items: Sequence[IndexArray]) -> Iterator[Scores]:
        asked = np.full((len(items), max([1, *(len(one) for one in items)])), -1, dtype=np.int64)
        for row, one in enumerate(items):
            known = checked_items(one, len(self._active), "score")
            asked[row, : len(known)] = np.where(self._active[known], known, -1)
        histories = HistoryBatch.from_requests(requests, self.max_length, self.vocabulary)
        context = self.model.encode(histories, [request.context for request in requests])
        placed = torch.from_numpy(asked).to(self.model.trie.items.device)
        dense = self._dense_log_probs(context)
        found = self._scored(context, placed, torch.zeros_like(placed), dense)
        total = fused(found, self.dense_weight).cpu().numpy()
        for row, one in enumerate(items):
            yield total[row, : len(one)]

    @torch.inference_mode()
    def candidates(
        self,
        histories: HistoryBatch,
        allowed: Tensor,
        *,
        at_least: int = 1,
        contexts: Sequence[dict[str, str]] | None = None,
    ) -> Candidates:
        """What the heads propose among the ``allowed`` [B, N] items, with both scores exact for each
        candidate."""
        context, trie = self.model.encode(histories, contexts), self.model.trie
        allowed = allowed.to(trie.items.device)
        dense = self._dense_log_probs(context)  # [B, N]
        proposed: list[tuple[int, Tensor]] = []
        if self.heads != "dense":
            beam, _ = beam_search(self.model, context, trie, allowed, max(self.beam_width, at_least))
            proposed.append((_BEAM, beam))
        if self.heads != "code" and dense is not None:
            wanted = min(max(self.dense_candidates, at_least), dense.shape[1])
            best, place = dense.masked_fill(~allowed, -torch.inf).topk(wanted, dim=1)
            proposed.append((_DENSE, torch.where(best.isneginf(), -1, place)))
        items, proposers = _union(proposed)
        return self._scored(context, items, proposers, dense)

    def _scored(self, context: Any, items: Tensor, proposers: Tensor, dense: Tensor | None) -> Candidates:
        """Both heads' exact log-probabilities of ``items`` [B, M]; ``dense`` [B, N] of all of them."""
        absent, known = items < 0, items.clamp(min=0)
        neither = torch.zeros(items.shape, device=items.device)  # of a head that has no part in the score
        code = neither if self.heads == "dense" else self.model.log_likelihood(context, known)
        return Candidates(
            items,
            proposers,
            code.masked_fill(absent, -torch.inf),
            (neither if dense is None else dense.gather(1, known)).masked_fill(absent, -torch.inf),
        )

    def _dense_log_probs(self, context: Any) -> Tensor | None:
        """[B, N] of the dense head; None where the model has none."""
        if self._dense is None:
            return None
        users, vectors = self._dense.user_vectors(context), self._dense.item_vectors()
        active = self._items.active.to(vectors.device)
        return (users @ vectors.T).float().masked_fill(~active, -torch.inf).log_softmax(dim=-1)


def fused(candidates: Candidates, dense_weight: float) -> Tensor:
    """[B, M] ``(1 - w) code + w dense``; -inf where there is no candidate. Zero weight leaves a term out."""
    total = torch.zeros_like(candidates.code)
    if dense_weight < 1:
        total = total + (1 - dense_weight) * candidates.code
    if dense_weight > 0:
        total = total + dense_weight * candidates.dense
    return total.masked_fill(candidates.items < 0, -torch.inf)


def _union(proposed: Sequence[tuple[int, Tensor]]) -> tuple[Tensor, Tensor]:
    """Items [B, M] with each item once (-1 in the other places), and the bits of all who proposed it."""
    items = torch.cat([items for _, items in proposed], dim=1)
    bits = torch.cat([torch.full_like(items, bit) for bit, items in proposed], dim=1)
    items, order = items.sort(dim=1, stable=True)
    bits = bits.gather(1, order)
    same = torch.zeros_like(items, dtype=torch.bool)
    same[:, 1:] = items[:, 1:] == items[:, :-1]
    # Nobody proposes an item twice, so an item stands at most twice: its second bit moves to the first.
    after = torch.zeros_like(bits)
    after[:, :-1] = torch.where(same[:, 1:], bits[:, 1:], 0)
    return items.masked_fill(same, -1), (bits + after).masked_fill(same, 0)


def path_of(
    model: TrainableRecommender,
    items: BoundItems,
    decoding: DecodingSettings,
    *,
    dense_weight: float,
    heads: Heads = "fused",
) -> GenerativePath:
    """The path of ``model`` as ``decoding`` has it, over histories as long as the model was made for."""
    return GenerativePath(
        model,
        items,
        dense_weight=dense_weight,
        beam_width=decoding.beam_width,
        dense_candidates=decoding.dense_candidates,
        max_length=model.max_length,
        heads=heads,
    )


def load_path(
    folder: Folder, items: BoundItems, decoding: Mapping[str, Any] | DecodingSettings, heads: Heads = "fused"
) -> GenerativePath:
    """The path of the model in ``folder`` over ``items``.

    Raises ArtifactError for a folder that holds no whole model, BindingError for items of another codebook.
    """
    settings = (
        decoding
        if isinstance(decoding, DecodingSettings)
        else DecodingSettings.model_validate(dict(decoding))
    )
    model = load_model(folder, items)
    return path_of(model, items, settings, dense_weight=load_fusion(folder), heads=heads)
