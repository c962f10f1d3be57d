"""Who gets which arm: a hash of the user, so that a user keeps their arm without anything being stored."""

from __future__ import annotations

import hashlib

from segue.migration.deployment import Arm, Deployment

_SCALE = float(1 << 64)


def position(salt: str, user_id: str) -> float:
    """The user's place in [0, 1): uniform over users, the same everywhere, another for another salt."""
    digest = hashlib.sha256(f"{len(salt)}:{salt}{user_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / _SCALE


def arm_for(deployment: Deployment, user_id: str | None) -> Arm:
    """The arm of a user: the arms' shares laid end to end, the user's place among them.

    A request that names no user belongs to no experiment and gets the champion.
    """
    if user_id is None:
        return deployment.champion
    place, end = position(deployment.salt, user_id), 0.0
    for arm in deployment.arms:
        end += arm.share
        if place < end:
            return arm
    return deployment.arms[-1]  # the shares add up to 1 but for rounding
