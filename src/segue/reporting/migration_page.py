"""``reports/<dataset>/migration.html``: the migration for somebody who has to answer for it.

Where it stands, what was measured as pictures, every decision with its reasons, what the next stage still lacks and about how
long that takes, and what a thousand requests cost by each path. Words first, figures after.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from markupsafe import Markup

from segue.migration.decide import Outcome
from segue.migration.deployment import Arm, Deployment
from segue.migration.evidence import Evidence
from segue.migration.outlook import Lack, Traffic, longest, outlook
from segue.migration.policy import Status, Verdict
from segue.migration.power import share_before
from segue.migration.settings import MigrationSettings, Policy, Requirement
from segue.params import Params
from segue.reporting.charts import Bar, bar_chart, column_chart
from segue.reporting.costs import path_costs
from segue.reporting.funnel import funnel_chart
from segue.reporting.index_page import STAGES
from segue.reporting.migration_view import Experiment, Look, MigrationView, gather_view
from segue.reporting.names import SLICES
from segue.reporting.online_traffic import ArmTraffic
from segue.reporting.plain import (
    PATHS,
    days_in_words,
    figure,
    metric_name,
    requirement_demand,
    requirement_title,
)
from segue.reporting.render import count, number, percent, words, write_page
from segue.reporting.sequence_chart import Point, margin_ruler, sequence_chart
from segue.reporting.svg import ForestRow, forest_plot
from segue.reporting.timeline import timeline
from segue.schema import PathName, Stage
from segue.workspace import Workspace

PAGE: Final = "migration.html"
STATUS_TONES: Final = {Status.MET: "good", Status.FAILED: "bad", Status.UNDERPOWERED: "amber"}
STATUS_WORDS: Final = {
    Status.MET: "met",
    Status.FAILED: "not met",
    Status.UNDERPOWERED: "undecided",
    Status.MISSING: "not measured",
    Status.STALE: "out of date",
    Status.NON_FINITE: "no figure yet",
    Status.NOT_VALID: "not valid",
}
ENTERS: Final = {
    Stage.PILOT: "let a small share of the users try the generative path",
    Stage.HYBRID: "serve most users by the blend",
    Stage.FULL: "serve everybody but a holdback by the generative path",
}
SHOWN_ENTRIES: Final = 12  # of the story; the rest is folded
_GENERATED: Final = frozenset(PathName) - {PathName.CASCADE, PathName.POPULARITY}


def make_migration_page(workspace: Workspace, dataset: str, params: Params) -> Path:
    """Read what there is and write the page. Raises ArtifactError or StateError where something is damaged."""
    return write_migration_page(workspace.reports(dataset), gather_view(workspace, dataset, params))


def write_migration_page(reports: Path, view: MigrationView) -> Path:
    """Render ``view``. Equal views give equal bytes. Returns the page's path."""
    deployment = view.deployment
    stage = None if deployment is None else deployment.stage
    following = next_stage(stage)
    lacking = lacks(view, following)
    entries = timeline(view.rows)
    return write_page(
        reports / PAGE,
        "migration.html.j2",
        dataset=view.dataset,
        title=view.title,
        simulation=None if view.simulation is None else _simulation(view.simulation),
        lead=lead(view, following, lacking),
        note=_note(view),
        track=_track(stage),
        cards=_cards(view, following, lacking),
        arms=[] if deployment is None else _arm_rows(deployment),
        shadow=None if deployment is None else deployment.shadow,
        deployment=deployment,
        moment=_moment,
        following=following,
        enters=None if following is None else ENTERS[following],
        requirements=_requirements(view, following, lacking),
        any_online=any(lack.requirement.kind == "online" for lack in lacking),
        slowest=longest(lacking),
        pace=_pace(view),
        experiment=_experiment_in_words(view.experiment),
        charts=_charts(view),
        guardrails=_guardrails(view),
        funnel=_funnel(view),
        arm_table=[] if view.traffic is None else [_arm_row(view, arm) for arm in view.traffic.arms],
        traffic=view.traffic,
        daily=_daily(view),
        slices=_slices(view),
        latency=_latency(view),
        live_latency=_live_latency(view),
        costs=_costs(view),
        price=view.settings.costs,
        entries=entries[:SHOWN_ENTRIES],
        older=entries[SHOWN_ENTRIES:],
        links=[
            (target, said)
            for target, said in (
                ("index.html", "The last run at a glance"),
                ("evaluation.html", "Offline evaluation"),
                ("advice.html", "Advice and plan"),
            )
            if (reports / target).is_file()
        ],
    )


# -- where we are


def next_stage(stage: Stage | None) -> Stage | None:
    """The stage after ``stage``; pilot where nothing is deployed, None after the last."""
    order = list(Stage)
    position = 0 if stage is None else order.index(stage)
    return order[position + 1] if position + 1 < len(order) else None


def generated_share(deployment: Deployment) -> float:
    """Share of the users whose lists the generative model has a part in."""
    return sum(arm.share for arm in deployment.arms if arm.path in _GENERATED)


def lead(view: MigrationView, following: Stage | None, lacking: Sequence[Lack]) -> str:
    """Where it stands and what is next, in a few plain sentences."""
    deployment = view.deployment
    if deployment is None:
        return (
            "Nothing is deployed yet. The first run puts the cascade online for everybody; from then on this page "
            "tells how far the generative path has come, and on what evidence."
        )
    share = generated_share(deployment)
    since = _moment(deployment.at)
    if share == 0:
        where = f"Everybody is served by the cascade, since {since}."
    else:
        rest = f"; {_share(1 - share)} stay on the cascade" if share < 1 else ""
        where = f"{_share(share)} of the users get lists in which the generative model has a part{rest}. Since {since}."
    back = ""
    last = view.state.revisions[-1]
    if last.event in ("rollback", "demote", "abandon"):
        done = {"rollback": "rolled back", "demote": "put back a stage", "abandon": "ended"}[last.event]
        back = f" The experiment was {done}: {deployment.reason}."
    if following is None:
        return f"{where}{back} This is the last stage."
    decision = view.decisions.get(following.value)
    if decision is not None and decision.outcome is Outcome.PROMOTE and not lacking:
        return f"{where}{back} The evidence allows the next stage, {following.value}."
    if not lacking:
        return f"{where}{back} The next stage is {following.value}."
    asked = len(_policy(view.settings, following).requirements)
    missing = f"{len(lacking)} of {asked} requirements {'is' if len(lacking) == 1 else 'are'} still open"
    days = longest(lacking)
    waits = any(lack.requirement.kind == "online" for lack in lacking)
    when = (
        f"; at today's traffic that takes {days_in_words(days)} or so" if waits and days is not None else ""
    )
    return f"{where}{back} To {ENTERS[following]} (stage {following.value}), {missing}{when}."


def lacks(view: MigrationView, following: Stage | None) -> list[Lack]:
    """What the next stage's policy still lacks."""
    if following is None:
        return []
    decision = view.decisions.get(following.value)
    verdicts = () if decision is None else decision.verdicts
    return outlook(_policy(view.settings, following), verdicts, _assumed(view, following))


def _assumed(view: MigrationView, following: Stage) -> Traffic:
    """Today's traffic and what was measured so far, for the power calculation."""
    traffic = view.traffic
    measured = {
        item.metric: item.estimate
        for item in view.evidence
        if item.kind in ("serving", "online") and item.path_a == "generative" and not item.is_difference
        and item.slice == "all" and item.estimate is not None and item.metric.endswith("_rate")
    }  # fmt: skip
    return Traffic(
        users_per_day=None if traffic is None else traffic.users_per_day,
        share=share_before(view.settings, following.value),
        expected=measured,
        sd={} if traffic is None else traffic.sd,
    )


def _policy(settings: MigrationSettings, stage: Stage) -> Policy:
    policy = getattr(settings, stage.value)
    assert isinstance(policy, Policy)
    return policy


def _track(stage: Stage | None) -> list[dict[str, str]]:
    order = list(Stage)
    position = -1 if stage is None else order.index(stage)
    return [
        {
            "name": name.value,
            "what": what,
            "state": "here" if at == position else "done" if at < position else "",
        }
        for at, (name, what) in enumerate(STAGES.items())
    ]


def _note(view: MigrationView) -> str | None:
    """What a reader of a decision must know: that the recipe was left before."""
    following = next_stage(None if view.deployment is None else view.deployment.stage)
    if following is None or (decision := view.decisions.get(following.value)) is None:
        return None
    left = view.state.barred_recipes.get((following.value, decision.recipe or ""))
    if left is None:
        return None
    return (
        f"Revision {left} took this recipe out of stage {following.value}. Whatever is measured of it now, only another "
        "recipe or an override by name begins again."
    )


def _cards(
    view: MigrationView, following: Stage | None, lacking: Sequence[Lack]
) -> list[tuple[str, str, str]]:
    deployment, traffic = view.deployment, view.traffic
    if deployment is None:
        return []
    cards = [
        ("Stage", deployment.stage.value, f"revision {deployment.revision}, since {_moment(deployment.at)}"),
        ("Users with generated lists", _share(generated_share(deployment)), "the others get the cascade's"),
    ]
    if following is not None:
        asked = len(_policy(view.settings, following).requirements)
        cards.append(
            (f"Shown for {following.value}", f"{asked - len(lacking)} of {asked}", "requirements are met")
        )
    if traffic is not None:
        per_day = traffic.lists_per_day
        what = "lists in all" if per_day is None else f"lists, {count(per_day)} a day of late"
        cards.append(("Shown so far", count(sum(arm.lists for arm in traffic.arms)), what))
    backs = sum(revision.event == "rollback" for revision in view.state.revisions)
    cards.append(("Rollbacks", str(backs), "ever; each stands in the story below"))
    return cards


def _arm_rows(deployment: Deployment) -> list[dict[str, Any]]:
    return [
        {
            "name": words(arm.name),
            "path": PATHS.get(arm.path.value, words(arm.path.value)),
            "share": _share(arm.share),
            "width": f"{100 * arm.share:.2f}",
            "colour": "c0" if arm.path in _GENERATED else "c6",
            "bundle": arm.bundle,
        }
        for arm in sorted(deployment.arms, key=lambda arm: -arm.share)
    ]


# -- what the next stage lacks


def _requirements(
    view: MigrationView, following: Stage | None, lacking: Sequence[Lack]
) -> list[dict[str, Any]]:
    """Every requirement of the next stage: what was asked, what was found, and what it would take."""
    if following is None:
        return []
    decision = view.decisions.get(following.value)
    verdicts = {} if decision is None else {one.requirement: one for one in decision.verdicts}
    open_ones = {lack.requirement: lack for lack in lacking}
    rows = []
    for requirement in _policy(view.settings, following).requirements:
        verdict, lack = verdicts.get(requirement), open_ones.get(requirement)
        status = Status.MISSING if verdict is None else verdict.status
        rows.append(
            {
                "title": requirement_title(requirement),
                "demand": requirement_demand(requirement),
                "kind": requirement.kind,
                "guardrail": requirement.guardrail,
                "status": STATUS_WORDS[status],
                "tone": STATUS_TONES.get(status, ""),
                "found": _found(requirement, verdict),
                "ruler": _ruler(requirement, verdict),
                "lack": lack,
                "takes": "" if lack is None else _takes(lack),
                "when": "" if lack is None or lack.days is None else days_in_words(lack.days),
                "met": status is Status.MET,
            }
        )
    return sorted(rows, key=lambda row: row["met"])


def _takes(lack: Lack) -> str:
    if lack.requirement.kind != "online":
        return "" if lack.users is None else f"{count(lack.users)} users in the test set"
    if lack.entered is not None:
        return f"{count(lack.entered)} more users"
    return "more than can be drawn" if lack.beyond else ""


def _found(requirement: Requirement, verdict: Verdict | None) -> str:
    if verdict is None or verdict.estimate is None:
        return ""
    difference = requirement.against is not None
    said = figure(requirement.metric, verdict.estimate, difference=difference)
    if verdict.low is not None and verdict.high is not None and verdict.low != verdict.high:
        low, high = (
            figure(requirement.metric, one, difference=difference) for one in (verdict.low, verdict.high)
        )
        said += f", surely between {low} and {high}"
    return said


def _ruler(requirement: Requirement, verdict: Verdict | None) -> Markup:
    if verdict is None:
        return Markup("")
    return margin_ruler(
        verdict.estimate,
        verdict.low,
        verdict.high,
        requirement.margin,
        at_least=requirement.direction == "at_least",
    )


def _pace(view: MigrationView) -> str:
    """What "today's traffic" is, or why there is none to speak of."""
    traffic = view.traffic
    if traffic is None:
        return (
            "No list has been shown to anybody yet, so users can be told, but no days. Days appear once a server has "
            "logged exposures for a day."
        )
    if traffic.users_per_day is None:
        return (
            f"The store holds less than a day of traffic ({traffic.span_days * 24:.1f} hours): too short to say how many "
            "users come a day, so users are told and no days."
        )
    return (
        f"Today's traffic: {count(traffic.users_per_day)} users a day come for the first time (mean of the last 7 days). "
        "Users who return count once, so this falls after the regulars have come."
    )


# -- the evidence as pictures


def _experiment_in_words(experiment: Experiment | None) -> str:
    if experiment is None:
        return (
            "No experiment has begun yet. Once one runs, every figure that a gate looks at appears here as it narrows "
            "over time, with the margin that it must keep."
        )
    begun = f"The experiment began on {_moment(experiment.begun.deployment.at)} (revision {experiment.begun.deployment.revision})"
    if experiment.ended is None:
        return f"{begun} and runs."
    ended = experiment.ended.deployment
    return f"{begun} and ended on {_moment(ended.at)} (revision {ended.revision}): {ended.reason}."


def _online_requirements(settings: MigrationSettings) -> dict[tuple[str, str, str | None, str], Requirement]:
    """What a gate asks of each online figure; where two stages ask it, the nearer stage's."""
    found: dict[tuple[str, str, str | None, str], Requirement] = {}
    for policy in (settings.hybrid, settings.full, settings.refresh_recipe):
        for requirement in policy.requirements:
            if requirement.kind == "online":
                key = (requirement.metric, requirement.path, requirement.against, requirement.slice)
                found.setdefault(key, requirement)
    return found


def _looks(view: MigrationView) -> dict[tuple[str, str, str | None, str], list[Look]]:
    """By figure, since the experiment began; the present evidence is a look too."""
    experiment = view.experiment
    begin = None if experiment is None else datetime.fromisoformat(experiment.begun.deployment.at)
    found: dict[tuple[str, str, str | None, str], list[Look]] = {}
    for look in view.looks:
        if begin is None or look.at >= begin:
            found.setdefault((look.metric, look.path_a, look.path_b, look.slice), []).append(look)
    for item in view.online():
        if item.measured_at is None:
            continue
        at = datetime.fromisoformat(item.measured_at)
        series = found.setdefault((item.metric, item.path_a, item.path_b, item.slice), [])
        if (begin is None or at >= begin) and all(look.at < at for look in series):
            series.append(_as_look(item, at))
    return {key: series for key, series in found.items() if series}


def _as_look(item: Evidence, at: datetime) -> Look:
    return Look(
        at=at, metric=item.metric, path_a=item.path_a, path_b=item.path_b, slice=item.slice,
        estimate=item.estimate, low=item.low, high=item.high, n=item.n,
    )  # fmt: skip


def _charts(view: MigrationView) -> list[dict[str, Any]]:
    """One chart a figure: first what a gate asks for, then the rest."""
    required = _online_requirements(view.settings)
    looks = _looks(view)
    marks = _marks(view)
    charts = []
    for key in sorted(looks, key=lambda key: (key not in required, str(key))):
        metric, path_a, path_b, slice_name = key
        if slice_name != "all" or metric == "duration_days":
            continue
        requirement, series = required.get(key), looks[key]
        compared = path_b is not None

        def say(value: float, metric: str = metric, compared: bool = compared) -> str:
            return figure(metric, value, difference=compared)

        said = metric_name(metric)
        between = f"{PATHS.get(path_a, words(path_a))}" + (
            f" minus {PATHS.get(path_b, words(path_b))}" if path_b is not None else ""
        )
        charts.append(
            {
                "title": said,
                "between": between,
                "demand": None if requirement is None else requirement_demand(requirement),
                "guardrail": requirement is not None and requirement.guardrail,
                "n": series[-1].n,
                "looks": len(series),
                "now": _now(series[-1], compared),
                "picture": sequence_chart(
                    [Point(look.at, look.estimate, look.low, look.high) for look in series],
                    caption=f"{said}: {between}, over time",
                    say=say,
                    margin=None if requirement is None else requirement.margin,
                    at_least=requirement is None or requirement.direction == "at_least",
                    marks=marks,
                ),
            }
        )
    return charts


def _now(look: Look, compared: bool) -> str:
    if look.low is None or look.high is None:
        return "no interval yet"
    estimate, low, high = (
        figure(look.metric, one, difference=compared) for one in (look.estimate, look.low, look.high)
    )
    return f"{estimate}, surely between {low} and {high}"


def _marks(view: MigrationView) -> list[tuple[datetime, str]]:
    """Moments at which the stage changed."""
    marks, before = [], None
    for revision in view.state.revisions:
        document = revision.deployment
        if document.stage is not before or revision.event in ("rollback", "canary"):
            said = "rolled back" if revision.event == "rollback" else words(document.stage.value)
            marks.append((datetime.fromisoformat(document.at), said))
        before = document.stage
    return marks


def _guardrails(view: MigrationView) -> list[dict[str, Any]]:
    """Every guardrail of the gates, with what online evidence says of it."""
    verdicts = {
        verdict.requirement: verdict for decision in view.decisions.values() for verdict in decision.verdicts
    }
    rows = []
    for requirement in _online_requirements(view.settings).values():
        if not requirement.guardrail:
            continue
        verdict = verdicts.get(requirement)
        status = Status.MISSING if verdict is None else verdict.status
        rows.append(
            {
                "title": requirement_title(requirement),
                "demand": requirement_demand(requirement),
                "state": _guarded(status),
                "tone": {Status.FAILED: "bad", Status.MISSING: "", Status.MET: "good"}.get(status, "amber"),
                "found": _found(requirement, verdict),
                "ruler": _ruler(requirement, verdict),
            }
        )
    return rows


def _guarded(status: Status) -> str:
    if status is Status.FAILED:
        return "crossed: rolls back"
    return {Status.MISSING: "not measured yet", Status.MET: "kept"}.get(status, "not crossed")


def _funnel(view: MigrationView) -> Markup | None:
    if view.traffic is None:
        return None
    return funnel_chart(view.traffic.arms, _arm_names(view), caption="From lists shown to clicks, by arm")


def _arm_names(view: MigrationView) -> dict[str, str]:
    """``treatment (the generative path)``; arms that serve no more keep their bare name."""
    known: dict[str, Arm] = {
        arm.name: arm for revision in view.state.revisions for arm in revision.deployment.arms
    }
    named = {
        name: f"{words(name).capitalize()} ({PATHS.get(arm.path.value, words(arm.path.value))})"
        for name, arm in known.items()
    }
    return {"none": "Before any deployment was followed", **named}


def _arm_row(view: MigrationView, arm: ArmTraffic) -> dict[str, Any]:
    return {
        "name": _arm_names(view).get(arm.arm, arm.arm),
        "users": arm.users,
        "lists": arm.lists,
        "clicks": arm.clicks,
        "ctr": percent(arm.clicks / arm.items, 2) if arm.items else "",
        "purchases": arm.purchases,
        "fallbacks": percent(arm.fallbacks / arm.named_lists, 2) if arm.named_lists else "",
    }


def _daily(view: MigrationView) -> Markup | None:
    traffic = view.traffic
    if traffic is None or len(traffic.days) < 2:
        return None
    return column_chart(
        [float(one.lists) for one in traffic.days],
        caption="Lists shown a day",
        x_title="day (UTC)",
        y_title="lists",
        labels=[f"{one.day.day} {one.day:%b}" for one in traffic.days],
    )


def _slices(view: MigrationView) -> list[dict[str, Any]]:
    """Generative minus cascade by group of users: offline, and online where it was measured."""
    plots = []
    offline = _policy(view.settings, Stage.PILOT)
    for kind, wanted, title in (
        ("offline", "ndcg", "Ranking quality, on the test set"),
        ("online", "ctr", "Clicks on an item shown, live"),
    ):
        found = [
            item
            for item in view.evidence
            if item.kind == kind
            and item.metric.partition("@")[0] == wanted
            and item.path_b == "cascade"
            and item.path_a == "generative"
        ]
        metrics = {
            requirement.metric for requirement in offline.requirements if requirement.kind == kind
        } or {item.metric for item in found}
        found = [item for item in found if item.metric in metrics]
        if kind == "online" and all(item.slice == "all" for item in found):
            continue  # the chart over time says it
        margins = {
            (one.metric, one.slice): one.margin
            for policy in (offline, view.settings.hybrid)
            for one in policy.requirements
            if one.kind == kind and one.against == "cascade"
        }
        order = list(SLICES)
        rows = [
            ForestRow(
                SLICES.get(item.slice, (words(item.slice), ""))[0],
                item.estimate,
                item.low,
                item.high,
                f"{count(item.n)} users",
                margins.get((item.metric, item.slice)),
            )
            for item in sorted(
                found, key=lambda one: (order.index(one.slice) if one.slice in order else 99, one.slice)
            )
        ]
        if rows:
            plots.append(
                {"title": title, "picture": forest_plot(rows, caption=f"{title}: generative minus cascade")}
            )
    return plots


# -- latency and cost


def _latency(view: MigrationView) -> Markup | None:
    if view.check is None:
        return None
    budget = _latency_budget(view.settings)
    bars = [
        Bar(
            f"{words(path).capitalize()}, {said}",
            row[f"latency_{name}_ms"],
            figure("latency_p99_ms", row[f"latency_{name}_ms"]),
            budget if name == "p99" else None,
        )
        for path, row in sorted(view.check["paths"].items())
        for name, said in (("p50", "half within"), ("p95", "95 % within"), ("p99", "99 % within"))
        if row.get(f"latency_{name}_ms") is not None
    ]
    return bar_chart(bars, caption="Latency of the serving check by path, in milliseconds") if bars else None


def _latency_budget(settings: MigrationSettings) -> float | None:
    for requirement in settings.pilot.requirements:
        if requirement.metric == "latency_p99_ms" and requirement.direction == "at_most":
            return requirement.margin
    return None


def _live_latency(view: MigrationView) -> list[dict[str, Any]]:
    if view.traffic is None:
        return []
    return [
        {
            "path": PATHS.get(path, words(path)),
            "lists": view.traffic.latency_counts[path],
            **{name: figure("latency_p99_ms", value) for name, value in quantiles.items()},
        }
        for path, quantiles in view.traffic.latency_ms.items()
    ]


def _costs(view: MigrationView) -> list[dict[str, Any]]:
    if view.check is None:
        return []
    found = path_costs(view.check, view.settings.costs)
    base = next((one for one in found if one.path == PathName.CASCADE), None)
    per_day = None if view.traffic is None else view.traffic.lists_per_day
    return [
        {
            "path": PATHS.get(one.path, words(one.path)),
            "rate": number(one.requests_per_second, 0),
            "seconds": number(one.seconds_per_thousand, 1),
            "money": f"{one.money_per_thousand:.5f}",
            "ratio": ""
            if base is None
            else f"{one.seconds_per_thousand / base.seconds_per_thousand:.2f} \N{MULTIPLICATION SIGN}",
            "daily": None if per_day is None else f"{one.money_per_thousand * per_day / 1000:.4f}",
            "exact": one.exact,
        }
        for one in found
    ]


# -- words


def _simulation(marked: Mapping[str, Any]) -> str:
    told = ", ".join(
        f"{words(str(name))}: {value}" for name, value in marked.items() if not isinstance(value, dict | list)
    )
    return (
        f"Simulated users of planted behaviour ({told})." if told else "Simulated users of planted behaviour."
    )


def _share(share: float) -> str:
    return percent(share, 0 if abs(100 * share - round(100 * share)) < 1e-6 else 1)


def _moment(at: str) -> str:
    """``31 January 2026, 12:00 UTC``, as far as it is known."""
    moment = datetime.fromisoformat(at)
    return f"{moment.day} {moment:%B %Y, %H:%M} {moment.tzname() or ''}".strip()
