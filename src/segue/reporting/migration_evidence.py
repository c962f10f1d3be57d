"""The evidence of the migration page as pictures: sequences over time, guardrails, the funnel, groups of users."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from markupsafe import Markup

from segue.migration.deployment import Arm
from segue.migration.looks import Figure, Look, look_of
from segue.migration.policy import Status
from segue.migration.settings import MigrationSettings, Requirement
from segue.reporting.charts import column_chart
from segue.reporting.funnel import funnel_chart
from segue.reporting.migration_view import Experiment, MigrationView
from segue.reporting.migration_words import found_in_words, moment, policy_of, ruler
from segue.reporting.names import SLICES
from segue.reporting.online_traffic import ArmTraffic
from segue.reporting.plain import PATHS, figure, metric_name, requirement_demand, requirement_title
from segue.reporting.render import count, percent, words
from segue.reporting.sequence_chart import Point, sequence_chart
from segue.reporting.svg import ForestRow, forest_plot
from segue.schema import Stage


def experiment_in_words(experiment: Experiment | None) -> str:
    if experiment is None:
        return (
            "No experiment has begun yet. Once one runs, every figure that a gate looks at appears here as it narrows "
            "over time, with the margin that it must keep."
        )
    begun = f"The experiment began on {moment(experiment.begun.deployment.at)} (revision {experiment.begun.deployment.revision})"
    if experiment.ended is None:
        return f"{begun} and runs."
    ended = experiment.ended.deployment
    return f"{begun} and ended on {moment(ended.at)} (revision {ended.revision}): {ended.reason}."


def _online_requirements(settings: MigrationSettings) -> dict[Figure, Requirement]:
    """What a gate asks of each online figure; where two stages ask it, the nearer stage's."""
    found: dict[Figure, Requirement] = {}
    for policy in (settings.hybrid, settings.full, settings.refresh_recipe):
        for requirement in policy.requirements:
            if requirement.kind == "online":
                key = (requirement.metric, requirement.path, requirement.against, requirement.slice)
                found.setdefault(key, requirement)
    return found


def _looks(view: MigrationView) -> dict[Figure, list[Look]]:
    """By figure, since the experiment began; the present evidence is a look too."""
    experiment = view.experiment
    begin = None if experiment is None else datetime.fromisoformat(experiment.begun.deployment.at)
    found: dict[Figure, list[Look]] = {}
    for look in view.looks:
        if begin is None or look.at >= begin:
            found.setdefault(look.figure, []).append(look)
    for item in view.online():
        now = look_of(item)
        if now is None or (begin is not None and now.at < begin):
            continue
        series = found.setdefault(now.figure, [])
        if all(look.at < now.at for look in series):
            series.append(now)
    return {key: series for key, series in found.items() if series}


def charts(view: MigrationView) -> list[dict[str, Any]]:
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
            return figure(metric, value, difference=compared).replace(" points", " pts")

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
    return f"{estimate}, between {low} and {high}"


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


def guardrails(view: MigrationView) -> list[dict[str, Any]]:
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
                "found": found_in_words(requirement, verdict),
                "ruler": ruler(requirement, verdict),
            }
        )
    return rows


def _guarded(status: Status) -> str:
    if status is Status.FAILED:
        return "crossed: rolls back"
    return {Status.MISSING: "not measured yet", Status.MET: "kept"}.get(status, "not crossed")


def funnel(view: MigrationView) -> Markup | None:
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


def arm_row(view: MigrationView, arm: ArmTraffic) -> dict[str, Any]:
    return {
        "name": _arm_names(view).get(arm.arm, arm.arm),
        "users": arm.users,
        "lists": arm.lists,
        "clicks": arm.clicks,
        "ctr": percent(arm.clicks / arm.items, 2) if arm.items else "",
        "purchases": arm.purchases,
        "fallbacks": percent(arm.fallbacks / arm.named_lists, 2) if arm.named_lists else "",
    }


def daily(view: MigrationView) -> Markup | None:
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


def slices(view: MigrationView) -> list[dict[str, Any]]:
    """Generative minus cascade by group of users: offline, and online where it was measured."""
    plots = []
    offline = policy_of(view.settings, Stage.PILOT)
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
