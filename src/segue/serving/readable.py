"""Whether a bundle's generative model can be loaded by this version of the code, asked before anybody is served by it.

A server goes on by the cascade where it cannot. Whoever promotes such a bundle would send a share of the
users to fallbacks, and learn of it from a guardrail.
"""

from __future__ import annotations

from pathlib import Path

from segue.errors import ArtifactError, BindingError
from segue.registry.bundle import ITEM_MAP, MODEL, read_bundle


def why_unreadable(bundle: Path) -> str | None:
    """Why the model of the bundle in ``bundle`` cannot serve; None: it can, or there is none in it.

    Raises ArtifactError where the bundle itself is damaged.
    """
    manifest = read_bundle(bundle, verify=False)
    if manifest.kind != "full":
        return None
    from segue.generative.path import load_path
    from segue.tokenizers.item_map import bound_items

    try:
        load_path(bundle / MODEL, bound_items(bundle / ITEM_MAP), manifest.decoding)
    except (ArtifactError, BindingError) as error:
        return f"the generative model of bundle {manifest.bundle_id[:12]} cannot be loaded: {error}"
    return None


def require_readable(bundle: Path) -> None:
    """Raises ArtifactError with what :func:`why_unreadable` says, if anything."""
    if (reason := why_unreadable(bundle)) is not None:
        raise ArtifactError(reason)
