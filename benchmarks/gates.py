"""How often the online gates are wrong, and how soon they are right: ``make bench-gates``.

Simulated experiments, looked at 100 times each, on users with several events each, heavy-tailed counts and late feedback. Rows
planted "nothing" are A/A: their rate is that of false alarms at any look, and a valid gate keeps it below the nominal one. The
other rows plant a fault: their rate is that of detection, ``median_looks`` the look at which half of those that were detected
had been.

    python -m benchmarks.gates [--quick]

Exit code 1 if the 95 % lower bound of any valid gate's false-alarm rate is above its nominal rate.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import beta

from benchmarks import harness
from segue.migration.simulation import (
    CLICKS,
    COVARIATE,
    LATENCY,
    NONE,
    REQUESTS,
    SLOW,
    Effect,
    Population,
    Schedule,
    Trace,
    simulate,
    simulate_assignment,
    simulate_interleaving,
    simulate_so_far,
)
from segue.migration.statistics import asymptotic, bounded, predictable, sample_ratio
from segue.migration.statistics.asymptotic import MINIMUM_USERS, Bounds
from segue.migration.statistics.difference import (
    Difference,
    covariate_gap,
    cuped_difference,
    difference,
    relative_difference,
)
from segue.migration.statistics.family import bonferroni
from segue.migration.statistics.interval import Floats
from segue.migration.statistics.linearised import arm_estimate
from segue.migration.statistics.sequences import GAP_P

COLUMNS = ("gate", "planted", "experiments", "looks", "rate", "nominal", "median_looks")
NOMINAL = 0.05
CONFIDENCE = 1.0 - NOMINAL
SEED = 20260131
INVALID = "not valid: "
NOTHING = "nothing"
Crossed = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Size:
    aa: Schedule
    planted: Schedule
    at_once: int = 40


FULL = Size(aa=Schedule(2000, 100, 400), planted=Schedule(500, 100, 400))
QUICK = Size(aa=Schedule(240, 100, 80), planted=Schedule(80, 100, 80))

LOSSES = {"clicks -2 %": 0.98, "clicks -5 %": 0.95, "clicks -10 %": 0.90}


def experiments(
    population: Population,
    schedule: Schedule,
    random: np.random.Generator,
    effect: Effect,
    share: float = 0.5,
    past: Effect = NONE,
) -> Trace:
    """With the moments of all users up to each look."""
    trace = simulate(population, schedule, random, effect, share, past)
    return replace(trace, treatment=trace.treatment.cumulative(1), control=trace.control.cumulative(1))


Sequences = Callable[[Trace, float], Bounds]


def _asymptotic(found: Difference, confidence: float) -> Bounds:
    return asymptotic.bounds(
        found.value,
        found.standard_error,
        found.n,
        confidence=confidence,
        smaller_arm=found.smaller_arm,
    )


def _ctr_difference(trace: Trace) -> Difference:
    return difference(
        arm_estimate(trace.treatment, CLICKS, REQUESTS),
        arm_estimate(trace.control, CLICKS, REQUESTS),
    )


def ctr(trace: Trace, confidence: float) -> Bounds:
    return _asymptotic(_ctr_difference(trace), confidence)


def ctr_cuped(trace: Trace, confidence: float) -> Bounds:
    a, b = trace.treatment, trace.control
    return _asymptotic(
        cuped_difference(a, b, covariate=COVARIATE, numerator=CLICKS, denominator=REQUESTS), confidence
    )


def ctr_cuped_unless_noticed(trace: Trace, confidence: float) -> Bounds:
    """By CUPED, but plain at the looks at which the arms' covariates differ beyond chance."""
    gap = covariate_gap(trace.treatment, trace.control, COVARIATE)
    noticed = crossed(_asymptotic(gap, 1.0 - GAP_P), two_sided=True)
    plain, adjusted = ctr(trace, confidence), ctr_cuped(trace, confidence)
    return Bounds(np.where(noticed, plain.low, adjusted.low), np.where(noticed, plain.high, adjusted.high))


def clicks_per_user(trace: Trace, confidence: float) -> Bounds:
    a, b = trace.treatment, trace.control
    return _asymptotic(difference(arm_estimate(a, CLICKS), arm_estimate(b, CLICKS)), confidence)


def latency(trace: Trace, confidence: float) -> Bounds:
    """Relative to the control's in the same run; turned round, so that below zero is worse, as elsewhere."""
    a, b = trace.treatment, trace.control
    found = relative_difference(arm_estimate(a, LATENCY, REQUESTS), arm_estimate(b, LATENCY, REQUESTS))
    low, high = _asymptotic(found, confidence)
    return Bounds(-high, -low)


def clicked_bernstein(trace: Trace, confidence: float) -> Bounds:
    """Share of users who clicked at all, by one score a user, as a closed interval."""
    flat, users = _flat(_scores(trace, adjusted=False)), trace.clicked.shape[-1]
    low, high = bounded.empirical_bernstein_bounds(flat, confidence)
    return Bounds(low[:, users - 1 :: users] - 0.5, high[:, users - 1 :: users] - 0.5)


def clicked(trace: Trace, confidence: float) -> Bounds:
    return betting(_scores(trace, adjusted=False), 0.5, confidence)


def clicked_adjusted(trace: Trace, confidence: float) -> Bounds:
    return betting(_scores(trace, adjusted=True), 0.5, confidence)


def _scores(trace: Trace, *, adjusted: bool) -> Floats:
    """Scores ``[E, L, U]`` scaled to [0, 1]: no difference is one half."""
    found = predictable.scores(
        _flat(trace.clicked),
        _flat(trace.treated).astype(bool),
        0.5,
        _flat(trace.covariate) if adjusted else None,
    )
    reach = predictable.score_range(0.5)
    return np.asarray((found + reach) / (2.0 * reach)).reshape(trace.clicked.shape)


def _flat(values: npt.NDArray[Any]) -> Floats:
    """``[E, L, U]`` as ``[E, L U]``: users in the order in which they came."""
    return values.reshape(len(values), -1).astype(np.float64)


def betting(values: Floats, truth: float, confidence: float) -> Bounds:
    """Which side of ``truth`` the betting sequence of ``values [E, L, U]`` lies, as bounds of -1, 0 and 1: the capital against
    the truth tells that without the search for both ends."""
    users, flat = values.shape[-1], _flat(values)
    stakes = bounded.bets(flat, confidence)
    limit = math.log(2.0 / (1.0 - confidence))

    def won(*, above: bool) -> Crossed:
        capital = bounded.log_capital(flat, stakes, np.full(len(flat), truth), above=above)
        return np.asarray(capital[:, users - 1 :: users] >= limit)

    return Bounds(np.where(won(above=True), 1.0, -1.0), np.where(won(above=False), -1.0, 1.0))


def fixed_z_test(trace: Trace, confidence: float) -> Bounds:
    """The interval for one look, looked at again and again."""
    found = _ctr_difference(trace)
    half = NormalDist().inv_cdf(0.5 + confidence / 2.0) * found.standard_error
    return Bounds(found.value - half, found.value + half)


def ctr_over_events(trace: Trace, confidence: float) -> Bounds:
    """The same sequence as :func:`ctr`, as if requests, not users, were independent."""
    shares, variances, sizes = [], [], []
    for arm in (trace.treatment, trace.control):
        clicks, requests = arm.total[..., CLICKS], arm.total[..., REQUESTS]
        share = clicks / requests
        shares.append(share)
        variances.append(share * (1.0 - share) / requests)
        sizes.append(requests)
    n = sizes[0] + sizes[1]
    found = Difference(
        shares[0] - shares[1], np.sqrt(variances[0] + variances[1]), n, np.minimum(sizes[0], sizes[1])
    )
    return _asymptotic(found, confidence)


VALID: Mapping[str, Sequences] = {
    "ctr, users, asymptotic": ctr,
    "ctr, users, asymptotic with CUPED": ctr_cuped,
    "clicks a user, asymptotic": clicks_per_user,
    "users who clicked, bounded, empirical Bernstein": clicked_bernstein,
    "users who clicked, bounded, betting": clicked,
    "users who clicked, bounded, betting with covariate": clicked_adjusted,
    "latency relative to the cascade, asymptotic": latency,
}
CONTRAST: Mapping[str, Sequences] = {
    f"{INVALID}ctr, users, z-test at every look": fixed_z_test,
    f"{INVALID}ctr, events, asymptotic": ctr_over_events,
}
# Of users who were treated in an earlier stage, against those who are held back.
TREATED_PAST = f"{INVALID}ctr, users, against 10 % held back, asymptotic with CUPED on a treated past"
HELD_BACK: Mapping[str, Sequences] = {
    "ctr, users, against 10 % held back, asymptotic": ctr,
    TREATED_PAST: ctr_cuped_unless_noticed,
}
TREATED, BEFORE = 0.9, Effect(clicks=0.8)
FALLBACKS = "fallback rate, bounded, betting"
SLOWEST = "latency p99, bounded, betting"
SO_FAR = "ctr, users so far, windows open, asymptotic"
PREFERENCE = "interleaving preference, bounded, betting"
RATIO = "sample ratio, multinomial"
FAMILY = "any of 4 guardrails, Bonferroni"


def crossed(bounds: Bounds, *, two_sided: bool) -> Crossed:
    """At which looks ``[E, L]`` zero is excluded; one-sided: by a loss. An undefined bound excludes nothing."""
    lost = bounds.high < 0
    return np.asarray(lost | (bounds.low > 0) if two_sided else lost)


def false_alarms(population: Population, size: Size, random: np.random.Generator) -> dict[str, Crossed]:
    """A/A: every gate on the same experiments, and whether it was crossed at each look ``[E, L]``."""
    found: dict[str, list[Crossed]] = {}

    def note(name: str, bounds: Bounds) -> None:
        found.setdefault(name, []).append(crossed(bounds, two_sided=True))

    each = bonferroni(CONFIDENCE, 4)
    for schedule in size.aa.batches(size.at_once):
        trace = experiments(population, schedule, random, Effect())
        for name, sequence in {**VALID, **CONTRAST}.items():
            note(name, sequence(trace, CONFIDENCE))
        fallbacks = trace.fallback_share
        note(FALLBACKS, betting(fallbacks, population.fallback_rate, CONFIDENCE))
        note(SLOWEST, betting(trace.slow_share, 1.0 - SLOW, CONFIDENCE))
        guardrails = [sequence(trace, each) for sequence in (ctr, clicked, latency)]
        guardrails.append(betting(fallbacks, population.fallback_rate, each))
        found.setdefault(FAMILY, []).append(
            np.logical_or.reduce([crossed(one, two_sided=True) for one in guardrails])
        )
        later = experiments(population, schedule, random, Effect(), TREATED, BEFORE)
        for name, sequence in HELD_BACK.items():
            note(name, sequence(later, CONFIDENCE))
        note(PREFERENCE, _preference(population, schedule, random, Effect()))
        note(SO_FAR, _so_far(population, schedule, random, Effect()))
        found.setdefault(RATIO, []).append(_skewed((0.5, 0.5), schedule, random))
    return {name: np.concatenate(pieces) for name, pieces in found.items()}


def _so_far(
    population: Population, schedule: Schedule, random: np.random.Generator, effect: Effect
) -> Bounds:
    arms = simulate_so_far(population, replace(schedule, users=schedule.users // 4), random, effect)
    return _asymptotic(difference(*(arm_estimate(arm, CLICKS, REQUESTS) for arm in arms)), CONFIDENCE)


def _preference(
    population: Population, schedule: Schedule, random: np.random.Generator, effect: Effect
) -> Bounds:
    values = (simulate_interleaving(population, schedule, random, effect) + 1.0) / 2.0
    return betting(values, 0.5, CONFIDENCE)


def _skewed(shares: tuple[float, float], schedule: Schedule, random: np.random.Generator) -> Crossed:
    counts = simulate_assignment(shares, schedule, random)
    return np.asarray(sample_ratio.p_values(counts, np.array([0.5, 0.5])) <= NOMINAL)


def detections(
    population: Population, size: Size, random: np.random.Generator
) -> Iterator[tuple[str, str, Crossed]]:
    """(gate, planted, crossed ``[E, L]``) for every planted fault and the gates that should see it."""

    def collect(
        effect: Effect, gates: Mapping[str, Sequences], share: float = 0.5
    ) -> Iterator[tuple[str, Crossed]]:
        pieces: dict[str, list[Crossed]] = {name: [] for name in gates}
        for schedule in size.planted.batches(size.at_once):
            trace = experiments(population, schedule, random, effect, share)
            for name, sequence in gates.items():
                pieces[name].append(crossed(sequence(trace, CONFIDENCE), two_sided=False))
        for name, found in pieces.items():
            yield name, np.concatenate(found)

    def fallbacks(trace: Trace, confidence: float) -> Bounds:
        low, high = betting(trace.fallback_share, population.fallback_rate, confidence)
        return Bounds(-high, -low)  # more of them is worse

    def slowest(trace: Trace, confidence: float) -> Bounds:
        low, high = betting(trace.slow_share, 1.0 - SLOW, confidence)
        return Bounds(-high, -low)

    on_clicks = {name: gate for name, gate in VALID.items() if gate is not latency}
    for planted, factor in LOSSES.items():
        for name, found in collect(Effect(clicks=factor), on_clicks):
            yield name, planted, found
        pieces = [
            crossed(_preference(population, schedule, random, Effect(clicks=factor)), two_sided=False)
            for schedule in size.planted.batches(size.at_once)
        ]
        yield PREFERENCE, planted, np.concatenate(pieces)
    slow = {name: gate for name, gate in VALID.items() if gate is latency}
    for name, found in collect(Effect(latency=1.2), slow):
        yield name, "latency +20 %", found
    for name, found in collect(Effect(fallbacks=1.5), {FALLBACKS: fallbacks}, share=1.0):
        yield name, "fallbacks +50 %", found
    for name, found in collect(Effect(latency=1.2), {SLOWEST: slowest}, share=1.0):
        yield name, "latency +20 %", found
    lost = 0.98 / 1.98
    for planted, shares in (
        ("2 points of skew (48 : 52)", (0.48, 0.52)),
        ("2 % of one arm's users lost (49.5 : 50.5)", (lost, 1.0 - lost)),
    ):
        pieces = [_skewed(shares, schedule, random) for schedule in size.planted.batches(size.at_once)]
        yield RATIO, planted, np.concatenate(pieces)


def row(gate: str, planted: str, found: Crossed, lag: int) -> dict[str, Any]:
    """``median_looks`` counts from the look at which the first users entered, over the experiments that were crossed."""
    ever = found.any(axis=1)
    late = 0 if gate in (RATIO, SO_FAR) else lag
    return {
        "gate": gate,
        "planted": planted,
        "experiments": len(found),
        "looks": found.shape[1],
        "rate": float(ever.mean()),
        "nominal": NOMINAL,
        "median_looks": float(np.median(found[ever].argmax(axis=1) + 1 + late)) if ever.any() else None,
    }


def measure(size: Size, population: Population | None = None) -> list[dict[str, Any]]:
    population = population or Population()
    random = np.random.default_rng(SEED)
    rows = [
        row(gate, NOTHING, found, size.aa.lag)
        for gate, found in false_alarms(population, size, random).items()
    ]
    rows.sort(key=lambda one: str(one["gate"]).startswith(INVALID))
    rows.extend(
        row(gate, planted, found, size.planted.lag)
        for gate, planted, found in detections(population, size, random)
    )
    return rows


def lower_bound(rate: float, experiments: int) -> float:
    """One-sided 95 % Clopper-Pearson (1934) lower bound of a rate."""
    hits = round(rate * experiments)
    return float(beta.ppf(0.05, hits, experiments - hits + 1)) if hits else 0.0


def broken(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Gates that call themselves valid and raise more false alarms than they promise, beyond chance."""
    return [
        f"{one['gate']}: {one['rate']:.3f} false alarms, at least "
        f"{lower_bound(one['rate'], one['experiments']):.3f}, above {one['nominal']:.3f}"
        for one in rows
        if one["planted"] == NOTHING
        and not str(one["gate"]).startswith(INVALID)
        and lower_bound(one["rate"], one["experiments"]) > one["nominal"]
    ]


def notes(size: Size) -> list[str]:
    people = Population()
    return [
        f"{size.aa.users} users enter at each look, each treated with probability one half; their windows close "
        f"{size.aa.lag} looks later, when {1 - people.reported:.0%} of the clicks have not been reported and are "
        "lost; a look is what a day would be.",
        f"Users make 1 + {people.requests_mean:g} requests on average, their rates Lomax with tail {people.tail:g} "
        f"(no third moment); {people.ctr:.0%} click probability, Beta over users. One seed: {SEED}.",
        f"Asymptotic sequences begin at {MINIMUM_USERS} users in the smaller arm; looks before that cross nothing.",
        "False alarms count either side; detections count the harmful side alone, at margin zero. Rows that begin "
        'with "not valid" are there for contrast: the same data, judged as it should not be.',
        "median_looks is over the experiments that were detected, from the first users' entry, so it includes the "
        "wait for windows to close (sample ratio: none). A rate of zero has none.",
        f'"{SO_FAR}": a quarter of the users, who count from their first request with what is known of them so '
        "far. No theorem covers it, because a user's figure still grows after it entered: what stands here is only "
        "what was measured. It also compares arms on unfinished users, which is fair only if feedback is equally "
        "late in both.",
        f'"{SLOWEST}" asks one arm whether the 99th percentile of its requests, a user at a time, is the one of the '
        "population where nothing is planted: the point of the grid on which the gate rests "
        "(segue.migration.statistics.quantile).",
        f'"against 10 % held back": all others were treated in an earlier stage, and clicked {1 - BEFORE.clicks:.0%} less in '
        "it; now the arms are equal. A past from that stage biases the difference, also where the gates' own test "
        f"(p = {GAP_P:g}) drops a covariate that differs between the arms. They take a past from before the arms were "
        "drawn, and against those who are held back none.",
        "The family is ctr, users who clicked, latency and fallback rate, each at 1 - 0.05 / 4.",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a toy size, written nowhere")
    if parser.parse_args().quick:
        print(*measure(QUICK), sep="\n")
        return
    rows = measure(FULL)
    path = harness.write(
        "gates", (__doc__ or "").split("\n\n")[1].replace("\n", " "), COLUMNS, rows, notes=notes(FULL)
    )
    print(f"wrote {path}")
    if faults := broken(rows):
        sys.exit("; ".join(faults))


if __name__ == "__main__":
    main()
