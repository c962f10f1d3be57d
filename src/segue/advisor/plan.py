"""The plan: a stage after the other, with policies filled in, as overrides that ``segue run --set @plan.yaml`` takes."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from typing import Any, Final

import yaml
from pydantic import BaseModel, ConfigDict

from segue.advisor.answers import Answers
from segue.advisor.framework import Framework, Level, PlanRow, Strategy
from segue.errors import ConfigurationError
from segue.evaluation.settings import EvaluationSettings
from segue.migration.outlook import Lack, Traffic, longest, outlook
from segue.migration.policy import lint_policies, subject
from segue.migration.power import shares_before
from segue.migration.settings import MigrationSettings, Policy, Requirement
from segue.migration.statistics.asymptotic import MINIMUM_USERS
from segue.schema import PathName, Stage
from segue.serving.settings import ServingSettings

DAYS_A_MONTH: Final = 30.4
REACH: Final = 500_000
FEASIBLE_DAYS: Final = 365  # nobody waits longer for one experiment, nor does the world stand still for it
WIDTH: Final = 120
_STAGES: Final = (Stage.PILOT, Stage.HYBRID, Stage.FULL)


class StagePlan(BaseModel):
    """``days``: until the evidence for this stage is decided at the stated traffic; null where that cannot be told, and
    for the first stage, which no traffic decides. ``entered``: users who come until then."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: Stage
    path: str
    share: float
    entered: int | None
    days: int | None
    least_days: int | None = None  # also where one requirement's time cannot be told; null where none can
    told: tuple[str, ...]

    @property
    def out_of_reach(self) -> str | None:
        """Why this stage's evidence cannot be waited for, and what would help; null where it can be."""
        if self.least_days is None or self.least_days <= FEASIBLE_DAYS:
            return None
        return (
            f"{self.stage.value}: {self.least_days:,} days or more of this traffic are not feasible (over a year). What would "
            "help: a wider margin, a larger share of the users, a metric that varies less or is reached more often, or "
            "evidence pooled over several surfaces; else stay at the stage before"
        )


class Plan(BaseModel):
    """``overrides``: sections of parameters. ``assumptions``: what the durations rest on, in sentences."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stages: tuple[StagePlan, ...]
    overrides: dict[str, dict[str, Any]]
    assumptions: tuple[str, ...]


def make_plan(
    strategy: Strategy, answers: Answers, settings: MigrationSettings, table: Framework, *, reach: int = REACH
) -> Plan:
    """The policies of ``settings`` with margins, minimum n and shares for ``strategy``.

    Margins of differences are multiplied by the risk tolerance's factor; latency's is the stated target; the minimum n of an
    online requirement is what the power calculation says it takes. Raises ConfigurationError where what comes out would be
    refused by the linter: the policies that it began with were faulty.
    """
    row = table.plans[strategy]
    factor = table.margins[Level(answers.risk_tolerance)]
    users_per_day = answers.monthly_users / DAYS_A_MONTH
    spread = click_spread(answers, table)
    stages: list[StagePlan] = []
    changed: dict[str, Any] = _shares(row)
    for stage in _STAGES:
        policy = _with_margins(getattr(settings, stage.value), factor, answers.latency_p99_ms)
        if stage is Stage.PILOT:
            policy = _admitting(policy, row.pilot_path)
        lacking: list[Lack] = []
        if stage is not Stage.PILOT:
            traffic = Traffic(
                users_per_day=users_per_day,
                **shares_before(settings.model_copy(update=_shares(row)), stage.value),
                expected={"fallback_rate": table.assumptions.fallback_rate},
                sd={"ctr": spread},
            )
            policy = _about(policy, row.pilot_path if stage is Stage.HYBRID else row.hybrid_path)
            if stage is Stage.HYBRID:
                pilot = _with_margins(settings.pilot, factor, answers.latency_p99_ms)
                policy = _measured_before(policy, pilot, row)
            lacking = outlook(policy, [], traffic, reach=reach)
            policy = _with_minimum_n(policy, lacking)
        changed[stage.value] = policy.model_dump(mode="json", exclude_defaults=True)
        if stage is not Stage.FULL or row.last == "full":
            stages.append(_stage(stage, row, lacking, reach / users_per_day))
    changed["shadow"] = _with_margins(settings.shadow, factor, answers.latency_p99_ms).model_dump(
        mode="json", exclude_defaults=True
    )
    # Its canary runs at stage full, which serves what hybrid did.
    changed["refresh_recipe"] = _about(
        _with_margins(settings.refresh_recipe, factor, answers.latency_p99_ms), row.hybrid_path
    ).model_dump(mode="json", exclude_defaults=True)
    merged = MigrationSettings.model_validate(settings.model_dump(mode="json") | changed)
    if faults := lint_policies(merged):
        raise ConfigurationError(f"the plan's policies would be refused: {faults[0]}")
    return Plan(
        stages=tuple(stages),
        overrides={"migration": changed, **_measuring(row)},
        assumptions=(
            f"{users_per_day:,.0f} users a day come for the first time: {answers.monthly_users:,} a month, each counted once",
            f"a user clicks {answers.ctr:.1%} of {answers.impressions_per_user:g} items shown, users differ by "
            f"{table.assumptions.user_spread:.0%} of that, so that one user's figure has a standard deviation of {spread:.3f}",
            f"{table.assumptions.fallback_rate:.1%} of the generated lists fall back to the cascade",
            f"margins of differences are {factor:g} times those of params.yaml, for a {answers.risk_tolerance} risk tolerance",
        ),
    )


def click_spread(answers: Answers, table: Framework) -> float:
    """Standard deviation over users of clicks per item shown: between users, and within one of finitely many items.

    Var = (c p)^2 + p (1 - p) / m for a click rate p, a coefficient of variation c between users, and m items each.
    """
    between = (table.assumptions.user_spread * answers.ctr) ** 2
    return math.sqrt(between + answers.ctr * (1 - answers.ctr) / answers.impressions_per_user)


def as_yaml(plan: Plan, header: Mapping[str, str]) -> str:
    """The overrides as a commented YAML file; ``header``: lines by their title."""
    said = [f"{title}: {text}" for title, text in header.items()]
    said += [f"Assumed: {text}." for text in plan.assumptions]
    said += [
        f"{one.stage.value}: {one.path} for {one.share:.0%} of the users"
        + ("" if one.days is None else f"; its evidence takes about {one.days:,} days")
        + ("" if one.out_of_reach is None else ", which is not feasible")
        for one in plan.stages
    ]
    lines = [
        line
        for text in said
        for line in textwrap.wrap(text, WIDTH - 2, initial_indent="# ", subsequent_indent="#   ")
    ]
    body = yaml.safe_dump(plan.overrides, sort_keys=False, allow_unicode=True, width=WIDTH)
    return "\n".join(lines) + "\n\n" + body


def _shares(row: PlanRow) -> dict[str, Any]:
    return {
        "automatic": row.automatic,
        "pilot_path": row.pilot_path.value,
        "pilot_share": row.pilot_share,
        "hybrid_path": row.hybrid_path.value,
        "hybrid_share": row.hybrid_share,
        "holdback_share": row.holdback,
    }


def _with_margins(policy: Policy, factor: float, latency: float) -> Policy:
    return Policy(requirements=tuple(_with_margin(one, factor, latency) for one in policy.requirements))


def _with_margin(requirement: Requirement, factor: float, latency: float) -> Requirement:
    if requirement.metric == "latency_p99_ms" and requirement.against is None:
        return requirement.model_copy(update={"margin": latency})
    if requirement.against is not None and requirement.margin != 0:
        return requirement.model_copy(update={"margin": round(requirement.margin * factor, 9)})
    return requirement


def _admitting(policy: Policy, served: PathName) -> Policy:
    """What was asked of the contender's path before the pilot, asked of the path that the pilot serves.

    Overlaps are asked of the model itself, whichever path it serves in.
    """
    return Policy(
        requirements=tuple(
            one.model_copy(update={"path": served.value})
            if one.path not in (PathName.CASCADE, PathName.POPULARITY) and "_overlap@" not in one.metric
            else one
            for one in policy.requirements
        )
    )


def _measured_before(policy: Policy, pilot: Policy, row: PlanRow) -> Policy:
    """Offline requirements of hybrid about the path that most users get then, as far as the pilot serves another one; where there
    are none, those that the pilot asks over all users."""
    served = row.hybrid_path
    asked = [one for one in policy.requirements if one.kind == "offline" and one.path != PathName.CASCADE]
    if not asked and served is not row.pilot_path:
        before = [
            one.model_copy(update={"path": served.value})
            for one in pilot.requirements
            if one.kind == "offline" and one.against == PathName.CASCADE and one.slice == "all"
        ]
        return Policy(requirements=(*before, *policy.requirements))
    return Policy(
        requirements=tuple(
            one.model_copy(update={"path": served.value}) if one in asked else one
            for one in policy.requirements
        )
    )


def _measuring(row: PlanRow) -> dict[str, dict[str, Any]]:
    """The sections that have composed paths measured, beside what is measured by default: offline whatever is served, behind a
    real server the pilot's."""
    served = [path.value for path in (row.pilot_path, row.hybrid_path) if path is not PathName.GENERATIVE]
    composed = dict.fromkeys((*EvaluationSettings().composed, *served))
    checked = dict.fromkeys((*(path.value for path in ServingSettings().check_paths), row.pilot_path.value))
    found: dict[str, dict[str, Any]] = {"evaluation": {"composed": list(composed)}} if served else {}
    if row.pilot_path is not PathName.GENERATIVE:
        found["serving"] = {"check_paths": list(checked)}
    return found


def _about(policy: Policy, served: PathName) -> Policy:
    """Online requirements about the path that the stage before serves: evidence names what was measured.

    An interleaved list tells the preference for the generative path, whichever path the treatment gets.
    """
    return Policy(
        requirements=tuple(
            one
            if one.kind != "online" or one.metric == "interleaving_preference" or one.path == PathName.CASCADE
            else one.model_copy(update={"path": served.value})
            for one in policy.requirements
        )
    )


def _with_minimum_n(policy: Policy, lacking: list[Lack]) -> Policy:
    """What it takes to decide, rounded up to two digits; as it was where that is out of reach."""
    needed = {lack.requirement: lack.users for lack in lacking}
    return Policy(
        requirements=tuple(
            one
            if (users := needed.get(one)) is None
            else one.model_copy(update={"minimum_n": max(MINIMUM_USERS, _rounded(users))})
            for one in policy.requirements
        )
    )


def _rounded(users: int) -> int:
    step = int(10 ** max(0, len(str(users)) - 2))
    return math.ceil(users / step) * step


def _counted(lack: Lack) -> str:
    """The plan's minimum n is of these."""
    return "" if lack.users in (None, lack.entered) else f", {lack.users:,} counted"


def _stage(stage: Stage, row: PlanRow, lacking: list[Lack], reach_days: float) -> StagePlan:
    """``reach_days``: in which as many users come as the power calculation looks at."""
    path, share = {
        Stage.PILOT: (row.pilot_path.value, row.pilot_share),
        Stage.HYBRID: (row.hybrid_path.value, row.hybrid_share),
        Stage.FULL: (row.hybrid_path.value, 1 - row.holdback),
    }[stage]
    entered = [lack.entered for lack in lacking if lack.entered is not None]
    if stage is Stage.PILOT:
        told: tuple[str, ...] = ("decided by offline evidence and the serving check: no traffic is needed",)
    else:
        told = tuple(
            f"{subject(lack.requirement)}: "
            + (
                lack.says
                if lack.entered is None
                else f"{lack.entered:,} enter{_counted(lack)}, {lack.days:,} days"
            )
            for lack in lacking
        )
    return StagePlan(
        stage=stage,
        path=path,
        share=share,
        entered=max(entered, default=None),
        days=longest(lacking) if lacking else None,
        least_days=max(
            [lack.days for lack in lacking if lack.days is not None]
            + [math.floor(reach_days) for lack in lacking if lack.beyond],
            default=None,
        ),
        told=told,
    )
