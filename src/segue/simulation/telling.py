"""A simulation's end, in words. Every line says that it is one."""

from __future__ import annotations

from collections.abc import Iterator

from segue.simulation.simulate import Simulated
from segue.simulation.workspace import REPORT_FILE


def summary(found: Simulated) -> Iterator[str]:
    """What to print, a line each."""
    mark = f"[SIMULATION {found.name}]"
    traffic = found.traffic
    yield (
        f"{mark} planted {found.truth}: ended at {_ended(found)}, "
        f"{'as it should' if found.as_planted else f'and should have {_expected(found)}'}; "
        f"{len(traffic.users)} users, {traffic.visits} lists, {traffic.clicks} clicks in {traffic.ended:.0f} s"
    )
    if found.to_rollback is not None:
        served = (
            ""
            if found.to_served is None
            else f", the first list of the restored revision {found.to_served:.2f} s"
        )
        yield (
            f"{mark} rolled back by itself: the ledger had it {found.to_rollback:.2f} s after the crossing{served} after it"
        )
    if traffic.lost_users:
        yield f"{mark} {len(traffic.lost_users)} users of the contender never got their first list, as planted"
    yield f"{mark} {found.exposures}"
    due = traffic.clicks - traffic.unreported
    yield f"{mark} {traffic.reported} of {due} clicks reported; {traffic.unreported} more were lost on the way, as planted"
    yield f"{mark} report: {found.root / REPORT_FILE}"


def verdict_of(found: Simulated) -> str | None:
    """What went otherwise than it must, if anything did."""
    wrong = []
    if not found.as_planted:
        wrong.append(
            f"simulation {found.name}: ended at {_ended(found)}, and {found.truth} should have {_expected(found)}"
        )
    if found.exposures.lost:
        wrong.append(f"simulation {found.name}: {found.exposures.lost} exposures were lost")
    if found.traffic.reported != found.traffic.clicks - found.traffic.unreported:
        wrong.append(f"simulation {found.name}: not every click was reported")
    return "; ".join(wrong) or None


def _ended(found: Simulated) -> str:
    return f"{found.outcome} by {' and '.join(found.broken)}" if found.broken else found.outcome


def _expected(found: Simulated) -> str:
    by = "" if found.guardrail is None else f" by {found.guardrail}"
    return f"ended at {found.expected}{by}"
