"""The figures of online evidence, each with the confidence sequence that docs/statistics.md gives it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from segue.errors import DataError
from segue.migration.deployment import HOLDBACK
from segue.migration.online_experiment import Experiment, ExperimentArm
from segue.migration.online_lists import coverage, diversity, share_of_items
from segue.migration.online_users import CatalogueFacts, OnlineUsers
from segue.migration.statistics import sequences
from segue.migration.statistics.interleaving import interleaving_preference, preferences
from segue.migration.statistics.interval import ConfidenceSequence, Floats, Form
from segue.migration.statistics.moments import UserMoments
from segue.migration.statistics.quantile import Requests, quantile, relative_quantile
from segue.migration.statistics.sample_ratio import sample_ratio_deviation

_P99: Final = 0.99
_DAY: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Look:
    """One look at the users: what the figures are made from."""

    users: OnlineUsers
    catalogue: CatalogueFacts | None
    notes: list[str]

    def feedback(self, arm: ExperimentArm) -> pl.DataFrame:
        return self.users.feedback.filter(pl.col("arm") == arm.name)

    def serving(self, arm: ExperimentArm) -> pl.DataFrame:
        return self.users.serving.filter(pl.col("arm") == arm.name)


# A figure of one arm, by (look, arm, cutoff, confidence); the cutoff is the k of `metric@k`, None where the name has none.
# None: it cannot be measured.
Own = Callable[[Look, ExperimentArm, int | None, float], ConfidenceSequence | None]
# The difference of an arm and the baseline: (look, arm, baseline, cutoff, confidence).
Against = Callable[[Look, ExperimentArm, ExperimentArm, int | None, float], ConfidenceSequence | None]


# -- figures of what users did


def _clicks(look: Look, arm: ExperimentArm) -> UserMoments:
    """Clicks and impressions of each user, and what the user's past leads one to expect: clicks above the common rate."""
    table = look.feedback(arm)
    everybody = look.users.feedback
    shown = float(everybody["earlier_impressions"].sum())
    rate = float(everybody["earlier_clicks"].sum()) / shown if shown else 0.0
    clicks, impressions, earlier_clicks, earlier = (
        _column(table, name) for name in ("clicks", "impressions", "earlier_clicks", "earlier_impressions")
    )
    return UserMoments.of(clicks, impressions, earlier_clicks - rate * earlier)


def _ctr(look: Look, arm: ExperimentArm, cutoff: int | None, confidence: float) -> ConfidenceSequence | None:
    del cutoff
    return sequences.mean(_clicks(look, arm), confidence=confidence, numerator=0, denominator=1)


def _ctr_difference(
    look: Look, arm: ExperimentArm, baseline: ExperimentArm, cutoff: int | None, confidence: float
) -> ConfidenceSequence | None:
    """Adjusted by the users' past clicks where anybody has a past that the arms cannot have moved."""
    del cutoff
    a, b = _clicks(look, arm), _clicks(look, baseline)
    # The holdback is drawn by the lasting salt, not by the experiment's: every experiment before was shown to the others alone.
    has_past = baseline.name != HOLDBACK and bool(a.product[2, 2] > 0 or b.product[2, 2] > 0)
    try:
        return sequences.difference_of_arms(
            a, b, confidence=confidence, numerator=0, denominator=1, covariate=2 if has_past else None
        )
    except DataError as error:
        # The past differs between the arms beyond chance: something is wrong with the split. The figure is given
        # without the adjustment, as a note says; the sample ratio is what judges the split.
        look.notes.append(f"ctr of {arm.label} is not adjusted by the users' past: {error}")
        return sequences.difference_of_arms(a, b, confidence=confidence, numerator=0, denominator=1)


def _per_user(column: str) -> Own:
    def own(look: Look, arm: ExperimentArm, cutoff: int | None, confidence: float) -> ConfidenceSequence:
        del cutoff
        return sequences.mean(UserMoments.of(_column(look.feedback(arm), column)), confidence=confidence)

    return own


def _per_user_difference(column: str) -> Against:
    def compare(
        look: Look, arm: ExperimentArm, baseline: ExperimentArm, cutoff: int | None, confidence: float
    ) -> ConfidenceSequence:
        del cutoff
        a, b = (UserMoments.of(_column(look.feedback(one), column)) for one in (arm, baseline))
        return sequences.difference_of_arms(a, b, confidence=confidence)

    return compare


def preference(look: Look, arm: ExperimentArm, confidence: float) -> ConfidenceSequence:
    table = look.feedback(arm)
    return interleaving_preference(
        preferences(_column(table, "clicks_generative"), _column(table, "clicks_cascade")),
        confidence=confidence,
    )


# -- figures of what the service did


def _rate(column: str) -> tuple[Own, Against]:
    """The share of each user's requests that ``column`` counts."""

    def shares(look: Look, arm: ExperimentArm) -> Floats:
        table = look.serving(arm)
        return _column(table, column) / _column(table, "exposures")

    def own(look: Look, arm: ExperimentArm, cutoff: int | None, confidence: float) -> ConfidenceSequence:
        del cutoff
        return sequences.bounded_mean(shares(look, arm), confidence=confidence)

    def compare(
        look: Look, arm: ExperimentArm, baseline: ExperimentArm, cutoff: int | None, confidence: float
    ) -> ConfidenceSequence:
        del cutoff
        return sequences.bounded_difference(shares(look, arm), shares(look, baseline), confidence=confidence)

    return own, compare


def _requests(look: Look, arm: ExperimentArm) -> Requests:
    """Latencies; users without a logged one are left out."""
    timed = (
        look.serving(arm)
        .filter(pl.col("latencies_ms").list.len() > 0)
        .with_row_index("user")
        .select("user", "latencies_ms")
        .explode("latencies_ms")
    )
    return Requests(_column(timed, "latencies_ms"), timed["user"].to_numpy().astype(np.int64))


def _latency(look: Look, arm: ExperimentArm) -> UserMoments:
    """Milliseconds and lists of each user."""
    requests = _requests(look, arm)
    n = requests.users
    return UserMoments.of(
        np.bincount(requests.user, weights=requests.value, minlength=n).astype(np.float64),
        np.bincount(requests.user, minlength=n).astype(np.float64),
    )


def _latency_mean(
    look: Look, arm: ExperimentArm, cutoff: int | None, confidence: float
) -> ConfidenceSequence | None:
    del cutoff
    return sequences.mean(_latency(look, arm), confidence=confidence, numerator=0, denominator=1)


def _latency_relative(
    look: Look, arm: ExperimentArm, baseline: ExperimentArm, cutoff: int | None, confidence: float
) -> ConfidenceSequence | None:
    del cutoff
    return sequences.difference_of_arms(
        _latency(look, arm),
        _latency(look, baseline),
        confidence=confidence,
        numerator=0,
        denominator=1,
        relative=True,
    )


def _p99(look: Look, arm: ExperimentArm, cutoff: int | None, confidence: float) -> ConfidenceSequence | None:
    del cutoff
    return quantile(_requests(look, arm), _P99, confidence=confidence)


def _p99_relative(
    look: Look, arm: ExperimentArm, baseline: ExperimentArm, cutoff: int | None, confidence: float
) -> ConfidenceSequence | None:
    del cutoff
    return relative_quantile(_requests(look, arm), _requests(look, baseline), _P99, confidence=confidence)


# -- figures of what the lists hold


def _item_share(which: str) -> tuple[Own, Against]:
    """The share of each user's first list that is among the items which ``which`` names."""

    def shares(look: Look, arm: ExperimentArm, cutoff: int | None) -> Floats | None:
        facts = look.catalogue
        if facts is None:
            return None
        lists = look.serving(arm)["first_items"]
        if which == "unknown":
            if facts.known is None:
                return None
            return share_of_items(lists, facts.known, cutoff, outside=True)
        return share_of_items(lists, {"long_tail": facts.long_tail, "new": facts.new}[which], cutoff)

    def own(
        look: Look, arm: ExperimentArm, cutoff: int | None, confidence: float
    ) -> ConfidenceSequence | None:
        found = shares(look, arm, cutoff)
        return None if found is None else sequences.bounded_mean(found, confidence=confidence)

    def compare(
        look: Look, arm: ExperimentArm, baseline: ExperimentArm, cutoff: int | None, confidence: float
    ) -> ConfidenceSequence | None:
        a, b = shares(look, arm, cutoff), shares(look, baseline, cutoff)
        if a is None or b is None:
            return None
        return sequences.bounded_difference(a, b, confidence=confidence)

    return own, compare


def _coverage(
    look: Look, arm: ExperimentArm, cutoff: int | None, confidence: float
) -> ConfidenceSequence | None:
    if look.catalogue is None:
        return None
    return coverage(look.serving(arm)["first_items"], look.catalogue.items, confidence, cutoff)


def _diversity(
    look: Look, arm: ExperimentArm, cutoff: int | None, confidence: float
) -> ConfidenceSequence | None:
    return sequences.bounded_mean(diversity(look.serving(arm)["first_items"], cutoff), confidence=confidence)


def _diversity_difference(
    look: Look, arm: ExperimentArm, baseline: ExperimentArm, cutoff: int | None, confidence: float
) -> ConfidenceSequence | None:
    a, b = (diversity(look.serving(one)["first_items"], cutoff) for one in (arm, baseline))
    return sequences.bounded_difference(a, b, confidence=confidence)


# -- figures of the experiment


def sample_ratio(experiment: Experiment, users: OnlineUsers, confidence: float) -> ConfidenceSequence | None:
    shares = np.asarray([arm.share for arm in experiment.arms])
    if len(shares) < 2:
        return None
    counts = np.asarray([users.assigned.get(arm.name, 0) for arm in experiment.arms], dtype=np.float64)
    return sample_ratio_deviation(counts, shares / shares.sum(), confidence=confidence)


def duration_days(users: OnlineUsers, _confidence: float = 1.0) -> ConfidenceSequence | None:
    """From the first to the newest list: read off, not estimated."""
    if users.first_exposed_at is None or users.last_exposed_at is None:
        return None
    days = (users.last_exposed_at - users.first_exposed_at) / _DAY
    return _exact(days, sum(users.assigned.values()), "days between the first and the newest list")


def feedback_coverage(users: OnlineUsers, _confidence: float = 1.0) -> ConfidenceSequence | None:
    if not users.feedback_rows:
        return None
    share = users.attributed / users.feedback_rows
    return _exact(share, users.feedback_rows, "share of the feedback that belongs to a list that was shown")


def _exact(value: float, n: int, note: str) -> ConfidenceSequence:
    return ConfidenceSequence(Form.EXACT, value, value, value, 1.0, n, note=note)


def _column(table: pl.DataFrame, name: str) -> Floats:
    return table[name].cast(pl.Float64).to_numpy()


_FALLBACK, _ERROR = _rate("fallbacks"), _rate("empty")
_LONG_TAIL, _NEW, _UNKNOWN = _item_share("long_tail"), _item_share("new"), _item_share("unknown")
OWN: Final[dict[str, Own]] = {
    "ctr": _ctr,
    "clicks_per_user": _per_user("clicks"),
    "fallback_rate": _FALLBACK[0],
    "error_rate": _ERROR[0],
    "invalid_rate": _UNKNOWN[0],
    "latency_ms": _latency_mean,
    "latency_p99_ms": _p99,
    "long_tail_share": _LONG_TAIL[0],
    "new_item_share": _NEW[0],
    "coverage": _coverage,
    "diversity": _diversity,
}
AGAINST: Final[dict[str, Against]] = {
    "ctr": _ctr_difference,
    "clicks_per_user": _per_user_difference("clicks"),
    "fallback_rate": _FALLBACK[1],
    "error_rate": _ERROR[1],
    "invalid_rate": _UNKNOWN[1],
    "latency_relative": _latency_relative,
    "latency_p99_relative": _p99_relative,
    "long_tail_share": _LONG_TAIL[1],
    "new_item_share": _NEW[1],
    "diversity": _diversity_difference,
}
STANDARD: Final = (*OWN, "latency_relative", "latency_p99_relative")
