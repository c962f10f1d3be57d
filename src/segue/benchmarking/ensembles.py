"""Contenders that are made of others: sums, which a generative model of several experts is compared with, and the cascade."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from segue.benchmarking import answers
from segue.benchmarking.contender import Fit, Fitted
from segue.benchmarking.counted import path_ndcg
from segue.cascade.cascade import CascadePath, DensePath
from segue.cascade.scorers import DenseScorer
from segue.paths import Request
from segue.settings import Settings


class PairSettings(Settings):
    """Two models, summed."""

    weights: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the second; the best on validation is taken
    seed: int = 17  # draws nothing: the parts have seeds


class CascadeOfPartsSettings(Settings):
    """The incumbent cascade, of the contenders that are its parts."""

    recall_per_route: int = Field(200, ge=1)
    seed: int = 17  # draws nothing: the parts have seeds


class SasrecTwoTowerSettings(Settings):
    """SASRec's score plus the two-tower model's cosine times a factor."""

    factors: tuple[float, ...] = Field(
        (1.0, 2.0, 4.0, 8.0, 16.0, 32.0), min_length=1
    )  # the best on validation is taken
    seed: int = 17  # draws nothing: the parts have seeds


class SummedScorer:
    """(1 - w) a + w b of two scorers over the same items.

    The sum of two log-softmaxes ranks items just so: what normalises each is the same for all items of a request.
    """

    def __init__(self, first: DenseScorer, second: DenseScorer, weight: float) -> None:
        self.name = f"{first.name}+{second.name}"
        self._parts = ((first, np.float32(1 - weight)), (second, np.float32(weight)))
        self.vectors = np.concatenate([first.vectors, second.vectors], axis=1)
        self.known = first.known & second.known

    def users(self, requests: Sequence[Request]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """[B, d] vectors, and [B] whether both could read the history."""
        vectors, answered = zip(*(part.users(requests) for part, _ in self._parts), strict=True)
        scaled = [
            own.astype(np.float32) * weight for own, (_, weight) in zip(vectors, self._parts, strict=True)
        ]
        return np.concatenate(scaled, axis=1), answered[0] & answered[1]


def fit_pair(fit: Fit) -> Fitted:
    """The sum of the two parts, weighed by validation: what an ensemble of two towers has to beat."""
    first, second = (part.model for part in fit.parts.values())
    return _summed(
        fit, first, second, "weight_of_second", {weight: weight for weight in fit.settings.weights}
    )


def fit_sasrec_two_tower(fit: Fit) -> Fitted:
    """The two summed, as the house model sums the experts of its dense head."""
    sasrec, two_tower = (part.model for part in fit.parts.values())
    return _with_two_tower(fit, sasrec, two_tower)


def fit_trio(fit: Fit) -> Fitted:
    """Both kinds of SASRec, weighed alike, and the two-tower model: the experts of a house model whose three towers score."""
    sasrec, with_content, two_tower = (part.model for part in fit.parts.values())
    return _with_two_tower(fit, SummedScorer(sasrec, with_content, 0.5), two_tower)


def _with_two_tower(fit: Fit, sasrec: DenseScorer, two_tower: DenseScorer) -> Fitted:
    # (1 - w) a + w b ranks as a + f b does where f = w / (1 - w).
    weights = {factor: factor / (1 + factor) for factor in fit.settings.factors}
    return _summed(fit, sasrec, two_tower, "factor_of_second", weights)


def _summed(
    fit: Fit, first: DenseScorer, second: DenseScorer, name: str, weights: Mapping[float, float]
) -> Fitted:
    """The sum of both that is best on validation; ``weights`` of the second by what ``facts`` call ``name``."""

    def path(key: float) -> DensePath:
        return DensePath(SummedScorer(first, second, weights[key]), fit.world.items)

    values = {key: path_ndcg(fit.world, path(key)) for key in weights}
    best = max(sorted(values), key=lambda key: values[key])
    if fit.report is not None:
        fit.report(0, {"validation": values[best]})
    return Fitted(
        judge=answers.of_path(path(best)), validation=values[best], facts={name: best}, **_sums(fit)
    )


def fit_cascade(fit: Fit) -> Fitted:
    """Recall by all four parts, ranked by SASRec."""
    world, parts = fit.world, fit.parts
    path = CascadePath(
        world.items,
        world.params.cascade.model_copy(update={"recall_per_route": fit.settings.recall_per_route}),
        sasrec=parts["sasrec"].model,
        item_knn=parts["item_knn"].model,
        two_tower=parts["two_tower"].model,
        popularity=parts["popularity"].model,
    )
    return Fitted(judge=answers.of_path(path), validation=path_ndcg(world, path), **_sums(fit))


def _sums(fit: Fit) -> dict[str, Any]:
    """What the parts cost together."""
    return {
        name: sum(getattr(part, name) for part in fit.parts.values())
        for name in ("parameters", "train_seconds", "wall_seconds", "epochs")
    }
