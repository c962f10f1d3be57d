"""How the migration page writes verdicts, shares and moments: shared by its parts."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from markupsafe import Markup

from segue.migration.policy import Status, Verdict
from segue.migration.settings import MigrationSettings, Policy, Requirement
from segue.reporting.plain import figure
from segue.reporting.render import percent
from segue.reporting.sequence_chart import margin_ruler
from segue.schema import Stage

STATUS_TONES: Final = {Status.MET: "good", Status.FAILED: "bad", Status.UNDERPOWERED: "amber"}
STATUS_WORDS: Final = {
    Status.MET: "met",
    Status.FAILED: "not met",
    Status.UNDERPOWERED: "undecided",
    Status.MISSING: "not measured",
    Status.STALE: "out of date",
    Status.NON_FINITE: "no figure yet",
    Status.NOT_VALID: "not valid",
}


def found_in_words(requirement: Requirement, verdict: Verdict | None) -> str:
    """``+0.2 points, between -0.7 points and +1.1 points``; empty where nothing was measured."""
    if verdict is None or verdict.estimate is None:
        return ""
    difference = requirement.against is not None
    said = figure(requirement.metric, verdict.estimate, difference=difference)
    if verdict.low is not None and verdict.high is not None and verdict.low != verdict.high:
        low, high = (
            figure(requirement.metric, one, difference=difference) for one in (verdict.low, verdict.high)
        )
        said += f", between {low} and {high}"
    return said


def ruler(requirement: Requirement, verdict: Verdict | None) -> Markup:
    """The verdict's interval beside the margin; empty where nothing was measured."""
    if verdict is None:
        return Markup("")
    return margin_ruler(
        verdict.estimate,
        verdict.low,
        verdict.high,
        requirement.margin,
        at_least=requirement.direction == "at_least",
    )


def policy_of(settings: MigrationSettings, stage: Stage) -> Policy:
    """What must be shown to enter ``stage``, which is not the first."""
    policy = getattr(settings, stage.value)
    assert isinstance(policy, Policy)
    return policy


def moment(at: str) -> str:
    """``31 January 2026, 12:00 UTC``, as far as it is known."""
    found = datetime.fromisoformat(at)
    return f"{found.day} {found:%B %Y, %H:%M} {found.tzname() or ''}".strip()


def share_in_words(share: float) -> str:
    """``5 %``, ``2.5 %``."""
    return percent(share, 0 if abs(100 * share - round(100 * share)) < 1e-6 else 1)
