"""What a replay shows, honestly: the gates' own words on what it gathered, and how many users it would take.

A replay has as many users as were set aside, a tenth of a data set. Where that decides nothing, the verdict is HOLD, and
the power calculation beside it says what would.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import polars as pl

from segue.errors import ConfigurationError
from segue.migration.decide import DECISION_FILE, Decision, Target, decide, read_decision
from segue.migration.evidence import EVIDENCE_FILE, Evidence, read_evidence
from segue.migration.gates import policy_of
from segue.migration.ledger import Ledger
from segue.migration.online import About, online_evidence
from segue.migration.online_experiment import Experiment, running_experiment
from segue.migration.power import Plan, PolicyNeed, policy_power, shares_before
from segue.migration.settings import MigrationSettings, Policy
from segue.migration.state import State
from segue.migration.statistics.linearised import arm_estimate
from segue.migration.statistics.moments import UserMoments
from segue.params import Params
from segue.serving.store import Store
from segue.workspace import Workspace

OFFLINE = ("offline_evaluation", "refit_check", "serving_check")
CTR = "ctr"


@dataclass(frozen=True, slots=True)
class Verdict:
    """``decision``: of the gate that stands before the next stage, where there is one. ``need``: what its policy, or the first
    that asks for traffic, would take at ``users_per_day``; ``without``: why there is no such figure."""

    stage: str
    target: Target | None
    decision: Decision | None
    policy: str
    need: PolicyNeed | None
    without: str
    users_per_day: float
    sd: Mapping[str, float]


def verdict(
    workspace: Workspace, dataset: str, params: Params, store: Store, *, users_per_day: float
) -> Verdict:
    """The verdict on every list of the running experiment that a replay asked for, and on no other; nothing is recorded or
    applied."""
    ledger = Ledger.open(workspace, dataset)
    try:
        state = State.of(dataset, ledger.rows())
    finally:
        ledger.close()
    settings = params.migration
    experiment = running_experiment(state)
    stage = "none" if state.current is None else state.current.stage.value
    decision = (
        _pilot(workspace, dataset)
        if experiment is None
        else _online(workspace, dataset, settings, store, experiment)
    )
    judged = Target.HYBRID if experiment is None else experiment.target
    sd, expected = observed(store)
    need, without = needed(policy_of(settings, judged), settings, judged, users_per_day, sd, expected)
    return Verdict(
        stage=stage,
        target=None if decision is None else decision.target,
        decision=decision,
        policy=judged.value,
        need=need,
        without=without,
        users_per_day=users_per_day,
        sd=sd,
    )


def observed(store: Store) -> tuple[dict[str, float], dict[str, float]]:
    """From the replayed users, all arms together: the standard deviation of one user's figure, and figures to expect.

    Of the CTR it is that of (clicks - ctr · impressions) / mean impressions. Empty where there are too few users.
    """
    figures = ("clicks", "impressions", "exposures", "fallbacks")
    shown = (
        store.user_sums(replayed=True)
        .table.group_by("user_hash")
        .agg(pl.col(name).sum() for name in figures)
        .filter(pl.col("impressions") > 0)
    )
    if shown.height < 2:
        return {}, {}
    clicks, impressions, lists, fallbacks = (shown[name].to_numpy().astype(np.float64) for name in figures)
    estimate = arm_estimate(UserMoments.of(clicks, impressions), 0, 1)
    sd = float(np.sqrt(estimate.variance))
    return ({CTR: sd} if sd > 0 else {}), {"fallback_rate": float(fallbacks.sum() / lists.sum())}


def needed(
    policy: Policy,
    settings: MigrationSettings,
    target: Target,
    users_per_day: float,
    sd: Mapping[str, float],
    expected: Mapping[str, float],
) -> tuple[PolicyNeed | None, str]:
    """Users and days that ``policy`` takes if the contender is as good as the cascade, and as steady as it was seen to be."""
    if not any(one.kind == "online" for one in policy.requirements):
        return None, "its policy asks for no traffic"
    if CTR not in sd and any(one.metric == CTR and one.kind == "online" for one in policy.requirements):
        return None, "nobody clicked, so how much one user's CTR varies is not known"
    plan = Plan(
        users_per_day=users_per_day,
        **shares_before(settings, target.value),
        expected=expected,
        sd=sd,
    )
    try:
        return policy_power(policy, plan), ""
    except ConfigurationError as error:
        return None, str(error)


def _pilot(workspace: Workspace, dataset: str) -> Decision | None:
    """Where nobody is served by a contender, what stands in the way is the pilot's gate, which was judged offline."""
    path = workspace.step(dataset, "pilot_decision") / DECISION_FILE
    return read_decision(path) if path.is_file() else None


def _online(
    workspace: Workspace, dataset: str, settings: MigrationSettings, store: Store, experiment: Experiment
) -> Decision:
    evidence = _before(workspace, dataset)
    snapshot = next((one.snapshot for one in evidence), "unknown")
    policy = policy_of(settings, experiment.target)
    measured = online_evidence(
        experiment,
        store.online_users(experiment, settings.online, replayed=True),
        settings,
        About(dataset=dataset, snapshot=snapshot, code_version="replay"),
        only=[one for one in policy.requirements if one.kind == "online"],
    )
    facts = experiment.on_trial.facts
    return decide(
        [*evidence, *measured.evidence],
        policy,
        datetime.now(UTC),
        target=experiment.target,
        recipe=facts.recipe,
        bundle_id=facts.bundle_id,
        notes=measured.notes,
    )


def _before(workspace: Workspace, dataset: str) -> Sequence[Evidence]:
    files = [workspace.step(dataset, step) / EVIDENCE_FILE for step in OFFLINE]
    return [one for file in files if file.is_file() for one in read_evidence(file)]
