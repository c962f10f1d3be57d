"""``reports/<dataset>/index.html``: the migration: where it stands, what was decided, and what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from segue.migration.decide import Decision, Outcome
from segue.migration.evidence import Evidence
from segue.migration.policy import Status
from segue.reporting.names import CONTENDERS, ordered
from segue.reporting.render import number, percent, write_page
from segue.reporting.summary import Gathered
from segue.schema import Stage

STAGES = {
    Stage.CASCADE: "the incumbent serves everybody",
    Stage.PILOT: "a small share gets the generative path",
    Stage.HYBRID: "most users get a blend of both, or generated lists",
    Stage.FULL: "everybody gets what was measured at hybrid, a holdback stays",
}
TONES = {Outcome.PROMOTE: "good", Outcome.HOLD: "amber", Outcome.ROLLBACK: "bad"}
STATUS_TONES = {Status.MET: "good", Status.FAILED: "bad", Status.UNDERPOWERED: "amber"}


def write_index_page(reports: Path, gathered: Gathered, *, dataset: str, title: str) -> Path:
    """Render the migration page. Links only to what lies in ``reports``. Returns its path."""
    deployment = gathered.deployment
    stage = None if deployment is None else deployment.stage
    following = _after(stage)
    return write_page(
        reports / "index.html",
        "index.html.j2",
        dataset=dataset,
        title=title,
        summary=gathered.summary,
        k=gathered.protocol["headline_cutoff"],
        contenders=ordered(gathered.summary["contenders"], CONTENDERS),
        names=CONTENDERS,
        track=_track(stage),
        deployment=deployment,
        lead=lead(gathered),
        following=following,
        missing=None if following is None else missing(gathered.decisions[following.value]),
        decisions=[_decision(name, decision) for name, decision in gathered.decisions.items()],
        facts=_facts(gathered),
        quality=_quality(gathered),
        serving=[_measured(item) for item in sorted(gathered.serving, key=lambda item: item.metric)],
        drift=_drift(gathered.drift),
        images={
            name: _inline(reports / name)
            for name in ("readiness.png", "item_map_usage.png")
            if (reports / name).is_file()
        },
        seconds=_seconds(gathered.summary["seconds"]),
        links=[
            (target, words)
            for target, words in (
                (
                    "migration.html",
                    "Migration: the evidence as pictures, every decision, how long the next stage takes",
                ),
                ("advice.html", "Advice: which way to migrate, what it takes, and a plan"),
                ("evaluation.html", "Offline evaluation: every contender, interval and slice"),
                ("content.html", "Content quality: texts, pictures, attributes, and what is in them twice"),
                ("semantic_ids.html", "Semantic IDs: how good they are, and the themes of their prefixes"),
                ("tuning.html", "Tuning: what the study tried, and which setting mattered"),
                ("data_docs/index.html", "Data Docs: what was checked in the tables"),
                ("summary.json", "The figures of this page as JSON"),
            )
            if (reports / target).is_file()
        ],
    )


def lead(gathered: Gathered) -> str:
    """Where the migration stands and what the gate to the next stage said, in two sentences."""
    deployment = gathered.deployment
    if deployment is None:
        return "Nothing is deployed yet."
    arms = " and ".join(
        f"{percent(arm.share, 0)} of the users by the {arm.path.value.replace('_', ' ')} path"
        for arm in deployment.arms
    )
    where = f"Stage {deployment.stage.value}, revision {deployment.revision}: it serves {arms}."
    following = _after(deployment.stage)
    if following is None:
        return f"{where} This is the last stage."
    decision = gathered.decisions[following.value]
    if decision.outcome is Outcome.PROMOTE:
        return f"{where} The evidence allows {following.value}."
    open_ones = len(missing(decision))
    return (
        f"{where} For {following.value} the decision is {decision.outcome.value}: "
        f"{open_ones} {'thing is' if open_ones == 1 else 'things are'} missing."
    )


def missing(decision: Decision) -> list[dict[str, Any]]:
    """What stands between the decision and PROMOTE: unmet requirements, else its own reasons."""
    found = [
        {
            "status": verdict.status.value,
            "tone": STATUS_TONES.get(verdict.status, ""),
            "reason": verdict.reason,
            "n": verdict.n,
            "needed": verdict.needed_n,
        }
        for verdict in decision.verdicts
        if verdict.status is not Status.MET
    ]
    if found or decision.outcome is Outcome.PROMOTE:
        return found
    return [
        {"status": "hold", "tone": "", "reason": text, "n": None, "needed": None} for text in decision.reasons
    ]


def _decision(name: str, decision: Decision) -> dict[str, Any]:
    met = sum(verdict.status is Status.MET for verdict in decision.verdicts)
    return {
        "name": name,
        "target": decision.target.value.replace("_", " "),
        "outcome": decision.outcome.value,
        "tone": TONES[decision.outcome],
        "reasons": list(decision.reasons),
        "met": met,
        "asked": len(decision.verdicts),
        "sha256": decision.sha256,
    }


def _after(stage: Stage | None) -> Stage | None:
    """The stage after ``stage``; pilot where nothing is deployed."""
    order = list(Stage)
    position = 0 if stage is None else order.index(stage)
    return order[position + 1] if position + 1 < len(order) else None


def _track(stage: Stage | None) -> list[dict[str, str]]:
    order = list(Stage)
    position = -1 if stage is None else order.index(stage)
    return [
        {
            "name": entry.value,
            "what": what,
            "state": "here" if index == position else "done" if index < position else "",
        }
        for index, (entry, what) in enumerate(STAGES.items())
    ]


def _facts(gathered: Gathered) -> list[tuple[str, str]]:
    """What the data can carry, in words and figures."""
    report = gathered.readiness
    lengths, cold, ties = report["sequence_length"], report["cold"], report["ties"]
    found = [
        (
            "Events of a user",
            f"median {lengths['quantiles']['0.5']:g}, from {lengths['shortest']} to {lengths['longest']}",
        ),
        ("Density", percent(report["size"]["density"], 2)),
        ("Items without a training event", f"{cold['items']:,} ({percent(cold['item_share'])})"),
        (
            "Test targets that training never saw",
            f"{cold['cold_test_targets']:,} of {cold['test_targets']:,} ({percent(cold['cold_test_share'])})",
        ),
    ]
    if ties["known"]:
        found.append(
            (
                "Last steps that are ties in time",
                f"{percent(ties['last_share'])}, broken by {ties['broken_by']}",
            )
        )
    for protocol, entry in report["splits"].items():
        verdict = "possible" if entry["possible"] else f"refused: {entry['reason']}"
        found.append((f"Split {protocol.replace('_', ' ')}", verdict))
    for metric, value in report["detectable"]["metrics"].items():
        if value["difference"] is not None:
            found.append(
                (
                    f"Smallest difference in {metric} that these users can show",
                    f"about {number(value['difference'])}, before anything was measured",
                )
            )
    return found


def _quality(gathered: Gathered) -> list[tuple[str, str]]:
    quality, item_map = gathered.quality, gathered.item_map
    levels = quality["levels"]
    return [
        ("Codebook", str(item_map["codebook_id"])[:16]),
        (
            "Item map",
            f"revision {item_map['revision']}, {item_map['inserted']:,} inserted now, "
            f"{item_map['retired']:,} retired",
        ),
        ("Codes of an item", " \N{MULTIPLICATION SIGN} ".join(str(size) for size in item_map["level_sizes"])),
        (
            "Items that have their prefix to themselves",
            percent(1 - quality["collisions"] / max(1, quality["items"])),
        ),
        ("Prefixes with no room left", f"{quality['full_prefixes']:,}"),
        (
            "Codes in use, by level",
            ", ".join(percent(level["usage"], 0) for level in levels),
        ),
        (
            "Reconstruction error",
            f"{number(quality['reconstruction_error'])} (0 is perfect, 1 is as good as the mean)",
        ),
        (
            "Neighbours that share the first code",
            f"{percent(quality['neighbour_agreement'])} "
            f"(by chance {percent(quality['neighbour_agreement_by_chance'])})",
        ),
    ]


def _drift(report: dict[str, Any]) -> tuple[str, list[str]]:
    return str(report["verdict"]), [str(reason) for reason in report["reasons"]]


def _measured(item: Evidence) -> dict[str, Any]:
    return {
        "metric": item.metric.replace("_", " "),
        "path": item.path_a + ("" if item.path_b is None else f" minus {item.path_b}"),
        "slice": item.slice,
        "estimate": item.estimate,
        "low": item.low,
        "high": item.high,
        "n": item.n,
        "unit": item.unit,
    }


def _seconds(seconds: dict[str, float]) -> list[tuple[str, float, float]]:
    """(step, seconds, share of the longest), longest first; steps below half a second are left out."""
    longest = max(seconds.values(), default=0.0)
    return [
        (name, value, value / longest)
        for name, value in sorted(seconds.items(), key=lambda entry: -entry[1])
        if value >= 0.5
    ]


def _inline(path: Path) -> str:
    """A PNG as a data URL, so that the page needs no other file."""
    import base64

    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
