"""Step ``refit_check``: are the refitted models still those that were judged?

The offline evaluation judges models that never saw the test part; the bundle holds models trained on everything. Their
lists for the same histories are compared, as evidence that is bound to the bundle.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from segue.cascade import load_cascade
from segue.data.sequences import Sequences
from segue.evaluation.assessment import rounded
from segue.evaluation.overlap import full_histories, list_overlap
from segue.generative.path import load_path
from segue.items import Items
from segue.migration.evidence import EVIDENCE_FILE, Evidence, write_evidence
from segue.paths import ListRules
from segue.paths import Path as RecommendationPath
from segue.registry.bundle import read_bundle
from segue.schema import UserGroup
from segue.steps.runner import StepContext, code_version
from segue.tokenizers.item_map import bound_items


def run(context: StepContext) -> None:
    """Write ``evidence.json``: ``refit_overlap@k`` of the generative path and of the cascade."""
    settings = context.params.evaluation
    torch.set_num_threads(settings.threads)
    k = settings.headline_cutoff
    manifest = read_bundle(context.inputs["bundle"])
    items = Items.load(context.inputs["splits"])
    bound = bound_items(context.inputs["item_map"])
    regular = Sequences.load(context.inputs["sequences"] / UserGroup.REGULAR.value)
    requests = full_histories(regular, settings.overlap_users, settings.seed)
    active = bound.active.numpy()
    rules = ListRules(filter_seen=context.params.rules.filter_seen, allowed=None if active.all() else active)

    def generative(folder: Path) -> RecommendationPath:
        return load_path(folder, bound, context.params.decoding)

    def cascade(folder: Path) -> RecommendationPath:
        return load_cascade(folder, items)

    found = []
    for load, judged, served in (
        (generative, "generative_model", "refit"),
        (cascade, "incumbent", "incumbent_refit"),
    ):
        one, other = load(context.inputs[judged]), load(context.inputs[served])
        shares = list_overlap(one, other, requests, rules, k)
        mean = rounded(float(shares.mean()))
        found.append(
            Evidence(
                kind="serving",
                metric=f"refit_overlap@{k}",
                path_a=one.name.value,
                recipe_a=manifest.recipe,
                bundle=manifest.bundle_id,
                unit="user",
                interval="exact",  # of these users and these two models: nothing is estimated beyond them
                estimate=mean,
                low=mean,
                high=mean,
                sd=rounded(float(np.std(shares, ddof=1))) if len(shares) > 1 else None,
                confidence=1.0,
                n=len(shares),
                protocol=f"lists of {k} for whole histories, the evaluated model's beside the refitted one's",
                dataset=context.dataset,
                snapshot=manifest.histories_snapshot,
                code_version=code_version((*context.step.code, f"steps.{context.step.name}")),
            )
        )
        context.metrics[f"{one.name.value}/refit_overlap_at_{k}"] = round(float(shares.mean()), 4)
        context.progress(
            f"{one.name.value}: {shares.mean():.0%} of the {k} items are the same after the refit"
        )
    write_evidence(context.output / EVIDENCE_FILE, found)
