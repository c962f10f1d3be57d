"""The files of an offline evaluation, written and read in one place.

contenders.json   {contender: {metric: {estimate, low, high}}}, over the slice "all"
slices.json       {slice: {users, contenders: {contender: {metric: {estimate, low, high}}}}}
differences.json  [{slice, a, b, metric, estimate, low, high, sd, n}], a minus b
sources.json      {contender: {proposer: share of the head of its lists}}
examples.json     a few users with their history and lists, titles included
protocol.json     what was done: data, split, rules, seeds
per_user.parquet  a row a contender and case: rank of the target and every metric
evidence.json     what gates read
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from segue.artifacts import write_json
from segue.evaluation.assessment import Assessment, interval_json, rounded
from segue.evaluation.metrics import PAD, Floats, Mask
from segue.evaluation.protocol import NO_HISTORY, ONE_EVENT, Cases, PathLists
from segue.items import Items
from segue.migration.evidence import EVIDENCE_FILE, Evidence, write_evidence
from segue.paths import Request
from segue.schema import Catalogue, Interactions, Split, UserGroup

_GROUPS = ("all", "new_users", NO_HISTORY, ONE_EVENT)  # slices that the column ``group`` tells apart


def write_results(
    folder: Path,
    *,
    assessment: Assessment,
    evidence: Sequence[Evidence],
    per_user: Mapping[str, Mapping[str, Floats]],
    answers: Mapping[str, PathLists],
    cases: Cases,
    slices: Mapping[str, Mask],
    examples: Sequence[Mapping[str, Any]],
    protocol: Mapping[str, Any],
) -> None:
    """Write every file of the evaluation into ``folder``."""
    by_slice = {
        name: {
            "users": assessment.users[name],
            "contenders": {
                contender: {metric: interval_json(interval) for metric, interval in figures.items()}
                for contender, figures in by_contender.items()
            },
        }
        for name, by_contender in assessment.values.items()
    }
    write_json(folder / "contenders.json", by_slice["all"]["contenders"])
    write_json(folder / "slices.json", by_slice)
    write_json(folder / "differences.json", _differences(assessment))
    head = int(protocol["headline_cutoff"])
    write_json(
        folder / "sources.json",
        {name: source_shares(lists, slices["all"], head) for name, lists in answers.items()},
    )
    write_json(folder / "examples.json", list(examples))
    write_json(folder / "protocol.json", dict(protocol))
    _per_user_table(per_user, answers, cases, slices).write_parquet(folder / "per_user.parquet")
    write_evidence(folder / EVIDENCE_FILE, evidence)


def source_shares(answers: PathLists, members: Mask, k: int) -> dict[str, float]:
    """Share of the first ``k`` of all lists of ``members`` by who proposed the item; joint proposers by
    ``+``."""
    head = answers.sources[members, :k]
    head = head[head != PAD]
    counts = np.bincount(head, minlength=len(answers.source_names))
    return {
        name: round(float(count / head.size), 9)
        for name, count in zip(answers.source_names, counts, strict=True)
        if count
    }


def choose_examples(
    cases: Cases,
    members: Mask,
    answers: Mapping[str, PathLists],
    items: Items,
    *,
    shown: Sequence[str],
    users: int,
    k: int,
    seed: int,
    history: int = 8,
    why: Mapping[str, Callable[[Request, int], str]] | None = None,
) -> list[dict[str, Any]]:
    """``users`` of ``members``, drawn by ``seed`` and not by how well anybody did, with the lists of
    ``shown``.

    ``why``: by contender, a sentence on why an item is in the list of a request; the first of each list gets it."""
    titles = titles_of(items)
    candidates = np.flatnonzero(members)
    drawn = np.random.default_rng(seed).permutation(candidates)[:users]
    found: list[dict[str, Any]] = []
    for row in drawn.tolist():
        past = cases.requests[row].history
        target = int(cases.targets[row])
        lists: dict[str, list[dict[str, Any]]] = {}
        for name in shown:
            answer = answers[name]
            lists[name] = [
                {
                    "item_id": items.ids[item],
                    "title": titles[item],
                    "source": answer.source_names[source],
                    "hit": item == target,
                }
                for item, source in zip(
                    answer.lists[row, :k].tolist(), answer.sources[row, :k].tolist(), strict=True
                )
                if item != PAD
            ]
            if why is not None and name in why and lists[name]:
                lists[name][0]["why"] = why[name](cases.requests[row], int(answer.lists[row, 0]))
        found.append(
            {
                "user_id": cases.requests[row].user_id,
                "events": len(past),
                "history": [titles[item] for item in past[-history:][::-1].tolist()],
                "target": titles[target],
                "ranks": {
                    name: int(answers[name].ranks[row]) + 1 if answers[name].ranks[row] >= 0 else None
                    for name in shown
                },
                "lists": lists,
            }
        )
    return found


def titles_of(items: Items) -> list[str]:
    """What a person calls each item: its title, or its id where the catalogue has none."""
    ids = items.ids
    if Catalogue.TITLE not in items.table.columns:
        return ids
    return [title or item for title, item in zip(items.table[Catalogue.TITLE].to_list(), ids, strict=True)]


def _differences(assessment: Assessment) -> list[dict[str, Any]]:
    return [
        {
            "slice": slice_name,
            "a": a,
            "b": b,
            "metric": metric,
            **interval_json(interval),
            "sd": rounded(interval.sd),
            "n": interval.n,
        }
        for slice_name, by_pair in assessment.differences.items()
        for (a, b), figures in by_pair.items()
        for metric, interval in figures.items()
    ]


def _per_user_table(
    per_user: Mapping[str, Mapping[str, Floats]],
    answers: Mapping[str, PathLists],
    cases: Cases,
    slices: Mapping[str, Mask],
) -> pl.DataFrame:
    """A row a contender and case: a new user may have three, of three groups.

    ``rank`` counts from 1 and is null for a miss, NaN metrics are null."""
    frames = []
    for name, figures in per_user.items():
        ranks = answers[name].ranks
        frames.append(
            pl.DataFrame(
                {
                    "contender": [name] * len(cases),
                    Interactions.USER: cases.user_ids,
                    Split.GROUP: cases.groups.tolist(),
                    **{
                        f"in_{slice_name}": members
                        for slice_name, members in slices.items()
                        if slice_name not in _GROUPS
                    },
                    "history_length": cases.history_lengths,
                    "target": cases.targets.astype(np.int32),
                    "rank": pl.Series(
                        [rank + 1 if rank >= 0 else None for rank in ranks.tolist()], dtype=pl.Int32
                    ),
                    **figures,
                }
            )
        )
    table = pl.concat(frames, how="diagonal")
    assert UserGroup.REPLAY.value not in table[Split.GROUP]
    return table.fill_nan(None)
