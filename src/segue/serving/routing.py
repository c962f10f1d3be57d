"""Who gets which arm: hashes of the user, so that a user keeps their arm without anything being stored (docs/adr/0013).

Two hashes decide. The lasting one says who is held back and who is shadowed, and is the same for ever. The
experiment's lays the other arms end to end, in the document's order, over the users who are not held back; it changes
with every experiment, so that nobody is in every treatment.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from segue.migration.deployment import HOLDBACK, OUTSIDE, SCENARIO, Arm, Deployment

_SCALE = float(1 << 64)


def position(salt: str, user_id: str) -> float:
    """The user's place in [0, 1): uniform over users, the same everywhere, another for another salt."""
    digest = hashlib.sha256(f"{len(salt)}:{salt}{user_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / _SCALE


def arm_for(deployment: Deployment, user_id: str | None, context: Mapping[str, str] | None = None) -> Arm:
    """The arm of a request.

    Where the experiment is confined to a scenario, requests of another one (or of none) get what they had before it, the
    cascade, under the name ``outside``: they are in nobody's sums. A request that names no user belongs to no
    experiment and gets the champion.
    """
    scenario = deployment.scenario
    if scenario is not None and (context or {}).get(SCENARIO) != scenario:
        before = deployment.control or deployment.champion
        return before.model_copy(update={"name": OUTSIDE})
    if user_id is None:
        return deployment.champion
    held = deployment.holdback
    if held is not None and _lasting("holdback", deployment, user_id) < held.share:
        return held
    arms = [arm for arm in deployment.arms if arm.name != HOLDBACK]
    place, end = position(deployment.salt, user_id), 0.0
    free = sum(arm.share for arm in arms)
    for arm in arms:
        end += arm.share / free
        if place < end:
            return arm
    return arms[-1]  # the shares add up to 1 but for rounding


def is_shadowed(deployment: Deployment, user_id: str | None) -> bool:
    """Whether this user's requests are also answered by the shadow, for nobody to see. Sticky, for as long as there is a
    shadow: its lists can then be followed over a user's days. Requests without a user never are."""
    shadow = deployment.shadow
    return (
        shadow is not None and user_id is not None and _lasting("shadow", deployment, user_id) < shadow.rate
    )


def _lasting(purpose: str, deployment: Deployment, user_id: str) -> float:
    # Documents of an earlier version have one salt, which never changed.
    salt = deployment.salt if deployment.lasting_salt is None else deployment.lasting_salt
    return position(f"{purpose}:{salt}", user_id)
