"""``reports/<dataset>/evaluation.html``: the offline evaluation for somebody who has to decide on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from segue.artifacts import read_json
from segue.evaluation.bootstrap import users_needed
from segue.migration.settings import Policy, Requirement
from segue.reporting.names import CONTENDERS, SLICES, ordered
from segue.reporting.render import count, number, percent, signed, write_page
from segue.reporting.svg import ForestRow, forest_plot, interval_bar

RARE, PROPOSERS, OTHERS = 0.02, 9, "rarer combinations"
FEW = 30  # users, below which a percentile interval is too narrow to be trusted


def write_evaluation_page(
    reports: Path, results: Path, *, dataset: str, title: str, policy: Policy, test_reads: int
) -> Path:
    """Render the page from the files in ``results`` (an ``offline_evaluation`` folder). Returns its path.

    ``policy`` is the one whose offline margins the plots show; ``test_reads`` how often this checkout has
    read the test part. Raises ArtifactError where a file is missing.
    """
    contenders = ordered(_mapping(results / "contenders.json"), CONTENDERS)
    protocol = _mapping(results / "protocol.json")
    slices = ordered(_mapping(results / "slices.json"), SLICES)
    differences = read_json(results / "differences.json")
    assert isinstance(differences, list)
    k = int(protocol["headline_cutoff"])
    metrics = (f"ndcg@{k}", f"recall@{k}")
    margins = {metric: margin_of(policy, metric) for metric in metrics}
    return write_page(
        reports / "evaluation.html",
        "evaluation.html.j2",
        dataset=dataset,
        title=title,
        k=k,
        contenders=contenders,
        names=_names(contenders),
        bars={
            name: interval_bar(
                figures[metrics[0]]["estimate"],
                figures[metrics[0]]["low"],
                figures[metrics[0]]["high"],
                max(other[metrics[0]]["high"] or 0.0 for other in contenders.values()),
            )
            for name, figures in contenders.items()
        },
        headline=headline(contenders, differences, protocol, margins[metrics[0]]),
        verdict=verdict(_find(differences, "cascade", metrics[0], "all"), margins[metrics[0]], protocol),
        margins=margins,
        plots={metric: _by_contender(contenders, differences, metric, margins[metric]) for metric in metrics},
        slice_plot=_by_slice(slices, differences, metrics[0], policy),
        slices={
            name: {**entry, "title": SLICES[name][0], "what": SLICES[name][1]}
            for name, entry in slices.items()
        },
        few=FEW,
        sources=_sources(ordered(_mapping(results / "sources.json"), CONTENDERS)),
        examples=read_json(results / "examples.json"),
        protocol=protocol,
        split=_split_in_words(protocol["split"]),
        ties=_ties_in_words(protocol["split"]),
        test_reads=test_reads,
    )


def margin_of(policy: Policy, metric: str, slice_name: str = "all") -> float | None:
    """The margin that ``policy`` sets for generative minus cascade in ``metric`` on a slice, or None."""
    found = _requirement(policy, metric, slice_name)
    return None if found is None else found.margin


def headline(
    contenders: dict[str, Any],
    differences: list[dict[str, Any]],
    protocol: dict[str, Any],
    margin: float | None,
) -> str:
    """What came out, in two sentences."""
    k = int(protocol["headline_cutoff"])
    own = contenders["generative"][f"recall@{k}"]["estimate"]
    other = contenders["cascade"][f"recall@{k}"]["estimate"]
    difference = _find(differences, "cascade", f"ndcg@{k}", "all")
    seen = (
        f"Among the first {k} items, the generative path shows what the user took next to {percent(own)} of "
        f"{count(protocol['users']['all'])} users, the cascade that serves today to {percent(other)}."
    )
    if difference is None or difference["low"] is None:
        return f"{seen} There are too few users to compare the two."
    bounds = f"[{signed(difference['low'])}, {signed(difference['high'])}]"
    interval = f"{signed(difference['estimate'])} {bounds} in NDCG@{k}"
    if difference["low"] > 0:
        judged = f"The generative path ranks better: {interval}."
    elif difference["high"] < 0:
        judged = f"The generative path ranks worse: {interval}."
    else:
        judged = f"These users cannot tell which of the two ranks better: {interval}."
    if margin is None:
        return f"{seen} {judged}"
    return f"{seen} {judged} {verdict(difference, margin, protocol)[1]}"


def verdict(
    difference: dict[str, Any] | None, margin: float | None, protocol: dict[str, Any]
) -> tuple[str, str]:
    """(tone, sentence) about the difference against the margin; tones as in the plots."""
    if difference is None or margin is None or difference["low"] is None:
        return "open", "No margin was set for this difference."
    loss = f"a loss of {number(-margin)}" if margin < 0 else f"a gain of {number(margin)}"
    allowed = f"The policy tolerates {loss}" if margin < 0 else f"The policy asks for {loss}"
    if difference["low"] >= margin:
        return "good", f"{allowed}; the whole interval keeps to that."
    if difference["high"] < margin:
        return "bad", f"{allowed}; the whole interval lies beyond that."
    needed = None
    if difference["sd"] is not None:
        needed = users_needed(
            difference["sd"], margin, confidence=protocol["confidence"], power=protocol["power"]
        )
    sentence = f"{allowed}; with {count(difference['n'])} users this is undecided (underpowered)"
    if needed is None:
        return "open", f"{sentence}."
    if needed <= difference["n"]:
        return "open", f"{sentence}: there are users enough for equal paths, but the estimate itself is low."
    return "open", (
        f"{sentence}: were the two truly equal, it would take about {count(needed)} users to show it "
        f"with {percent(protocol['power'], 0)} certainty."
    )


def _by_contender(
    contenders: dict[str, Any], differences: list[dict[str, Any]], metric: str, margin: float | None
) -> Any:
    names = _names(contenders)
    order = ["cascade", *(name for name in contenders if name not in ("cascade", "generative"))]
    rows = [
        ForestRow(
            f"vs {names[name]}",
            found["estimate"],
            found["low"],
            found["high"],
            margin=margin if name == "cascade" else None,
        )
        for name in order
        if (found := _find(differences, name, metric, "all")) is not None
    ]
    return forest_plot(
        rows, margin=margin, caption=f"{metric.upper()}: the generative path minus each other contender"
    )


def _by_slice(slices: dict[str, Any], differences: list[dict[str, Any]], metric: str, policy: Policy) -> Any:
    rows = []
    for name, entry in slices.items():
        found = _find(differences, "cascade", metric, name)
        users = entry["users"]
        if found is None:
            continue
        note = f"{count(users)} users" + (" \N{EN DASH} too few to trust" if 0 < users < FEW else "")
        own = margin_of(policy, metric, name)
        rows.append(ForestRow(SLICES[name][0], found["estimate"], found["low"], found["high"], note, own))
    return forest_plot(
        rows, margin=margin_of(policy, metric), caption=f"{metric.upper()} by slice: generative minus cascade"
    )


def _sources(sources: dict[str, Any]) -> dict[str, Any]:
    """Bars of a hundred per cent for the paths that mix proposers, and one colour a proposer throughout.

    Combinations that put less than :data:`RARE` into every path's lists are one: "rarer combinations".
    """
    mixed = {
        name: shares for name, shares in sources.items() if name == "cascade" or name.startswith("generative")
    }
    proposers = sorted({proposer for shares in mixed.values() for proposer in shares})
    most = {name: max(shares.get(name, 0.0) for shares in mixed.values()) for name in proposers}
    shown = sorted((name for name in proposers if most[name] >= RARE), key=lambda name: -most[name])
    shown = shown[:PROPOSERS]
    bars = {}
    for contender, shares in mixed.items():
        parts = [(name.replace("+", " + "), shares.get(name, 0.0)) for name in shown]
        rest = sum(share for name, share in shares.items() if name not in shown)
        bars[contender] = [*parts, (OTHERS, rest)] if rest else parts
    labels = [name.replace("+", " + ") for name in shown]
    if any(dict(parts).get(OTHERS) for parts in bars.values()):
        labels.append(OTHERS)
    return {
        "colours": {name: f"c{number}" for number, name in enumerate(labels)},
        "bars": bars,
        "rows": [(name, [dict(parts).get(name, 0.0) for parts in bars.values()]) for name in labels],
    }


def _split_in_words(split: dict[str, Any]) -> str:
    if split["protocol"] == "leave_one_out":
        return (
            "leave one out: each user's last event is the target, everything before it is the history; "
            "the event before the last served to choose settings"
        )
    return (
        "by global time: each user's first event in the last window is the target, "
        "everything before it is the history; the window before that served to choose settings"
    )


def _ties_in_words(split: dict[str, Any]) -> str:
    ties = split["tied_last_steps"]
    if ties is None:
        return "the data carries no timestamps; its own order was kept"
    how = "the data's own order" if split.get("ordered") else "a seeded hash, never by file order"
    return f"{count(ties)} users' last steps are ties in time, broken by {how}"


def _names(contenders: dict[str, Any]) -> dict[str, str]:
    return {name: CONTENDERS.get(name, name.replace("_", " ")) for name in contenders}


def _find(
    differences: list[dict[str, Any]], other: str, metric: str, slice_name: str
) -> dict[str, Any] | None:
    for entry in differences:
        if (entry["a"], entry["b"], entry["metric"], entry["slice"]) == (
            "generative",
            other,
            metric,
            slice_name,
        ):
            return entry
    return None


def _requirement(policy: Policy, metric: str, slice_name: str) -> Requirement | None:
    for requirement in policy.requirements:
        if (
            requirement.kind == "offline"
            and requirement.metric == metric
            and requirement.slice == slice_name
            and requirement.path == "generative"
            and requirement.against == "cascade"
            and requirement.direction == "at_least"
        ):
            return requirement
    return None


def _mapping(path: Path) -> dict[str, Any]:
    value = read_json(path)
    assert isinstance(value, dict)
    return value
