"""``reports/<dataset>/migration.html``: the migration for somebody who has to answer for it.

Where it stands, what was measured as pictures, every decision with its reasons, what the next stage still lacks and about how
long that takes, and what a thousand requests cost by each path. Words first, figures after.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from segue.migration.decide import Outcome
from segue.migration.deployment import CANARY, HOLDBACK, INTERLEAVED, Deployment
from segue.migration.outlook import Lack, Traffic, longest, outlook
from segue.migration.policy import Status
from segue.migration.power import shares_before
from segue.reporting.index_page import STAGES
from segue.reporting.migration_evidence import (
    arm_row,
    charts,
    daily,
    experiment_in_words,
    funnel,
    guardrails,
    slices,
)
from segue.reporting.migration_speed import costs, latency, live_latency
from segue.reporting.migration_view import MigrationView
from segue.reporting.migration_words import (
    STATUS_TONES,
    STATUS_WORDS,
    found_in_words,
    moment,
    policy_of,
    ruler,
    share_in_words,
)
from segue.reporting.plain import PATHS, days_in_words, requirement_demand, requirement_title
from segue.reporting.render import count, words, write_page
from segue.reporting.timeline import timeline
from segue.schema import PathName, Stage

PAGE: Final = "migration.html"
ENTERS: Final = {
    Stage.PILOT: "let a small share of the users try the generative path",
    Stage.HYBRID: "serve most users generated lists, blended with the cascade's or alone",
    Stage.FULL: "serve everybody but a holdback what was measured at stage hybrid",
}
SHOWN_ENTRIES: Final = 12  # of the story; the rest is folded
_COLOURS: Final = {INTERLEAVED: "c3", HOLDBACK: "c9", CANARY: "c2"}
_GENERATED: Final = frozenset(PathName) - {PathName.CASCADE, PathName.POPULARITY}


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
        waiting=[str(proposal) for proposal in view.state.proposals],
        track=_track(stage),
        cards=_cards(view, following, lacking),
        arms=[] if deployment is None else _arm_rows(deployment),
        shadow=None if deployment is None else deployment.shadow,
        deployment=deployment,
        moment=moment,
        following=following,
        enters=None if following is None else ENTERS[following],
        requirements=_requirements(view, following, lacking),
        any_online=any(lack.requirement.kind == "online" for lack in lacking),
        slowest=_days_of(lacking),
        pace=_pace(view),
        experiment=experiment_in_words(view.experiment),
        charts=charts(view),
        guardrails=guardrails(view),
        funnel=funnel(view),
        arm_table=[] if view.traffic is None else [arm_row(view, arm) for arm in view.traffic.arms],
        traffic=view.traffic,
        daily=daily(view),
        slices=slices(view),
        latency=latency(view),
        live_latency=live_latency(view),
        costs=costs(view),
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
    since = moment(deployment.at)
    if share == 0:
        where = f"Everybody is served by the cascade, since {since}."
    else:
        rest = f"; {share_in_words(1 - share)} stay on the cascade" if share < 1 else ""
        where = f"{share_in_words(share)} of the users get lists in which the generative model has a part{rest}. Since {since}."
    back = ""
    last = view.state.revisions[-1]
    if last.event in ("rollback", "demote", "abandon"):
        done = {"rollback": "rolled back", "demote": "put back a stage", "abandon": "ended"}[last.event]
        back = f" The experiment was {done}: {_why_back(view)}."
    if following is None:
        return f"{where}{back} This is the last stage."
    decision = view.decisions.get(following.value)
    if decision is not None and decision.outcome is Outcome.PROMOTE and not lacking:
        if _barred_by(view, following) is not None:
            return f"{where}{back} The evidence would allow the next stage, {following.value}, but its recipe is barred from it."
        return f"{where}{back} The evidence allows the next stage, {following.value}."
    if not lacking:
        return f"{where}{back} The next stage is {following.value}."
    asked = len(policy_of(view.settings, following).requirements)
    missing = f"{len(lacking)} of {asked} requirements {'is' if len(lacking) == 1 else 'are'} still open"
    days = longest(lacking)
    waits = any(lack.requirement.kind == "online" for lack in lacking)
    when = f"; at today's traffic that takes {days_in_words(days)}" if waits and days is not None else ""
    return f"{where}{back} To {ENTERS[following]} (stage {following.value}), {missing}{when}."


def _why_back(view: MigrationView) -> str:
    """Which guardrail was crossed, in words, where one was; else what the one who did it wrote."""
    deployment = view.deployment
    assert deployment is not None
    ended = [decision for decision in view.state.decisions.values() if decision.outcome is Outcome.ROLLBACK]
    if deployment.restores is None or not ended or not deployment.reason.startswith("guardrail"):
        return deployment.reason
    broken = [one for one in ended[-1].verdicts if one.requirement.guardrail and one.status is Status.FAILED]
    return "a guardrail was crossed, " + " and ".join(
        f"{requirement_title(one.requirement).lower()}: {found_in_words(one.requirement, one)}, where "
        f"{requirement_demand(one.requirement)}"
        for one in broken
    )


def lacks(view: MigrationView, following: Stage | None) -> list[Lack]:
    """What the next stage's policy still lacks."""
    if following is None:
        return []
    decision = view.decisions.get(following.value)
    verdicts = () if decision is None else decision.verdicts
    return outlook(policy_of(view.settings, following), verdicts, _assumed(view, following))


def _days_of(lacking: Sequence[Lack]) -> str | None:
    days = longest(lacking)
    return None if days is None else days_in_words(days)


def _assumed(view: MigrationView, following: Stage) -> Traffic:
    """Today's traffic and what was measured so far, for the power calculation."""
    traffic = None if view.simulation is not None else view.traffic  # a simulation's clock is no calendar
    paths = {PathName.GENERATIVE, view.settings.pilot_path, view.settings.hybrid_path}
    measured = {  # online evidence comes last, and goes over the serving check's
        item.metric: item.estimate
        for item in view.evidence
        if item.kind in ("serving", "online") and item.path_a in paths and not item.is_difference
        and item.slice == "all" and item.estimate is not None and item.metric.endswith("_rate")
    }  # fmt: skip
    return Traffic(
        users_per_day=None if traffic is None else traffic.users_per_day,
        **shares_before(view.settings, following.value),
        expected=measured,
        sd={} if view.traffic is None else view.traffic.sd,
    )


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
    if following is None or (left := _barred_by(view, following)) is None:
        return None
    return (
        f"Revision {left} took this recipe out of stage {following.value}. Whatever is measured of it now, only another "
        "recipe or an override by name begins again."
    )


def _barred_by(view: MigrationView, following: Stage) -> int | None:
    """The revision that barred from ``following`` the recipe that was decided about for it; null where none did."""
    decision = view.decisions.get(following.value)
    return (
        None if decision is None else view.state.barred_recipes.get((following.value, decision.recipe or ""))
    )


def _cards(
    view: MigrationView, following: Stage | None, lacking: Sequence[Lack]
) -> list[tuple[str, str, str]]:
    deployment, traffic = view.deployment, view.traffic
    if deployment is None:
        return []
    cards = [
        ("Stage", deployment.stage.value, f"revision {deployment.revision}, since {moment(deployment.at)}"),
        (
            "Users with generated lists",
            share_in_words(generated_share(deployment)),
            "the others get the cascade's",
        ),
    ]
    if following is not None:
        asked = len(policy_of(view.settings, following).requirements)
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
            "share": share_in_words(arm.share),
            "width": f"{100 * arm.share:.2f}",
            "colour": _COLOURS.get(arm.name, "c0" if arm.path in _GENERATED else "c6"),
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
    for requirement in policy_of(view.settings, following).requirements:
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
                "found": found_in_words(requirement, verdict),
                "ruler": ruler(requirement, verdict),
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


def _pace(view: MigrationView) -> str:
    """What "today's traffic" is, or why there is none to speak of."""
    traffic = view.traffic
    if view.simulation is not None:
        return "A simulation's clock is no calendar, so users are told and no days."
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


# -- words


def _simulation(marked: Mapping[str, Any]) -> str:
    told = ", ".join(
        f"{words(str(name))}: {value}" for name, value in marked.items() if not isinstance(value, dict | list)
    )
    return (
        f"Simulated users of planted behaviour ({told})." if told else "Simulated users of planted behaviour."
    )
