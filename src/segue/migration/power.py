"""How many users, and days, a policy's online requirements need before they can be decided.

A requirement is decided when its confidence sequence first lies on one side of its margin. When that happens is random, so it is
found by what it is: paths of the very sequence that the gate will use are drawn under the stated truth, and the users that
are told are those by which a share ``power`` of the paths has crossed. No formula for a fixed sample size knows that a sequence
may stop early, or what it pays for that.

Assumptions that the answer carries: the stated truth, the stated spread of one user, and for figures of asymptotic form a
normal mean. Bounded figures are drawn as the widest distribution of their mean (all or nothing a user); an interleaving
preference has the stated share of ties.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypedDict

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from segue.errors import ConfigurationError
from segue.migration.policy import POWER, PREFERENCE, subject
from segue.migration.settings import MigrationSettings, Policy, Requirement
from segue.migration.statistics import asymptotic, bounded, sample_ratio
from segue.migration.statistics.asymptotic import MINIMUM_USERS, OPTIMISED_FOR
from segue.migration.statistics.family import confidence_of
from segue.migration.statistics.interval import Floats, Form
from segue.schema import PathName

_PATHS: Final = 2000
_BOUNDED_PATHS: Final = 200  # of single users, hence dearer; the standard error of the power is 3 points
_AT_ONCE: Final = 2**22  # figures in memory at once
_SEED: Final = 0
_GRID_STEP: Final = 1.02  # looks are 2 % apart
_FEWEST: Final = 50

_P99: Final = "latency_p99_ms"
_TAIL: Final = 0.01  # of the lists, beyond the 99th percentile
_SLOWER: Final = "slower_rate"  # the share of the lists that take longer than a margin
Crossing = npt.NDArray[np.float64]  # users at which each path crosses, infinity where it never does


@dataclass(frozen=True, slots=True)
class Plan:
    """What is known before the experiment.

    ``users_per_day``: users who enter for the first time (somebody who comes back is the same user), in all arms.
    ``compared``: the share of them in treatment and control, ``share``: the treatment's part of those, ``interleaved``: of
    all users, who see mixed lists (null: all treated ones do); :func:`shares_before` says the three. ``expected``: the
    truth to be seen, by metric: a difference where a requirement compares paths, the path's own figure otherwise. ``sd``:
    of one user's figure within an arm, by metric. ``ties``: users without a preference between interleaved lists.
    ``lag_days``: until a user's window has closed.
    """

    users_per_day: float
    share: float
    compared: float = 1.0
    interleaved: float | None = None
    expected: Mapping[str, float] = field(default_factory=dict)
    sd: Mapping[str, float] = field(default_factory=dict)
    ties: float = 0.6
    lag_days: float = 1.0
    power: float = POWER
    max_days: int = 365

    def __post_init__(self) -> None:
        faults = (
            (self.users_per_day > 0, "users_per_day must be above 0"),
            (0 < self.share < 1, "share must be between 0 and 1"),
            (0 < self.compared <= 1, "compared must be above 0 and at most 1"),
            (self.interleaved is None or 0 < self.interleaved < 1, "interleaved must be between 0 and 1"),
            (0 < self.power < 1, "power must be between 0 and 1"),
            (0 <= self.ties < 1, "ties must be at least 0 and below 1"),
            (self.lag_days >= 0, "lag_days must not be negative"),
            (self.max_days > self.lag_days, "max_days must be above lag_days"),
        )
        for sound, fault in faults:
            if not sound:
                raise ConfigurationError(f"power calculation: {fault}")


class Need(BaseModel):
    """One requirement: ``outcome`` is what the truth leads to, ``users`` the evidence's n by then, ``entered`` the users who
    entered the experiment for that. Null: not within ``max_days``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    requirement: str
    outcome: Literal["met", "failed", "undecidable"]
    users: int | None
    entered: int | None
    days: int | None
    confidence: float | None
    interval: str
    assumes: str


class PolicyNeed(BaseModel):
    """A policy is decided when its last requirement is; null where one of them is not within ``max_days``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    power: float
    entered: int | None
    days: int | None
    requirements: tuple[Need, ...]


def share_before(settings: MigrationSettings, target: str) -> float:
    """Share of the treatment while the evidence for ``target`` is gathered: the pilot's, or the hybrid's before full."""
    return settings.hybrid_share if target == "full" else settings.pilot_share


class Shares(TypedDict):
    """As in :class:`Plan`."""

    share: float
    compared: float
    interleaved: float | None


def shares_before(settings: MigrationSettings, target: str, share: float | None = None) -> Shares:
    """Who sees what while the evidence for ``target`` is gathered (docs/adr/0013). ``share``: of the users who are not held
    back, the treatment's; default: the settings'."""
    free, mixed = 1.0 - settings.holdback_share, settings.interleaved_share
    treated = share_before(settings, target) if share is None else share
    return {
        "share": treated / (1.0 - mixed),
        "compared": free * (1.0 - mixed),
        "interleaved": free * mixed if mixed else None,
    }


def refuse_unused(policy: Policy, plan: Plan) -> None:
    """Raises ConfigurationError for a figure that is said of a metric which ``policy`` has not, or has no use for."""
    drawn = [
        one
        for one in policy.requirements
        if one.kind == "online" and one.metric != "duration_days" and not _is_own_p99(one)
    ]
    known = {one.metric: None for one in drawn}
    varying = {one.metric: None for one in drawn if _form(one) is Form.ASYMPTOTIC}
    for option, given, used in (("--expect", plan.expected, known), ("--sd", plan.sd, varying)):
        if unused := [name for name in given if name not in used]:
            raise ConfigurationError(
                f"{option} {unused[0]}=…: no online requirement of this policy uses it; it uses "
                f"{', '.join(used) or 'none'}"
            )


def named_numbers(texts: Sequence[str], option: str) -> dict[str, float]:
    """``["ctr=0.1"]`` as a dict. Raises ConfigurationError naming the option and the text."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not (name and equals and math.isfinite(number)):
            raise ConfigurationError(f"{option} {text}: write it as metric=number, such as ctr=0.01")
        found[name] = number
    return found


def policy_power(policy: Policy, plan: Plan) -> PolicyNeed:
    """Raises ConfigurationError naming the requirement and the option where something must be said first.

    ``power`` is each requirement's own: that all are decided by then is a little less likely.
    """
    online = [requirement for requirement in policy.requirements if requirement.kind == "online"]
    if not online:
        raise ConfigurationError(
            "this policy has no online requirement, so no traffic decides it: offline and serving evidence say "
            "themselves how many users they would take"
        )
    needs = tuple(requirement_power(one, plan, confidence_of(one, policy)) for one in online)
    return PolicyNeed(
        power=plan.power,
        entered=_largest([need.entered for need in needs]),
        days=_largest([need.days for need in needs]),
        requirements=needs,
    )


def _largest(numbers: Sequence[int | None]) -> int | None:
    known = [number for number in numbers if number is not None]
    return max(known) if len(known) == len(numbers) else None


def requirement_power(requirement: Requirement, plan: Plan, confidence: float) -> Need:
    """What one online requirement needs under ``plan``."""
    name = requirement.metric.partition("@")[0]
    if name == "duration_days":
        duration = math.ceil(requirement.margin)
        all_users = math.ceil(duration * plan.users_per_day)
        return Need(
            requirement=subject(requirement), outcome="met", users=all_users, entered=all_users, days=duration,
            confidence=None, interval="elapsed days, no estimate", assumes="the experiment runs on",
        )  # fmt: skip
    if _is_own_p99(requirement):
        return _quantile_power(requirement, plan, confidence)
    truth = _expected(requirement, plan)
    at_least = requirement.direction == "at_least"
    room = truth - requirement.margin if at_least else requirement.margin - truth
    own_share = plan.compared * (1.0 - plan.share if requirement.path == PathName.CASCADE else plan.share)
    among = "" if plan.compared == 1.0 else f"; {plan.compared:.3g} of all users are compared"
    form = _form(requirement)
    if form is Form.MULTINOMIAL:
        arm, assumes = 1.0, "users are assigned as planned, but for the stated deviation"
        crossing = _ratio_crossing(requirement, plan, truth, confidence)
    elif form is Form.BETTING:
        if name == PREFERENCE:
            arm = own_share if plan.interleaved is None else plan.interleaved
            who = "all treated users" if plan.interleaved is None else f"{plan.interleaved:.3g} of all users"
            assumes = f"{plan.ties:.0%} of the users prefer neither; {who} see interleaved lists"
        else:
            arm, assumes = own_share, f"a user meets it always or never, the widest case{among}"
        crossing = _bounded_crossing(requirement, plan, truth, confidence)
    else:
        arm = plan.compared if requirement.against is not None else own_share
        sd = _sd(requirement, plan)
        assumes = f"one user's figure has the standard deviation {sd:g} in either arm{among}"
        crossing = _asymptotic_crossing(requirement, plan, truth, sd, confidence)
    limit = (plan.max_days - plan.lag_days) * plan.users_per_day * arm
    users = None
    if room != 0:
        by_then = float(np.quantile(crossing(limit), plan.power, method="higher"))
        by_then = max(by_then, float(requirement.minimum_n))
        users = math.ceil(by_then) if by_then <= limit else None
    entered = None if users is None else math.ceil(users / arm)
    return Need(
        requirement=subject(requirement),
        outcome="undecidable" if room == 0 else ("met" if room > 0 else "failed"),
        users=users,
        entered=entered,
        days=None if entered is None else math.ceil(entered / plan.users_per_day + plan.lag_days),
        confidence=confidence,
        interval=form.value,
        assumes=f"truth {truth:g}; {assumes}",
    )


def _is_own_p99(requirement: Requirement) -> bool:
    name = requirement.metric.partition("@")[0]
    return name == _P99 and requirement.against is None and requirement.direction == "at_most"


def _form(requirement: Requirement) -> Form:
    """Of the sequence that judges an online requirement other than a duration."""
    name = requirement.metric.partition("@")[0]
    if name == "sample_ratio_deviation":
        return Form.MULTINOMIAL
    if name == PREFERENCE or (requirement.against is None and name.endswith("_rate")):
        return Form.BETTING
    return Form.ASYMPTOTIC


def _quantile_power(requirement: Requirement, plan: Plan, confidence: float) -> Need:
    """A quantile's sequence tells whether the share of a user's lists that are slower is below one in a hundred, which is a
    bounded mean like any other (:mod:`segue.migration.statistics.quantile`)."""
    if _P99 in plan.expected:
        raise ConfigurationError(
            f"{subject(requirement)}: users are calculated for lists of which none takes longer: leave --expect {_P99} out"
        )
    slower = requirement.model_copy(update={"metric": _SLOWER, "margin": _TAIL})
    need = requirement_power(slower, replace(plan, expected={_SLOWER: 0.0}), confidence)
    told = f"no list takes longer than {requirement.margin:g} ms"
    return need.model_copy(update={"requirement": subject(requirement), "assumes": told})


def _expected(requirement: Requirement, plan: Plan) -> float:
    if requirement.metric in plan.expected:
        return plan.expected[requirement.metric]
    if requirement.against is not None or requirement.metric == "sample_ratio_deviation":
        return 0.0
    if requirement.metric == PREFERENCE:
        return 0.5
    if requirement.metric == "error_rate":
        return 0.0  # the serving check lets none in
    raise ConfigurationError(
        f"{subject(requirement)}: what is it expected to be? Say --expect {requirement.metric}=VALUE"
    )


def _sd(requirement: Requirement, plan: Plan) -> float:
    sd = plan.sd.get(requirement.metric)
    if sd is None or not sd > 0:
        raise ConfigurationError(
            f"{subject(requirement)}: how much does one user's figure vary? Say --sd {requirement.metric}=VALUE; of a "
            "ratio such as ctr it is the standard deviation of (clicks - ctr * impressions) / mean impressions"
        )
    return sd


def _looks(limit: float) -> Floats:
    """Numbers of users at which a path is looked at, 2 % apart, up to ``limit``."""
    steps = max(1, math.ceil(math.log(max(limit, _FEWEST + 1) / _FEWEST) / math.log(_GRID_STEP)))
    return np.unique(np.ceil(_FEWEST * _GRID_STEP ** np.arange(steps + 1)))


def _first(looks: Floats, crossed: npt.NDArray[np.bool_]) -> Crossing:
    """The look at which each row of ``crossed [P, L]`` is first true."""
    return np.where(crossed.any(axis=1), looks[crossed.argmax(axis=1)], math.inf)


def _asymptotic_crossing(
    requirement: Requirement, plan: Plan, truth: float, sd: float, confidence: float
) -> Callable[[float], Crossing]:
    """A difference has the standard error sd / sqrt(n p (1 - p)), an arm's own mean sd / sqrt(n)."""
    compared = requirement.against is not None
    per_user = sd / math.sqrt(plan.share * (1.0 - plan.share)) if compared else sd
    smaller = min(plan.share, 1.0 - plan.share) if compared else 1.0

    def crossing(limit: float) -> Crossing:
        looks = _looks(limit)
        random = np.random.default_rng(_SEED)
        steps = random.standard_normal((_PATHS, len(looks))) * np.sqrt(np.diff(looks, prepend=0.0))
        estimate = truth + per_user * np.cumsum(steps, axis=1) / looks
        low, high = asymptotic.bounds(
            estimate,
            per_user / np.sqrt(looks),
            looks,
            confidence=confidence,
            smaller_arm=looks * smaller,
            optimised_for=OPTIMISED_FOR,
            minimum_users=MINIMUM_USERS,
        )
        return _first(looks, _decided(requirement, truth, low, high))

    return crossing


def _decided(requirement: Requirement, truth: float, low: Floats, high: Floats) -> npt.NDArray[np.bool_]:
    """Whether bounds lie on the side of the margin on which the truth is."""
    return np.asarray(low >= requirement.margin if truth > requirement.margin else high <= requirement.margin)


def _bounded_crossing(
    requirement: Requirement, plan: Plan, truth: float, confidence: float
) -> Callable[[float], Crossing]:
    """By the capital of the bettor against the margin: it has won when the sequence leaves the margin out."""
    if not 0 <= truth <= 1:
        raise ConfigurationError(f"{subject(requirement)}: {truth:g} was expected, which is outside [0, 1]")
    values, odds = _distribution(requirement, plan, truth)
    target = math.log(2.0 / (1.0 - confidence))

    def crossing(limit: float) -> Crossing:
        length = min(4096, math.ceil(limit))
        while True:
            found = _bounded_paths(values, odds, length, requirement.margin, confidence, target, truth)
            if length >= limit or np.isfinite(np.quantile(found, plan.power, method="higher")):
                return found
            length = min(4 * length, math.ceil(limit))

    return crossing


def _distribution(
    requirement: Requirement, plan: Plan, truth: float
) -> tuple[Sequence[float], Sequence[float]]:
    if requirement.metric != PREFERENCE:
        return (0.0, 1.0), (1.0 - truth, truth)
    wins = truth - plan.ties / 2.0
    if not 0 <= wins <= 1.0 - plan.ties:
        raise ConfigurationError(
            f"{subject(requirement)}: a preference of {truth:g} is not possible with {plan.ties:.0%} ties: say --ties"
        )
    return (0.0, 0.5, 1.0), (1.0 - plan.ties - wins, plan.ties, wins)


def _bounded_paths(
    values: Sequence[float],
    odds: Sequence[float],
    length: int,
    margin: float,
    confidence: float,
    target: float,
    truth: float,
) -> Crossing:
    random = np.random.default_rng(_SEED)
    found = []
    at_once = max(1, _AT_ONCE // length)
    counts = np.arange(1.0, length + 1)
    for start in range(0, _BOUNDED_PATHS, at_once):
        paths = min(at_once, _BOUNDED_PATHS - start)
        drawn = random.choice(np.asarray(values), size=(paths, length), p=odds)
        capital = bounded.log_capital(
            drawn, bounded.bets(drawn, confidence), np.full(paths, margin), above=truth > margin
        )
        found.append(_first(counts, capital >= target))
    return np.concatenate(found)


def _ratio_crossing(
    requirement: Requirement, plan: Plan, truth: float, confidence: float
) -> Callable[[float], Crossing]:
    """Two arms. The deviation is surely below the margin once the shares at either margin are left out, and surely above once
    all shares within it are, of which the nearest to the count is at its edge."""
    planned = np.array([plan.share, 1.0 - plan.share])
    edges = [plan.share - requirement.margin, plan.share + requirement.margin]
    share = plan.share - truth if truth < plan.share else plan.share + truth
    limit_log = -math.log(1.0 - confidence)

    def crossing(limit: float) -> Crossing:
        looks = _looks(limit)
        random = np.random.default_rng(_SEED)
        treated = np.cumsum(
            random.binomial(np.diff(looks, prepend=0.0).astype(int), share, (_PATHS, len(looks))), axis=1
        )
        counts = np.stack([treated, looks - treated], axis=-1).astype(np.float64)
        mixture = sample_ratio.log_mixture(counts, planned)
        left_out = [
            np.ones(treated.shape, dtype=bool)
            if not 0 < edge < 1
            else mixture - counts[..., 0] * math.log(edge) - counts[..., 1] * math.log1p(-edge) >= limit_log
            for edge in edges
        ]
        counted = treated / looks
        if abs(truth) < requirement.margin:
            inside = np.abs(counted - plan.share) <= requirement.margin
            return _first(looks, left_out[0] & left_out[1] & inside)
        below = (counted < edges[0]) & left_out[0]
        above = (counted > edges[1]) & left_out[1]
        return _first(looks, below | above)

    return crossing
