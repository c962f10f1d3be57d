"""Simulated users of known preference, with planted truths. What comes out of here is never evidence about a real public.

A user's habits last (how often they come, how readily they click, how slow their connection is), so events of one user are
dependent and users are not. Visits are heavy-tailed. A user enters at a look; their window stays open for some looks, and
closes later still, because feedback is late; only then do they count, once, with what had been reported by then.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import gammaincc

from segue.migration.statistics.interval import Floats
from segue.migration.statistics.moments import UserMoments

Counts = npt.NDArray[np.int64]

# Positions of a user's figures in the moments.
CLICKS, REQUESTS, COVARIATE, LATENCY = 0, 1, 2, 3

SLOW: Final = 0.99  # the quantile of latency beyond which a request is slow


@dataclass(frozen=True, slots=True)
class Population:
    """Who the users are.

    ``requests_mean`` in a window, beyond the first; their rates are Lomax with ``tail`` (2.5: variance is
    finite, the third moment is not). ``ctr`` is the mean click probability, Beta over users with
    ``concentration``. ``fallback_rate`` likewise over users with ``fallback_concentration``.
    ``latency_ms`` a request, gamma with ``latency_shape``, times a log-normal user factor of ``latency_spread``.
    ``reported``: share of the clicks that are reported before the window closes.
    """

    requests_mean: float = 8.0
    tail: float = 2.5
    ctr: float = 0.1
    concentration: float = 20.0
    fallback_rate: float = 0.01
    fallback_concentration: float = 5.0
    latency_ms: float = 80.0
    latency_shape: float = 4.0
    latency_spread: float = 0.3
    reported: float = 0.9

    def slow_share(self, slowness: Floats, threshold_ms: float) -> Floats:
        """The probability that a request of users of this ``slowness`` takes longer than ``threshold_ms``."""
        scale = self.latency_ms * slowness / self.latency_shape
        return np.asarray(gammaincc(self.latency_shape, threshold_ms / scale))

    def latency_quantile_ms(self, q: float) -> float:
        """Of a request drawn from a user drawn at random, by Gauss-Hermite quadrature over users."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(64)
        users, weights = np.exp(self.latency_spread * nodes), weights / weights.sum()
        longest = 100.0 * self.latency_ms * float(users.max())
        return float(
            brentq(lambda ms: weights @ self.slow_share(users, ms) - (1.0 - q), 1e-6, longest, xtol=1e-9)
        )


@dataclass(frozen=True, slots=True)
class Effect:
    """A planted truth: factors on what an arm's users would do and meet."""

    clicks: float = 1.0
    latency: float = 1.0
    fallbacks: float = 1.0


NONE: Final = Effect()


@dataclass(frozen=True, slots=True)
class Users:
    """Habits that last: ``rate`` of requests a window, ``taste`` (click probability), ``slowness`` (factor), ``trouble``
    (probability that a request falls back). All of one shape."""

    rate: Floats
    taste: Floats
    slowness: Floats
    trouble: Floats


@dataclass(frozen=True, slots=True)
class Window:
    """What users did in one window: counts, and milliseconds summed over requests."""

    requests: Counts
    clicks: Counts
    fallbacks: Counts
    latency_ms: Floats


def draw_users(population: Population, random: np.random.Generator, shape: tuple[int, ...]) -> Users:
    """Independent users."""
    return Users(
        rate=population.requests_mean * (population.tail - 1.0) * random.pareto(population.tail, shape),
        taste=_beta(random, population.ctr, population.concentration, shape),
        slowness=np.exp(population.latency_spread * random.standard_normal(shape)),
        trouble=_beta(random, population.fallback_rate, population.fallback_concentration, shape),
    )


def observe(
    population: Population,
    users: Users,
    random: np.random.Generator,
    effect: Effect = NONE,
    treated: npt.NDArray[np.bool_] | None = None,
) -> Window:
    """One window of each user: at least one request, without which nobody is in an experiment.

    ``treated`` (default: all) are those who meet ``effect``.
    """

    factor = partial(_factor, treated)
    requests = 1 + random.poisson(users.rate)
    taste = np.minimum(users.taste * factor(effect.clicks), 1.0)
    clicks = random.binomial(requests, taste * population.reported)
    fallbacks = random.binomial(requests, np.minimum(users.trouble * factor(effect.fallbacks), 1.0))
    # A sum of independent gammas of one scale is a gamma of the summed shape.
    scale = population.latency_ms * factor(effect.latency) * users.slowness / population.latency_shape
    latency = random.standard_gamma(population.latency_shape * requests) * scale
    return Window(requests, clicks, fallbacks, latency)


def slow_requests(
    population: Population,
    users: Users,
    requests: Counts,
    random: np.random.Generator,
    effect: Effect = NONE,
    treated: npt.NDArray[np.bool_] | None = None,
) -> Counts:
    """How many of each user's ``requests`` take longer than 99 % do where nothing is planted.

    Drawn on their own: they are not parts of the sum that :func:`observe` gives."""
    factor = _factor(treated, effect.latency)
    limit = population.latency_quantile_ms(SLOW)
    return np.asarray(random.binomial(requests, population.slow_share(users.slowness * factor, limit)))


def _factor(treated: npt.NDArray[np.bool_] | None, planted: float) -> Floats | float:
    """What is ``planted`` for those who are treated (None: all), 1 for the others."""
    return planted if treated is None else np.where(treated, planted, 1.0)


def pre_period(
    population: Population,
    users: Users,
    random: np.random.Generator,
    effect: Effect = NONE,
    treated: npt.NDArray[np.bool_] | None = None,
) -> Floats:
    """A covariate from a window before the experiment: clicks above those that the mean rate would give.

    With an ``effect`` on who is ``treated`` it is none: the arms differed in that window already."""
    before = observe(population, users, random, effect, treated)
    return np.asarray(
        before.clicks - population.ctr * population.reported * before.requests, dtype=np.float64
    )


@dataclass(frozen=True, slots=True)
class Trace:
    """Many experiments, their users in order of arrival.

    ``treatment`` and ``control``: moments ``[E, L]`` of the users who are new at each look; and of each user
    ``[E, L, U]``: ``treated``, whether they ``clicked`` at all, the ``covariate`` from before, and which shares of
    their requests fell back and were slow.
    """

    treatment: UserMoments
    control: UserMoments
    treated: npt.NDArray[np.bool_]
    clicked: npt.NDArray[np.bool_]
    covariate: Floats
    fallback_share: Floats
    slow_share: Floats


@dataclass(frozen=True, slots=True)
class Schedule:
    """``experiments`` at once, ``looks`` each, with ``users`` whose windows have closed since the last look; they
    entered ``lag`` looks before."""

    experiments: int
    looks: int
    users: int
    lag: int = 5

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.experiments, self.looks, self.users

    def batches(self, at_once: int) -> Iterator[Schedule]:
        """The same in pieces of ``at_once`` experiments, so that memory stays small."""
        for start in range(0, self.experiments, at_once):
            yield Schedule(min(at_once, self.experiments - start), self.looks, self.users, self.lag)


def simulate(
    population: Population,
    schedule: Schedule,
    random: np.random.Generator,
    effect: Effect = NONE,
    share: float = 0.5,
    past: Effect = NONE,
) -> Trace:
    """Experiments whose treatment takes each user with probability ``share``. ``past``: what the treated met in the window that
    the covariate is from, as where an earlier stage treated them."""
    users = draw_users(population, random, schedule.shape)
    treated = random.random(schedule.shape) < share
    covariate = pre_period(population, users, random, past, treated)
    seen = observe(population, users, random, effect, treated)
    slow = slow_requests(population, users, seen.requests, random, effect, treated)
    figures = np.stack([seen.clicks, seen.requests, covariate, seen.latency_ms], axis=-1)
    return Trace(
        treatment=_moments(figures, treated),
        control=_moments(figures, ~treated),
        treated=treated,
        clicked=seen.clicks > 0,
        covariate=covariate,
        fallback_share=seen.fallbacks / seen.requests,
        slow_share=slow / seen.requests,
    )


# How a window passes: requests are spread evenly over its looks, a click is reported so many looks after it.
WINDOW_LOOKS: Final = 3
REPORT_DELAYS: Final = (0.5, 0.3, 0.1)  # the rest is never reported


def simulate_so_far(
    population: Population, schedule: Schedule, random: np.random.Generator, effect: Effect = NONE
) -> tuple[UserMoments, UserMoments]:
    """Moments ``[E, L]`` (clicks and requests) of two equal arms if *everybody who has entered* counts at each look with
    what is known of them so far: users whose windows are open, clicks that are not reported yet."""
    users = draw_users(population, random, schedule.shape)
    treated = random.random(schedule.shape) < 0.5
    taste = np.minimum(users.taste * np.where(treated, effect.clicks, 1.0), 1.0)
    ages = WINDOW_LOOKS + len(REPORT_DELAYS) - 1
    requests = np.zeros((ages, *schedule.shape))
    clicks = np.zeros((ages, *schedule.shape))
    for age in range(WINDOW_LOOKS):
        made = random.poisson(users.rate / WINDOW_LOOKS) + (age == 0)
        requests[age] += made
        pending, remaining = random.binomial(made, taste), 1.0
        for delay, chance in enumerate(REPORT_DELAYS):
            reported = random.binomial(pending, chance / remaining)
            clicks[age + delay] += reported
            pending, remaining = pending - reported, remaining - chance
    known = np.stack([clicks.cumsum(axis=0), requests.cumsum(axis=0)], axis=-1)
    return _so_far(known, treated), _so_far(known, ~treated)


def _so_far(known: Floats, who: npt.NDArray[np.bool_]) -> UserMoments:
    """From what is known of each user at each age ``[A, E, L, U, d]``: at look t those who entered at t - a have age a, the
    last age standing for all later ones."""
    by_age = [_moments(figures, who) for figures in known]
    total = by_age[-1].cumulative(1).later(len(by_age) - 1)
    for age, entered in enumerate(by_age[:-1]):
        total = total + entered.later(age)
    return total


def _moments(figures: Floats, who: npt.NDArray[np.bool_]) -> UserMoments:
    own = figures * who[..., None]
    return UserMoments(
        n=who.sum(axis=-1, dtype=np.float64),
        total=own.sum(axis=-2),
        product=np.matmul(own.swapaxes(-1, -2), own),
    )


def simulate_interleaving(
    population: Population, schedule: Schedule, random: np.random.Generator, effect: Effect = NONE
) -> Floats:
    """Preferences in {-1, 0, 1}, ``[E, L, U]``, of users who are shown lists of two interleaved paths, the first of which has
    ``effect``: a click falls on its items in proportion to how attractive the two are."""
    users = draw_users(population, random, schedule.shape)
    mixed = Effect(clicks=(1.0 + effect.clicks) / 2.0)
    clicks = observe(population, users, random, mixed).clicks
    for_a = random.binomial(clicks, effect.clicks / (1.0 + effect.clicks))
    return np.asarray(np.sign(2.0 * for_a - clicks))


def simulate_assignment(shares: tuple[float, ...], schedule: Schedule, random: np.random.Generator) -> Counts:
    """Users an arm who entered up to each look, ``[E, L, K]``; an exposure is counted at once, it is not late."""
    entered = random.multinomial(schedule.users, shares, size=(schedule.experiments, schedule.looks))
    return np.cumsum(entered, axis=1)


def _beta(random: np.random.Generator, mean: float, concentration: float, shape: tuple[int, ...]) -> Floats:
    return np.asarray(random.beta(mean * concentration, (1.0 - mean) * concentration, shape))
