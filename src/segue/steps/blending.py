"""What ``segue blend fit`` does: weights of the next blend, from what users clicked on in the store."""

from __future__ import annotations

import time

import polars as pl

from segue.blending.fit import FittedBlend, fit_weights, shown_items
from segue.errors import ConfigurationError, StateError
from segue.migration.deployment import Deployment
from segue.migration.ledger import Ledger
from segue.schema import PathName
from segue.serving.store import Store
from segue.workspace import Workspace

_DAY = 86_400


def fit_blend(
    workspace: Workspace, dataset: str, store: Store, *, kind: str = "click", days: float | None = None
) -> FittedBlend:
    """The weights by which users responded to interleaved and blended lists, of the last ``days`` (None: all).

    Changes nothing. Raises StateError while a blend is being compared with anything, whose weights must stay what they
    are, and DataError where there is too little to learn from.
    """
    refuse_while_frozen(_current(workspace, dataset))
    if days is not None and not days > 0:
        raise ConfigurationError(f"--days {days:g}: it must be above 0")
    since = None if days is None else time.time() - days * _DAY
    parts = []
    for exposures, attributed in store.attributed():
        if since is not None:
            exposures = exposures.filter(pl.col("shown_at") >= since)
        clicks = attributed.filter((pl.col("kind") == kind) & pl.col("attributed_to").is_not_null())
        parts.append(shown_items(exposures, clicks.select("item_id", exposure_id="attributed_to")))
    return fit_weights(pl.concat(parts))


def refuse_while_frozen(deployment: Deployment | None) -> None:
    """Raises StateError where ``deployment`` shows blended lists to some users and others to the rest."""
    if deployment is None or len(deployment.arms) == 1:
        return
    blended = [arm.name for arm in deployment.arms if arm.path is PathName.BLENDED]
    if blended:
        raise StateError(
            f"arm {blended[0]!r} of revision {deployment.revision} is a blend that an experiment compares: its weights are "
            "frozen until the experiment has ended"
        )


def _current(workspace: Workspace, dataset: str) -> Deployment | None:
    ledger = Ledger.open(workspace, dataset)
    try:
        return ledger.current()
    finally:
        ledger.close()
