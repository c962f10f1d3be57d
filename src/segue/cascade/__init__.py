"""The incumbent: recall, rank, select."""

from __future__ import annotations

from pathlib import Path as Folder
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segue.cascade.cascade import CascadePath
    from segue.items import Items
    from segue.paths import Path


def load_cascade(folder: Folder, items: Items) -> CascadePath:
    """See :func:`segue.cascade.cascade.load_cascade`; torch is imported only when this is called."""
    from segue.cascade import cascade

    return cascade.load_cascade(folder, items)


def load_paths(folder: Folder, items: Items) -> dict[str, Path]:
    """See :func:`segue.cascade.cascade.load_paths`; torch is imported only when this is called."""
    from segue.cascade import cascade

    return cascade.load_paths(folder, items)
