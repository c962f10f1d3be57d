"""Models that generate the next items' codes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segue.generative.path import GenerativePath, load_path
    from segue.generative.store import load_model

__all__ = ["GenerativePath", "load_model", "load_path"]


def __getattr__(name: str) -> Any:
    """Loaded on first use: settings are read from here where torch must not be imported."""
    if name == "load_model":
        from segue.generative.store import load_model

        return load_model
    if name in ("load_path", "GenerativePath"):
        from segue.generative import path

        return getattr(path, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
