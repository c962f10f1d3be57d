"""Generative models by name: those of the house, and whatever else an installed package brings."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import entry_points
from typing import Protocol

from segue.errors import ConfigurationError
from segue.generative.settings import GenerativeSettings
from segue.protocols import TrainableRecommender

GROUP = "segue.generative"
_BUILT_IN = {  # module and class; imported when asked for, because torch is
    "house": ("segue.generative.house", "HouseModel"),
    "tiger": ("segue.generative.tiger", "TigerModel"),
    "hstu": ("segue.generative.hstu", "HstuModel"),
    "cobra": ("segue.generative.cobra", "CobraModel"),
}


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
    """The factory called ``name``: one of ours, or an entry point of the group ``segue.generative``.

    Raises ConfigurationError naming the models that exist.
    """
    if name in _BUILT_IN:
        module, cls = _BUILT_IN[name]
        built_in: ModelFactory = getattr(import_module(module), cls)
        return built_in
    check_model(name)
    factory: ModelFactory = entry_points(group=GROUP)[name].load()
    return factory


def check_model(name: str) -> None:
    """Raises ConfigurationError where there is no model called ``name``; loads none."""
    found = entry_points(group=GROUP).names
    if name not in _BUILT_IN and name not in found:
        names = ", ".join([*_BUILT_IN, *sorted(found)])
        raise ConfigurationError(f"generative.model is {name!r}, which nothing provides (models: {names})")


def unread_settings(name: str) -> frozenset[str]:
    """Settings that mean nothing to the model called ``name``, as its class says in ``unread``: no study tries
    values of them."""
    unread: frozenset[str] = getattr(model_factory(name), "unread", frozenset())
    return unread
