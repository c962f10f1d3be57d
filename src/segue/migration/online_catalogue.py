"""What is known of the items that an experiment may show, read from the bundles that served in it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from segue.evaluation.metrics import long_tail
from segue.items import ITEMS_FILE, Items
from segue.migration.online_experiment import Experiment
from segue.migration.online_users import CatalogueFacts


def catalogue_facts(bundles: Path, experiment: Experiment, long_tail_share: float) -> CatalogueFacts:
    """From the published bundles under ``bundles``; what can be shown now is in the bundle that is on trial.

    ``known`` is None where a bundle that served is not there any more. Raises ArtifactError where the bundle on trial
    is not.
    """
    items = Items.load(bundles / experiment.on_trial.facts.bundle_id)
    tail = long_tail(items.train_counts, long_tail_share)
    return CatalogueFacts(
        items=frozenset(items.ids),
        known=_known(bundles, {bundle for _, _, bundle in experiment.served}),
        long_tail=frozenset(item for item, rare in zip(items.ids, tail, strict=True) if rare),
        new=frozenset(item for item, count in zip(items.ids, items.train_counts, strict=True) if count == 0),
    )


def _known(bundles: Path, served: Iterable[str]) -> frozenset[str] | None:
    folders = [bundles / bundle for bundle in sorted(served)]
    if not all((folder / ITEMS_FILE).is_file() for folder in folders):
        return None
    return frozenset(item for folder in folders for item in Items.load(folder).ids)
