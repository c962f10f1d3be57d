"""Sums of models of different kinds: what a generative model of several experts is to be compared with."""

from __future__ import annotations

from pydantic import Field

from segue.benchmarking import answers
from segue.benchmarking.contender import Fit, Fitted
from segue.benchmarking.counted import path_ndcg
from segue.benchmarking.sequential import SummedScorer
from segue.cascade.cascade import DensePath
from segue.settings import Settings


class SasrecTwoTowerSettings(Settings):
    """SASRec's score plus the two-tower model's cosine times a factor."""

    factors: tuple[float, ...] = Field(
        (1.0, 2.0, 4.0, 8.0, 16.0, 32.0), min_length=1
    )  # the best on validation is taken
    seed: int = 17  # draws nothing: the parts have seeds


def fit_sasrec_two_tower(fit: Fit) -> Fitted:
    """The two summed, as the house model sums the experts of its dense head."""
    sasrec, two_tower = (part.model for part in fit.parts.values())

    def path(factor: float) -> DensePath:
        # (1 - w) a + w b ranks as a + f b does where f = w / (1 - w).
        return DensePath(SummedScorer(sasrec, two_tower, factor / (1 + factor)), fit.world.items)

    values = {factor: path_ndcg(fit.world, path(factor)) for factor in fit.settings.factors}
    best = max(sorted(values), key=lambda factor: values[factor])
    return Fitted(
        judge=answers.of_path(path(best)),
        validation=values[best],
        facts={"factor_of_second": best},
        **{
            name: sum(getattr(part, name) for part in fit.parts.values())
            for name in ("parameters", "train_seconds", "wall_seconds", "epochs")
        },
    )
