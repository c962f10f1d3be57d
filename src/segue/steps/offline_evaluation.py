"""Step ``offline_evaluation``: every path's lists scored on the test part, with intervals, as evidence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segue.artifacts import read_json
from segue.bases import REPLACED_MODEL
from segue.blending.blended import BlendedPath
from segue.blending.compose import compose
from segue.cascade import load_paths
from segue.data.sequences import Sequences
from segue.evaluation.assessment import Catalogue, assess, rounded, to_evidence, user_metrics
from segue.evaluation.blend import ByProposer, best_share, blend_by_share
from segue.evaluation.protocol import (
    add_beginnings,
    audience,
    build_cases,
    evaluate_path,
    head_agreement,
    slices,
)
from segue.evaluation.results import choose_examples, titles_of, write_results
from segue.generative.explain import explain, score_of, sentence
from segue.generative.path import load_path
from segue.items import Items, ItemVectors
from segue.params import Params
from segue.paths import CandidateRanker, ItemScorer, ListRules, Request
from segue.paths import Path as RecommendationPath
from segue.protocols import BoundItems
from segue.registry.bundle import stated_recipe
from segue.schema import Part, PathName, UserGroup
from segue.steps.runner import StepContext, code_version, read_record
from segue.tokenizers.item_map import bound_items
from segue.training.provenance import trained_on

GENERATIVE, REPLACED = "generative", "replaced"
SHOWN = ("cascade", GENERATIVE)  # the lists of the examples
AGREEMENT_USERS = 64  # asked twice, to see that a short list is the head of the long one


def run(context: StepContext) -> None:
    """Read the test part once, ask every contender, and write what came out (see ``evaluation.results``)."""
    params = context.params
    settings = params.evaluation
    torch.set_num_threads(settings.threads)
    items = Items.load(context.inputs["splits"])
    split = read_json(context.inputs["splits"] / "splits.json")
    assert isinstance(split, dict)
    regular = Sequences.load(context.inputs["sequences"] / UserGroup.REGULAR.value)
    new = Sequences.load(context.inputs["sequences"] / UserGroup.NEW.value)
    bound = bound_items(context.inputs["item_map"])
    vectors = ItemVectors.load(context.inputs["item_map"])
    training = regular.training_part()
    active = bound.active.numpy()
    catalogue = Catalogue(
        train_counts=items.train_counts,
        audience=audience(training, len(items)),
        training_users=len(training),
        vectors=vectors.vectors,
        present=vectors.present,
        active=active,
    )
    rules = ListRules(filter_seen=params.rules.filter_seen, allowed=None if active.all() else active)

    cases = build_cases({UserGroup.REGULAR: regular, UserGroup.NEW: new}, Part.TEST.value)
    cases = add_beginnings(cases, new, by_time=split["protocol"] == "global_time")
    context.record["test_reads"] = 1
    earlier = read_record(context.workspace, context.dataset, context.step.name).get("test_reads_in_all", 0)
    context.record["test_reads_in_all"] = int(earlier) + 1

    answers, per_user, agreement = {}, {}, {}
    paths = contenders(context.inputs, items, bound, params)
    if (replaced := context.kept(REPLACED_MODEL)) is not None:
        # Both were trained without the test part, so the retrained model is judged beside the one that it replaces.
        paths[REPLACED] = load_path(replaced, bound, params.decoding)
    blend = _add_composed(context, paths, regular, rules)
    for name, path in paths.items():
        context.progress(f"{name}: {len(cases)} lists of {settings.list_length}")
        found = evaluate_path(path, cases, rules, settings.list_length, settings.batch_size)
        answers[name] = found
        per_user[name] = user_metrics(
            found,
            cases,
            catalogue,
            settings,
            filter_seen=params.rules.filter_seen,
            proposes_by_beam=name.startswith(GENERATIVE),
        )
        share, users = head_agreement(
            path, cases, rules, found.lists, settings.headline_cutoff, AGREEMENT_USERS
        )
        agreement[name] = {"share": rounded(share), "users": users}

    members = slices(
        cases,
        items.train_counts,
        long_tail_share=settings.long_tail_share,
        short_history=settings.short_history,
    )
    context.progress(f"{settings.bootstrap_samples} bootstrap samples of {int(members['all'].sum())} users")
    pairs = [(GENERATIVE, other) for other in answers if other != GENERATIVE]
    pairs += [(name, "cascade") for name in settings.composed]
    pairs.append(("cascade", "popularity"))  # what an incumbent must be worth at the least
    assessment = assess(per_user, answers, members, pairs, catalogue, settings)
    recipe = stated_recipe(
        incumbent=context.inputs["incumbent"],
        rules=params.rules.model_dump(mode="json"),
        decoding=params.decoding.model_dump(mode="json"),
        model=context.inputs["generative_model"],
    )
    evidence = to_evidence(
        assessment,
        recipe=recipe,
        values_of=(GENERATIVE, "cascade", *settings.composed),
        confidence=settings.confidence,
        protocol=f"{split['protocol']}, test, full catalogue, seen items "
        + ("hidden" if params.rules.filter_seen else "shown"),
        dataset=context.dataset,
        snapshot=context.input_hashes["splits"],
        code_version=code_version((*context.step.code, f"steps.{context.step.name}")),
    )
    write_results(
        context.output,
        assessment=assessment,
        evidence=evidence,
        per_user=per_user,
        answers=answers,
        cases=cases,
        slices=members,
        examples=choose_examples(
            cases,
            members["all"],
            answers,
            items,
            shown=SHOWN,
            users=settings.examples,
            k=settings.headline_cutoff,
            seed=settings.seed,
            why={name: _why(paths[name], items) for name in SHOWN if score_of(paths[name]) is not None},
        ),
        protocol=_protocol(
            context, split, items, assessment.users, agreement, recipe, blend, retired=int((~active).sum())
        ),
    )
    _report(context, assessment.values["all"])


def contenders(
    inputs: Mapping[str, Path], items: Items, bound: BoundItems, params: Params
) -> dict[str, RecommendationPath]:
    """Every path that is measured, in the order of the tables.

    The incumbent's parts, the cascade that serves, and the generative path: as it is served (fused) and, where
    its model has two heads, its code head alone (no dense candidates, no dense score) and its dense head alone.
    """
    parts = load_paths(inputs["incumbent"], items)
    generative = load_path(inputs["generative_model"], bound, params.decoding)
    paths: dict[str, RecommendationPath] = {
        **{name: parts[name] for name in ("popularity", "item_knn", "two_tower", "sasrec", "cascade")},
        GENERATIVE: generative,
    }
    if generative.has_dense_head:
        paths["generative_code"] = generative.variant("code")
        paths["generative_dense"] = generative.variant("dense")
    return paths


def _why(path: RecommendationPath, items: Items) -> Callable[[Request, int], str]:
    """A sentence on why an item is in a request's list, from the events of the history alone."""
    score = score_of(path)
    titles = titles_of(items)
    return lambda request, item: sentence(
        explain(score, request, item, None), request, titles, items.train_counts
    )


def _add_composed(
    context: StepContext, paths: dict[str, RecommendationPath], regular: Sequences, rules: ListRules
) -> dict[str, Any] | None:
    """Put the paths that are made of the cascade's and the generative one among ``paths``.

    Returns the blend's weights and, by the generative share, the figures on validation that chose them; None: no blend
    is measured.
    """
    settings = context.params.evaluation
    cascade, generative = paths["cascade"], paths[GENERATIVE]
    blend = None
    for name in map(PathName, settings.composed):
        if name is PathName.BLENDED:
            cases = build_cases({UserGroup.REGULAR: regular}, Part.VALIDATION.value)
            context.progress(f"blend: {len(settings.blend_shares)} weights on validation, {len(cases)} users")
            by_share = blend_by_share(
                cascade,
                generative,
                cases,
                rules,
                shares=settings.blend_shares,
                k=settings.headline_cutoff,
                batch_size=settings.batch_size,
            )
            share = best_share(by_share)
            weights = {PathName.CASCADE.value: 1 - share, PathName.GENERATIVE.value: share}
            blend = {
                "weights": weights,
                f"validation_ndcg@{settings.headline_cutoff}": {
                    str(tried): rounded(figure) for tried, figure in by_share.items()
                },
            }
            context.metrics["blend/generative_weight"] = share
            paths[name.value] = ByProposer(
                BlendedPath(cascade=cascade, generative=generative, weights=weights)
            )
        else:
            assert isinstance(cascade, CandidateRanker)
            assert isinstance(generative, ItemScorer)
            paths[name.value] = compose(name, cascade=cascade, generative=generative)
    return blend


def _protocol(
    context: StepContext,
    split: dict[str, Any],
    items: Items,
    users: dict[str, int],
    agreement: dict[str, Any],
    recipe: str,
    blend: dict[str, Any] | None,
    *,
    retired: int,
) -> dict[str, Any]:
    params = context.params
    return {
        "part": Part.TEST.value,
        "split": split,
        "catalogue": len(items),
        "retired": retired,
        "never_trained_on": int((items.train_counts == 0).sum()),
        "users": users,
        "filter_seen": params.rules.filter_seen,
        "decoding": params.decoding.model_dump(mode="json"),
        "head_agreement": agreement,
        "recipe": recipe,
        "blend": blend,
        "trained_on": {name: trained_on(context.inputs[name]) for name in ("incumbent", "generative_model")},
        **params.evaluation.model_dump(mode="json"),
    }


def _report(context: StepContext, values: dict[str, dict[str, Any]]) -> None:
    """Scalars for the UIs, and the page."""
    from segue.reporting.evaluation_page import write_evaluation_page

    k = context.params.evaluation.headline_cutoff
    for contender, figures in values.items():
        for metric in (f"ndcg@{k}", f"recall@{k}"):
            value = figures[metric].estimate
            if np.isfinite(value):
                context.metrics[f"{contender}/{metric.replace('@', '_at_')}"] = round(float(value), 4)
    page = write_evaluation_page(
        context.reports,
        context.output,
        dataset=context.dataset,
        title=context.params.data.title or context.dataset,
        policy=context.params.migration.pilot,
        test_reads=context.record["test_reads_in_all"],
    )
    context.record["page"] = str(page)
