"""Where a model is trained, checked before anything is."""

from __future__ import annotations

from segue.errors import ConfigurationError


def check_device(device: str, setting: str) -> None:
    """Raises ConfigurationError naming the ``setting`` that asks for a GPU where torch finds none."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError(f"{setting} is cuda, and torch finds no GPU here: set it to cpu")
