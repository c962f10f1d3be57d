"""Policies: how one requirement is judged, and the linter that refuses a policy which decides nothing.

A requirement is judged by the *end* of its interval, never by the estimate: ``at_least`` needs the low end,
``at_most`` the high end. Where the interval straddles the margin, the evidence is *underpowered* and the
verdict says how many units it would take.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from enum import StrEnum
from statistics import NormalDist
from typing import Final

from pydantic import BaseModel, ConfigDict

from segue.canonical import sha256_of
from segue.errors import ConfigurationError
from segue.migration.deployment import CANARY
from segue.migration.evidence import Evidence
from segue.migration.settings import MigrationSettings, Policy, Requirement
from segue.migration.statistics.asymptotic import users_for
from segue.schema import PathName

COUNTED: Final = frozenset(
    {"duration_days"}
)  # read off a clock, not estimated: exact however often one looks
POWER: Final = 0.8  # with which a margin should be resolved, when the n that it would take is told


class Status(StrEnum):
    """How a requirement stands. Only ``MET`` lets anything pass."""

    MET = "met"
    FAILED = "failed"
    UNDERPOWERED = "underpowered"
    MISSING = "missing"
    STALE = "stale"
    NON_FINITE = "non-finite"
    NOT_VALID = "not valid"


# From the best to the worst: where several pieces of evidence answer one requirement, the worst counts.
_SEVERITY: Final = (
    Status.MET,
    Status.UNDERPOWERED,
    Status.STALE,
    Status.NON_FINITE,
    Status.NOT_VALID,
    Status.MISSING,
    Status.FAILED,
)


class Verdict(BaseModel):
    """One requirement, judged. ``reason`` is a sentence for people."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    requirement: Requirement
    status: Status
    reason: str
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    needed_n: int | None = None


def policy_sha256(policy: Policy) -> str:
    return sha256_of(policy.model_dump(mode="json"))


def evaluate(
    requirement: Requirement,
    evidence: Iterable[Evidence],
    as_of: datetime | None,
    *,
    recipe: str | None,
    bundle: str | None,
    target: str,
) -> Verdict:
    """Judge one requirement against everything that was measured.

    Offline and online evidence counts only if it was measured on ``recipe``, serving evidence only if on
    ``bundle``, and online evidence only if its experiment was for ``target``: what a pilot shows is no word on the
    stage after the next. ``as_of`` is the moment at which ages are taken; null makes every age unknown, hence stale.
    """
    matching = [item for item in evidence if _answers(item, requirement)]
    measured = [item for item in matching if _is_bound(item, recipe=recipe, bundle=bundle)]
    bound = [item for item in measured if item.kind != "online" or item.gathered_for == target]
    if not bound:
        what = subject(requirement)
        if measured:
            stages = ", ".join(sorted({item.gathered_for or "no gate" for item in measured}))
            reason = f"{what}: missing; what was measured was gathered for {stages}, not for {target}"
        elif matching:
            other = "another bundle" if requirement.kind == "serving" else "another recipe"
            reason = f"{what}: missing; what was measured was measured on {other}"
        else:
            reason = f"{what}: missing; there is no {requirement.kind} evidence for it"
        return Verdict(requirement=requirement, status=Status.MISSING, reason=reason)
    verdicts = [_judge(requirement, item, as_of) for item in bound]
    return max(verdicts, key=lambda verdict: (_SEVERITY.index(verdict.status), verdict.reason))


def _answers(item: Evidence, requirement: Requirement) -> bool:
    return (
        item.kind == requirement.kind
        and item.metric == requirement.metric
        and item.slice == requirement.slice
        and item.path_a == requirement.path
        and item.path_b == requirement.against
    )


def _is_bound(item: Evidence, *, recipe: str | None, bundle: str | None) -> bool:
    if item.kind == "serving":
        return bundle is not None and item.bundle == bundle
    return recipe is not None and item.recipe_a == recipe


def _judge(requirement: Requirement, item: Evidence, as_of: datetime | None) -> Verdict:
    def verdict(status: Status, reason: str, needed_n: int | None = None) -> Verdict:
        return Verdict(
            requirement=requirement,
            status=status,
            reason=f"{subject(requirement)}: {status.value}; {reason}",
            estimate=item.estimate,
            low=item.low,
            high=item.high,
            n=item.n,
            needed_n=needed_n,
        )

    counted = item.interval == "exact" and requirement.metric in COUNTED
    if requirement.kind == "online" and item.interval != "confidence_sequence" and not counted:
        return verdict(
            Status.NOT_VALID,
            f"online evidence must be a confidence sequence, this is a {item.interval} interval",
        )
    low, high, estimate = item.low, item.high, item.estimate
    if item.interval == "confidence_sequence" and estimate is not None and low is None and high is None:
        # An asymptotic sequence has no bounds before its first users are many: that is how every sound experiment begins.
        return Verdict(
            requirement=requirement,
            status=Status.NON_FINITE,
            reason=f"{subject(requirement)}: too early; too few users have counted yet for this interval (n = {item.n})",
            estimate=estimate,
            n=item.n,
        )
    if low is None or high is None or estimate is None or not item.is_finite:
        return verdict(Status.NON_FINITE, f"the estimate or a bound is no number (n = {item.n})")
    margin = requirement.margin
    at_least = requirement.direction == "at_least"
    broken = high < margin if at_least else low > margin
    found = f"{_number(estimate)} [{_number(low)}, {_number(high)}], n = {item.n}"
    if broken:
        return verdict(Status.FAILED, f"{found} is beyond the margin {_number(margin)}")
    if (age := _staleness(requirement, item, as_of)) is not None:
        return verdict(Status.STALE, age)
    if item.n < requirement.minimum_n:
        return verdict(
            Status.UNDERPOWERED,
            f"n = {item.n}, and the policy asks for at least {requirement.minimum_n}",
            requirement.minimum_n,
        )
    if (low >= margin) if at_least else (high <= margin):
        return verdict(Status.MET, f"{found} keeps the margin {_number(margin)}")
    needed, how = _needed_n(requirement, item, estimate, low if at_least else high)
    return verdict(Status.UNDERPOWERED, f"{found} straddles the margin {_number(margin)}; {how}", needed)


def _staleness(requirement: Requirement, item: Evidence, as_of: datetime | None) -> str | None:
    if requirement.maximum_age_days is None:
        return None
    if item.measured_at is None or as_of is None:
        return "it is not known when this was measured"
    age = (as_of - datetime.fromisoformat(item.measured_at)).total_seconds() / 86400
    if age < 0:
        return f"it is dated {item.measured_at}, which is after the moment of the decision"
    if age > requirement.maximum_age_days:
        return f"it is {age:.1f} days old, and the policy allows {requirement.maximum_age_days:g}"
    return None


def _needed_n(
    requirement: Requirement, item: Evidence, estimate: float, end: float
) -> tuple[int | None, str]:
    """The n at which the margin would be resolved, and a clause that says under which assumption.

    A mean's interval narrows with the square root of n. Where the estimate lies on the good side of the
    margin it is taken for the truth; where it does not, only an assumption helps: that there is no difference
    at all (power 80 %, normal approximation; the usual sample size of a non-inferiority test, or what a
    confidence sequence takes, which is more).
    """
    at_least = requirement.direction == "at_least"
    room = estimate - requirement.margin if at_least else requirement.margin - estimate
    if room > 0 and item.n > 0:
        needed = math.ceil(item.n * (abs(estimate - end) / room) ** 2)
        return max(needed, item.n + 1), (
            f"if the estimate holds, it would take about {max(needed, item.n + 1)} {item.unit}s"
        )
    tolerated = -requirement.margin if at_least else requirement.margin
    if requirement.against is not None and tolerated > 0 and item.sd:
        if item.interval == "confidence_sequence":
            needed = users_for(tolerated, item.sd, item.confidence, POWER)
        else:
            z = NormalDist().inv_cdf(0.5 + item.confidence / 2) + NormalDist().inv_cdf(POWER)
            needed = math.ceil((z * item.sd / tolerated) ** 2)
        return needed, (
            f"the estimate itself misses it; were there truly no difference, it would take about {needed} "
            f"{item.unit}s to show that with {POWER:.0%} power"
        )
    return None, "the estimate itself misses it, so more data alone is not expected to help"


def subject(requirement: Requirement) -> str:
    """What is required, in words: every reason begins with it."""
    what = f"{requirement.kind} {requirement.metric}"
    if requirement.slice != "all":
        what += f" on {requirement.slice}"
    what += f" of {requirement.path}"
    if requirement.against is not None:
        what += f" minus {requirement.against}"
    sign = "≥" if requirement.direction == "at_least" else "≤"
    return f"{what} {sign} {_number(requirement.margin)}"


def _number(value: float) -> str:
    return f"{value:.4g}"


PREFERENCE: Final = "interleaving_preference"
_UNIT_METRICS: Final = (
    "ndcg", "recall", "mrr", "hit_rate", "precision", "coverage", "diversity", "list_overlap", "invalid_rate",
    "seen_rate", "error_rate", "fallback_rate", "ctr", "sample_ratio_deviation", "beam_share", "empty_rate",
    PREFERENCE, "refit_overlap",
)  # fmt: skip


def _range(requirement: Requirement) -> tuple[float, float]:
    """The values that the metric can take at all."""
    name = requirement.metric.partition("@")[0]
    if name in _UNIT_METRICS:
        return (0.0, 1.0) if requirement.against is None else (-1.0, 1.0)
    if name.startswith("latency") and requirement.against is None:
        return 0.0, math.inf
    return -math.inf, math.inf


def problems(policy: Policy, name: str = "policy") -> list[str]:
    """Why ``policy`` could never pass or never fail; empty where it is sound."""
    found: list[str] = []
    if not policy.requirements:
        found.append(f"{name} has no requirement: it could never fail")
    for number, requirement in enumerate(policy.requirements):
        where = f"{name}, requirement {number} ({subject(requirement)})"
        found.extend(f"{where} {problem}" for problem in _requirement_problems(requirement))
    found.extend(_contradictions(policy.requirements, name))
    return found


def _requirement_problems(requirement: Requirement) -> list[str]:
    margin = requirement.margin
    found: list[str] = []
    least, most = _range(requirement)
    if requirement.direction == "at_least":
        if margin > most:
            found.append(f"can never pass: the metric is at most {most:g}")
        if margin <= least:
            found.append(f"can never fail: the metric is at least {least:g}")
    else:
        if margin < least:
            found.append(f"can never pass: the metric is at least {least:g}")
        if margin >= most:
            found.append(f"can never fail: the metric is at most {most:g}")
    if requirement.against == requirement.path:
        found.append("compares a path with itself: its outcome is known beforehand")
    if requirement.maximum_age_days is not None:
        if requirement.kind == "offline":
            found.append(
                "can never pass: offline evidence has no time, so it has no age; drop maximum_age_days"
            )
        elif not requirement.maximum_age_days > 0:
            found.append("can never pass: maximum_age_days must be above 0")
    if requirement.guardrail and requirement.kind != "online":
        found.append("can never ask for ROLLBACK: a guardrail needs online evidence; drop guardrail")
    return found


def _contradictions(requirements: Sequence[Requirement], name: str) -> list[str]:
    def figure(requirement: Requirement) -> tuple[object, ...]:
        return (
            requirement.metric,
            requirement.kind,
            requirement.slice,
            requirement.path,
            requirement.against,
        )

    return [
        f"{name} can never pass: {subject(floor)} contradicts {subject(ceiling)}"
        for floor in requirements
        for ceiling in requirements
        if floor.direction == "at_least"
        and ceiling.direction == "at_most"
        and figure(floor) == figure(ceiling)
        and floor.margin > ceiling.margin
    ]


def lint(policy: Policy, name: str = "policy") -> None:
    """Raises ConfigurationError naming the first requirement that could never pass or never fail."""
    if found := problems(policy, name):
        raise ConfigurationError(f"params.yaml, migration: {found[0]}")


def lint_policies(
    settings: MigrationSettings,
    *,
    evaluated: Collection[str] | None = None,
    checked: Collection[str] | None = None,
) -> list[str]:
    """What is wrong with any of the policies of ``params.yaml``; empty where all are sound.

    ``evaluated``, ``checked``: the composed paths that the offline evaluation measures (``evaluation.composed``), and those
    that the serving check asks (``serving.check_paths``); null: not looked at.
    """
    found = [
        problem
        for name in MigrationSettings.model_fields
        if isinstance(policy := getattr(settings, name), Policy)
        for problem in problems(policy, name)
    ]
    return [
        *found,
        *_unasked_canaries(settings),
        *_unserved_paths(settings),
        *_absent_arms(settings),
        *_ungated_pilot(settings, evaluated, checked),
        *_ungated_hybrid(settings, evaluated),
    ]


def path_faults(settings: MigrationSettings, target: str) -> list[str]:
    """Why a decision about ``target`` would rest on other paths than those that are, or would be, served; empty where it
    rests on them. No evidence makes up for such a fault."""
    found = [one for name, one in _unserved(settings) if name == target]
    if target == "pilot":
        found += _ungated_pilot(settings, None, None)
    elif target == "hybrid":
        found += _ungated_hybrid(settings, None)
    return found


def before_serving(policy: Policy) -> Policy:
    """What of ``policy`` can be known before anybody is served."""
    return Policy(requirements=tuple(one for one in policy.requirements if one.kind != "online"))


def _unasked_canaries(settings: MigrationSettings) -> list[str]:
    """Policies of online requirements alone: those guard a canary once it runs, and nothing is asked before it begins."""
    return [
        f"{name} asks for online evidence alone, and its canary would begin unasked, which the deployment refuses: add an "
        "offline or a serving requirement"
        for name in ("refresh_recipe", "canary_incumbent")
        if (policy := getattr(settings, name)).requirements and not before_serving(policy).requirements
    ]


def _absent_arms(settings: MigrationSettings) -> list[str]:
    """Online requirements about users whom the shares leave none of: at stage full the holdback is all that is compared with,
    and interleaved lists are shown at pilot and hybrid alone."""
    held_back, mixed = settings.holdback_share > 0, settings.interleaved_share > 0
    nobody = "holdback_share is 0, so at stage full nobody is on the cascade; hold some users back"
    found = []
    for name in ("hybrid", "full", "refresh_recipe", "canary_incumbent"):
        policy: Policy = getattr(settings, name)
        for number, one in enumerate(policy.requirements):
            where = f"{name}, requirement {number} ({subject(one)})"
            if one.kind != "online":
                continue
            if one.metric == PREFERENCE:
                if name not in ("hybrid", "full"):
                    found.append(
                        f"{where} can never pass: a canary runs beside no interleaved lists; drop it"
                    )
                elif not mixed:
                    found.append(
                        f"{where} can never pass: interleaved_share is 0, so nobody sees interleaved lists"
                    )
            elif not held_back and PathName.CASCADE in (one.path, one.against):
                if name == "refresh_recipe":
                    found.append(f"{where} can never pass: {nobody}")
                elif name == "full" and one.guardrail:
                    found.append(f"{where} guards nothing once stage full is entered: {nobody}")
    return found


def _ungated_pilot(
    settings: MigrationSettings, evaluated: Collection[str] | None, checked: Collection[str] | None
) -> list[str]:
    """A pilot that would be admitted by what another path than its own showed, or by what nothing measures."""
    served = settings.pilot_path
    found = []
    for kind in ("offline", "serving"):
        # How far the refitted model is the evaluated one, and the new bundle the old, is asked of the models themselves.
        asked = [
            one for one in settings.pilot.requirements if one.kind == kind and "_overlap@" not in one.metric
        ]
        if asked and all(one.path != served for one in asked):
            found.append(
                f"pilot asks for no {kind} evidence about {served.value}, which it would serve: write path: "
                f"{served.value} to its requirements, or change pilot_path"
            )
    composed = served not in (PathName.GENERATIVE, PathName.CASCADE)
    for measured, kind, key in (
        (evaluated, "offline", "evaluation.composed"),
        (checked, "serving", "serving.check_paths"),
    ):
        if composed and measured is not None and served.value not in measured:
            found.append(f"pilot can never pass: nothing measures {served.value} ({kind}); add it to {key}")
    return found


def _ungated_hybrid(settings: MigrationSettings, evaluated: Collection[str] | None) -> list[str]:
    """Most users on a path of which nothing was asked: the pilot measures its own path alone (docs/adr/0016)."""
    served = settings.hybrid_path
    asked = [one for one in settings.hybrid.requirements if one.kind == "offline" and one.path == served]
    if not settings.hybrid.requirements or served == settings.pilot_path:
        return []
    if not asked:
        return [
            f"hybrid asks for no offline evidence about {served.value}, which it would serve, and the pilot serves "
            f"{settings.pilot_path.value}: add a requirement with kind: offline, path: {served.value}, or make hybrid_path "
            "the pilot's"
        ]
    composed = served not in (PathName.GENERATIVE, PathName.CASCADE)
    if composed and evaluated is not None and served.value not in evaluated:
        return [
            f"hybrid can never pass: nothing measures {served.value} (offline); add it to evaluation.composed"
        ]
    return []


def _unserved_paths(settings: MigrationSettings) -> list[str]:
    """Online requirements about a path that nobody is served then: evidence names what was measured."""
    return [problem for _, problem in _unserved(settings)]


def _unserved(settings: MigrationSettings) -> list[tuple[str, str]]:
    """By the policy that asks."""
    found = []
    for name, stage, served in (
        ("hybrid", "pilot", settings.pilot_path.value),
        ("full", "hybrid", settings.hybrid_path.value),
        ("refresh_recipe", "full", settings.hybrid_path.value),
        ("canary_incumbent", "cascade", CANARY),
    ):
        policy: Policy = getattr(settings, name)
        for number, one in enumerate(policy.requirements):
            # An interleaved list tells the preference for the generative path, whichever path the treatment gets.
            if one.kind != "online" or one.metric == PREFERENCE:
                continue
            if one.path not in (served, PathName.CASCADE):
                setting = "hybrid_path" if stage == "full" else f"{stage}_path"
                instead = "" if stage == "cascade" else f", or change {setting}"
                found.append(
                    (
                        name,
                        f"{name}, requirement {number} ({subject(one)}) can never pass: stage {stage} serves {served}, not "
                        f"{one.path}; write path: {served}{instead}",
                    )
                )
    return found
