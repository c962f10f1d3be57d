"""Online evidence: from the users of a running experiment to what the gates take (docs/statistics.md).

A pure function. Every figure is over users whose window has closed, and its interval is a confidence sequence, so it may
be asked for after every event. Guardrails are given at the confidence of their family. What cannot be measured is not there,
and a gate holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Final

from segue.migration.evidence import Evidence
from segue.migration.online_experiment import Experiment, ExperimentArm
from segue.migration.online_figures import (
    AGAINST,
    OWN,
    STANDARD,
    Look,
    duration_days,
    feedback_coverage,
    preference,
    sample_ratio,
)
from segue.migration.online_users import CatalogueFacts, OnlineUsers
from segue.migration.settings import MigrationSettings, Policy, Requirement
from segue.migration.statistics.as_evidence import online_evidence as as_evidence
from segue.migration.statistics.family import confidence_of
from segue.migration.statistics.interval import ConfidenceSequence, Form

CONFIDENCE: Final = 0.95
TEAM: Final = "generative"  # whose preference over the cascade interleaved lists tell


@dataclass(frozen=True, slots=True)
class About:
    """What every piece of evidence says of its origin."""

    dataset: str
    snapshot: str
    code_version: str


@dataclass(slots=True)
class Measured:
    """``evidence``, and ``notes`` on what could not be had as it should be."""

    evidence: list[Evidence] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def online_evidence(
    experiment: Experiment,
    users: OnlineUsers,
    settings: MigrationSettings,
    about: About,
    *,
    catalogue: CatalogueFacts | None = None,
    only: Iterable[Requirement] | None = None,
) -> Measured:
    """Everything that the experiment shows by now, one piece of evidence for each figure.

    Args:
        users: whose windows have closed; of this experiment alone.
        settings: their policies say which figures are guardrails, hence at which confidence.
        catalogue: of the items; None: shares of long-tail, new and unknown items, and coverage, are not measured.
        only: the requirements whose figures are wanted; None: all figures that there are.

    Nothing is dated by the clock: ``measured_at`` is when the newest user counted, so that equal users give equal
    evidence.
    """
    measured = Measured()
    counted_at = _newest(users)
    if counted_at is None:
        return measured
    look = Look(users, catalogue, measured.notes)
    bound = {"experiment": experiment.entry, "gathered_for": experiment.target.value}
    wanted = None if only is None else {(one.metric, one.path, one.against) for one in only}

    def add(
        metric: str,
        label: str,
        arm: ExperimentArm,
        against: ExperimentArm | None,
        make: Callable[[float], ConfidenceSequence | None],
    ) -> None:
        compared = None if against is None else against.label
        if wanted is not None and (metric, label, compared) not in wanted:
            return
        found = make(_confidence(settings, metric))
        if found is not None:
            one = _evidence(found, metric, label, arm, against, about, counted_at)
            measured.evidence.append(one.model_copy(update=bound))

    baseline = experiment.baseline
    for metric in _metrics(settings):
        name, cutoff = _parsed(metric)
        own, compare = OWN.get(name), AGAINST.get(name)
        if own is not None:
            for arm in (*experiment.contenders, *([] if baseline is None else [baseline])):
                add(metric, arm.label, arm, None, partial(own, look, arm, cutoff))
        if compare is not None and baseline is not None:
            for arm in experiment.contenders:
                add(metric, arm.label, arm, baseline, partial(compare, look, arm, baseline, cutoff))
    for arm in experiment.contenders:
        add("sample_ratio_deviation", arm.label, arm, None, partial(sample_ratio, experiment, users))
        add("duration_days", arm.label, arm, None, partial(duration_days, users))
        add("feedback_coverage", arm.label, arm, None, partial(feedback_coverage, users))
    for arm in experiment.interleaved:
        add("interleaving_preference", TEAM, arm, None, partial(preference, look, arm))
    return measured


def _policies(settings: MigrationSettings) -> list[Policy]:
    found = (getattr(settings, name) for name in MigrationSettings.model_fields)
    return [policy for policy in found if isinstance(policy, Policy)]


def _metrics(settings: MigrationSettings) -> list[str]:
    """The figures that there are, and those of the first k items which a policy names (`long_tail_share@10`)."""
    named = {
        one.metric for policy in _policies(settings) for one in policy.requirements if one.kind == "online"
    }
    return sorted({*STANDARD, *(metric for metric in named if _parsed(metric)[1] is not None)})


def _confidence(settings: MigrationSettings, metric: str) -> float:
    """The largest that any policy asks for: one piece of evidence must do for all of them, and a gate takes the worst."""
    return max(
        (
            confidence_of(one, policy, CONFIDENCE)
            for policy in _policies(settings)
            for one in policy.requirements
            if one.kind == "online" and one.metric == metric
        ),
        default=CONFIDENCE,
    )


def _parsed(metric: str) -> tuple[str, int | None]:
    name, at, cutoff = metric.partition("@")
    return name, int(cutoff) if at and cutoff.isdigit() else None


def _newest(users: OnlineUsers) -> datetime | None:
    """When the last user counted that any figure rests on; None before anybody was shown anything."""
    moments = [users.last_exposed_at, users.feedback["closes_at"].max(), users.serving["closes_at"].max()]
    known = [float(moment) for moment in moments if isinstance(moment, int | float)]
    return datetime.fromtimestamp(max(known), UTC) if known else None


def _evidence(
    found: ConfidenceSequence,
    metric: str,
    label: str,
    arm: ExperimentArm,
    against: ExperimentArm | None,
    about: About,
    counted_at: datetime,
) -> Evidence:
    evidence = as_evidence(
        found,
        metric=metric,
        path_a=label,
        path_b=None if against is None else against.label,
        recipe_a=arm.facts.recipe,
        recipe_b=None if against is None else against.facts.recipe,
        bundle=arm.facts.bundle_id,
        dataset=about.dataset,
        snapshot=about.snapshot,
        code_version=about.code_version,
        measured_at=counted_at,
    )
    if found.form is not Form.EXACT:
        return evidence
    return evidence.model_copy(update={"interval": "exact", "protocol": found.note})
