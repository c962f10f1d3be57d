"""Contenders that count: popularity, and item-to-item neighbours."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from segue.benchmarking import answers
from segue.benchmarking.contender import Fit, Fitted
from segue.benchmarking.world import World
from segue.cascade.cascade import ItemKnnPath, PopularityPath
from segue.cascade.item_knn import ItemKnn
from segue.cascade.popularity import Popularity
from segue.evaluation.metrics import ndcg, relevance
from segue.evaluation.protocol import evaluate_path
from segue.paths import ListRules, Path
from segue.settings import Settings

K = 10
_BATCH = 256


class PopularitySettings(Settings):
    """How fast an event ceases to count."""

    half_life_days: float | None = Field(30.0, gt=0)  # None: never
    seed: int = 17  # draws nothing


class ItemKnnSettings(Settings):
    """As the incumbent has them; see :class:`segue.cascade.settings.CascadeSettings`."""

    neighbours: int = Field(200, ge=1)
    shrinkage: float = Field(10.0, ge=0)
    half_life: float | None = Field(5.0, gt=0)
    seed: int = 17  # draws nothing


def item_knn_defaults(world: World) -> ItemKnnSettings:
    cascade = world.params.cascade
    return ItemKnnSettings(
        neighbours=cascade.item_knn_neighbours,
        shrinkage=cascade.item_knn_shrinkage,
        half_life=cascade.item_knn_half_life,
    )


def fit_popularity(fit: Fit) -> Fitted:
    """Counts of the training part. Data without timestamps has no half life, whatever is set."""
    model = Popularity.fit(
        fit.world.training, fit.world.items.ids, half_life_days=fit.settings.half_life_days
    )
    return _counted(fit, PopularityPath(model, fit.world.items), model, len(model.counts))


def fit_item_knn(fit: Fit) -> Fitted:
    settings = fit.settings
    model = ItemKnn.fit(
        fit.world.training,
        fit.world.items.ids,
        neighbours=settings.neighbours,
        shrinkage=settings.shrinkage,
        half_life=settings.half_life,
    )
    return _counted(fit, ItemKnnPath(model, fit.world.items), model, model.similarity.nnz)


def _counted(fit: Fit, path: Path, model: Any, parameters: int) -> Fitted:
    value = path_ndcg(fit.world, path)
    if fit.report is not None:
        fit.report(0, {"validation": value})
    return Fitted(judge=answers.of_path(path), validation=value, parameters=parameters, model=model)


def path_ndcg(world: World, path: Path) -> float:
    """NDCG@10 of what ``path`` serves on validation, seen items hidden."""
    cases = world.validation_cases()
    found = evaluate_path(path, cases, ListRules(filter_seen=True), K, _BATCH)
    return float(ndcg(*relevance(found.lists, cases.targets), K).mean())
