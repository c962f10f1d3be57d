"""Generative models by name: the house model, and whatever else an installed package brings."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Protocol

from segue.errors import ConfigurationError
from segue.generative.settings import GenerativeSettings
from segue.protocols import TrainableRecommender

GROUP = "segue.generative"


class ModelFactory(Protocol):
    """Makes an untrained model. Its weights depend on torch's seed alone."""

    def __call__(
        self,
        settings: GenerativeSettings,
        *,
        codebook_id: str,
        level_sizes: Sequence[int],
        content_dimensions: int,
    ) -> TrainableRecommender: ...


def model_factory(name: str) -> ModelFactory:
    """The factory called ``name``: ``house``, or an entry point of the group ``segue.generative``.

    Raises ConfigurationError naming the models that exist.
    """
    if name == "house":
        from segue.generative.house import HouseModel

        return HouseModel
    found = {point.name: point for point in entry_points(group=GROUP)}
    if name not in found:
        names = ", ".join(sorted({"house", *found}))
        raise ConfigurationError(f"generative.model is {name!r}, which nothing provides (models: {names})")
    factory: ModelFactory = found[name].load()
    return factory
