"""Requirements, paths and figures in the words of somebody who does not read statistics."""

from __future__ import annotations

from typing import Final

from segue.migration.settings import Requirement
from segue.reporting.names import SLICES
from segue.reporting.render import NOTHING, number, percent, signed, words

# What a metric says, and how its figure is written: as a share, in milliseconds, in days, or bare.
METRICS: Final = {
    "ndcg": ("Ranking quality", "number"),
    "recall": ("Next item found in the list", "share"),
    "mrr": ("How high the next item stands", "number"),
    "coverage": ("Part of the catalogue that somebody is shown", "share"),
    "diversity": ("How different the items of a list are", "number"),
    "long_tail_share": ("Unpopular items among those shown", "share"),
    "new_item_share": ("New items among those shown", "share"),
    "ctr": ("Clicks on an item shown", "share"),
    "fallback_rate": ("Lists that another path had to make", "share"),
    "error_rate": ("Requests that failed", "share"),
    "empty_rate": ("Empty lists", "share"),
    "invalid_rate": ("Shown items that do not exist", "share"),
    "seen_rate": ("Shown items that the user has had already", "share"),
    "latency_p50_ms": ("Half of the answers come within", "ms"),
    "latency_p95_ms": ("95 % of the answers come within", "ms"),
    "latency_p99_ms": ("99 % of the answers come within", "ms"),
    "sample_ratio_deviation": ("How far the split of the users is off the plan", "share"),
    "interleaving_preference": ("Preference for the generated list, of two mixed ones", "share"),
    "duration_days": ("Time that the experiment has run", "days"),
    "feedback_coverage": ("Lists to which feedback came", "share"),
    "refit_overlap": ("The served model's lists agree with the evaluated one's", "share"),
    "list_overlap": ("New lists agree with the former ones", "share"),
}
PATHS: Final = {
    "cascade": "the cascade",
    "generative": "the generative path",
    "blended": "the blend of both",
    "recall_route": "the cascade with generated candidates",
    "rerank": "the cascade ranked by the generative model",
    "interleaved": "two mixed lists",
    "popularity": "the popular items",
    "replaced": "the model that it replaces",
}


def metric_name(metric: str) -> str:
    """``Ranking quality (NDCG@10)``: in words, and what the field calls it where that says more."""
    name, at, cutoff = metric.partition("@")
    said, _ = METRICS.get(name, (words(metric).capitalize(), "number"))
    if not at:
        return said
    return f"{said} ({name.upper() if name in ('ndcg', 'mrr') else words(name)}@{cutoff})"


def figure(metric: str, value: float | None, *, difference: bool = False) -> str:
    """A figure as people read it: ``96 ms``, ``1.2 %``, ``+0.3 points`` for a difference of shares."""
    if value is None:
        return NOTHING
    unit = METRICS.get(metric.partition("@")[0], ("", "number"))[1]
    match unit:
        case "share" if difference:
            return f"{signed(100 * value, _digits(100 * value))} points"
        case "share":
            return percent(value, _digits(100 * value))
        case "ms":
            return f"{value:,.0f} ms"
        case "days":
            return f"{value:,.0f} days"
        case _:
            return (signed if difference else number)(value, max(3, _digits(value)))


def requirement_title(requirement: Requirement) -> str:
    """What is looked at: the metric, and on whom where that is not everybody."""
    said = metric_name(requirement.metric)
    if requirement.slice != "all":
        group = SLICES.get(requirement.slice, (words(requirement.slice), ""))[0]
        said += f" \N{MIDDLE DOT} {group.lower()}"
    return said


def requirement_demand(requirement: Requirement) -> str:
    """What it must show, as half a sentence about the path: ``may lose at most 0.010 against the cascade``."""
    metric, margin = requirement.metric, requirement.margin
    path = PATHS.get(requirement.path, words(requirement.path))
    if requirement.against is None:
        bound = "at least" if requirement.direction == "at_least" else "at most"
        if margin == 0 and requirement.direction == "at_most":
            return f"{path}: none at all"
        return f"{path}: {bound} {figure(metric, margin)}"
    against = PATHS.get(requirement.against, words(requirement.against))
    loss = -margin if requirement.direction == "at_least" else margin
    size = figure(metric, abs(loss), difference=True).lstrip("+")
    if loss > 0:
        allowed = (
            f"may lose at most {size}" if requirement.direction == "at_least" else f"may be {size} above"
        )
    elif loss == 0:
        allowed = "must not be worse" if requirement.direction == "at_least" else "must not be above"
    else:
        allowed = f"must gain {size}" if requirement.direction == "at_least" else f"must be {size} below"
    return f"{path} {allowed} against {against}"


def days_in_words(days: float | None) -> str:
    """``12 days``, ``about 5 weeks``, ``about 8 months``, ``about 3 years``."""
    if days is None:
        return NOTHING
    if days < 21:
        return "1 day" if round(days) == 1 else f"{days:.0f} days"
    if days < 90:
        return f"about {days / 7:.0f} weeks"
    if days < 730:
        return f"about {days / 30.4:.0f} months"
    return f"about {days / 365:.0f} years"


def _digits(value: float) -> int:
    size = abs(value)
    return 0 if size >= 20 or size == 0 else 1 if size >= 1 else 2 if size >= 0.1 else 3
