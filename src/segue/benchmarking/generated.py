"""Contenders that generate: any model of :mod:`segue.generative` by name."""

from __future__ import annotations

from collections.abc import Callable

from segue.benchmarking import answers
from segue.benchmarking.contender import CHECKPOINTS, Fit, Fitted
from segue.benchmarking.curve import Curve
from segue.benchmarking.space import Space
from segue.benchmarking.world import World
from segue.generative.path import path_of
from segue.generative.registry import unread_settings
from segue.generative.settings import GenerativeSettings
from segue.generative.training import choose_fusion, train

_RANGES = {
    "learning_rate": (1e-3, 8e-3, True),
    "dropout": (0.1, 0.6, False),
    "code_temperature": (0.05, 0.4, True),
    "dense_temperature": (0.05, 0.25, True),
    "content_scale": (0.01, 1.0, True),
    "identity_dropout": (0.0, 0.5, False),
}


def defaults(name: str) -> Callable[[World], GenerativeSettings]:
    def of(world: World) -> GenerativeSettings:
        return world.params.generative.model_copy(update={"model": name})

    return of


def space(name: str) -> Space:
    """What of the settings the model reads."""
    unread = unread_settings(name)
    return Space({key: bounds for key, bounds in _RANGES.items() if key not in unread})


def fit_generative(fit: Fit) -> Fitted:
    """Trained on the training part, the best epoch and the fusion weight chosen on validation."""
    world = fit.world
    settings: GenerativeSettings = fit.settings.model_copy(
        update={"device": world.device, "threads": world.threads}
    )
    bound = world.bound(fit.tokenizer)
    curve = Curve(fit.folder, len(world.training.items), fit.report)
    trained = train(
        world.training,
        bound,
        settings,
        validation=world.validated,
        checkpoints=fit.folder / CHECKPOINTS,
        report=curve.add,
        progress=fit.progress,
    )
    model, decoding = trained.model, world.params.decoding
    weight, values = choose_fusion(model, bound, world.validated, decoding)
    path = path_of(model, bound, decoding, dense_weight=weight)
    return Fitted(
        judge=answers.of_heads(path),
        validation=values[weight],
        parameters=sum(each.numel() for each in model.parameters()),
        train_seconds=curve.train_seconds,
        wall_seconds=curve.wall_seconds,
        epochs=trained.result.epochs,
        best_epoch=trained.result.best_epoch,
        curve=curve.epochs,
        facts={
            "dense_weight": weight,
            "code_weight": 1 - weight,
            "fusion": {f"{key:g}": value for key, value in values.items()},
        },
    )
