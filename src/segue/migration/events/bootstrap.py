"""Bootstrap: nothing → cascade. Revision 1, the incumbent serves everybody; no gate."""

from __future__ import annotations

from segue.migration.arms import cascade_arm
from segue.migration.change import Change, Draft
from segue.migration.deployment import BundleFacts
from segue.migration.state import State
from segue.schema import Stage


def bootstrap(state: State, bundle: BundleFacts, *, actor: str, reason: str) -> Draft | Change:
    if state.current is not None:
        return Change(f"no change: revision {state.current.revision} serves already")
    return Draft(
        event="bootstrap",
        changes={"stage": Stage.CASCADE, "arms": (cascade_arm(bundle.bundle_id),)},
        facts=[bundle],
        actor=actor,
        reason=reason,
    )
