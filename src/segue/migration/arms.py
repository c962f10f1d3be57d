"""Which arms a stage has, and how shares are dealt out (docs/adr/0013).

``pilot_share``, ``hybrid_share`` and ``interleaved_share`` are of the users who are not held back; an arm's share is of
all users. Arms stand in the order in which routing lays them end to end: interleaved, control, treatment, or what serves
and its canary. So control lies between the others, and what one of them gains or loses comes from it or goes to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from segue.migration.deployment import (
    CANARY,
    CASCADE,
    CONTROL,
    HOLDBACK,
    INTERLEAVED,
    TREATMENT,
    Arm,
    BundleFacts,
    Deployment,
    Shadow,
)
from segue.migration.settings import MigrationSettings
from segue.schema import PathName, Stage

_DIGITS: Final = 9  # of a share: enough for any public, and short enough to be read


def stage_of(
    stage: Stage, bundle: BundleFacts, settings: MigrationSettings, *, tried: Deployment | None = None
) -> dict[str, Any]:
    """What a document says at ``stage`` on ``bundle``: stage, scenario, arms, shadow, blend and recipe.

    Stage full serves what stage hybrid measured (docs/adr/0016): where ``tried`` is at one of the two and the other is
    asked for, its path and blend go on, whatever the settings say by now.
    """
    name = bundle.bundle_id
    if stage is Stage.CASCADE:
        return {
            "stage": stage,
            "scenario": None,
            "arms": (cascade_arm(name),),
            "shadow": shadow_of(bundle, settings) if bundle.model_id is not None else None,
            "blend": None,
            "recipe": None,
        }
    path = settings.pilot_path if stage is Stage.PILOT else settings.hybrid_path
    blend = settings.blend
    measured = None if tried is None or tried.stage not in (Stage.HYBRID, Stage.FULL) else tried.treatment
    if tried is not None and measured is not None and stage is not Stage.PILOT:
        path, blend = measured.path, tried.blend
    return {
        "stage": stage,
        "scenario": settings.scenario if stage is Stage.PILOT else None,
        "arms": _full_arms(name, path, settings)
        if stage is Stage.FULL
        else _trial_arms(stage, name, path, settings),
        "shadow": None,
        "blend": blend if path is PathName.BLENDED else None,
        "recipe": bundle.recipe,
    }


def cascade_arm(bundle: str) -> Arm:
    """Everybody on the cascade, those who are held back too."""
    return Arm(name=CASCADE, bundle=bundle, path=PathName.CASCADE, share=1.0)


def with_canary(current: Deployment, bundle: BundleFacts, settings: MigrationSettings) -> tuple[Arm, ...]:
    """The arms with a canary on ``bundle``, which takes ``pilot_share`` of every arm but the holdback."""
    champion = current.champion
    if current.stage is Stage.CASCADE:
        held = _held_back(champion.bundle, settings)
    else:
        held = () if current.holdback is None else (current.holdback,)
    others = [arm for arm in current.arms if arm.name != HOLDBACK]
    free = _left(held)
    canary = _share(free * settings.pilot_share)
    rest = _dealt(others, free - canary)
    return (*held, *rest, Arm(name=CANARY, bundle=bundle.bundle_id, path=champion.path, share=canary))


def without_canary(current: Deployment) -> tuple[Arm, ...]:
    """The arms without the canary, whose share goes back to where it came from."""
    if current.canary is None:
        return current.arms
    if current.stage is Stage.CASCADE:
        return (cascade_arm(current.champion.bundle),)
    held = () if current.holdback is None else (current.holdback,)
    others = [arm for arm in current.arms if arm.name not in (HOLDBACK, CANARY)]
    return (*held, *_dealt(others, _left(held)))


def moved(arms: tuple[Arm, ...], bundle: str) -> tuple[Arm, ...]:
    """The arms, each on ``bundle``."""
    return tuple(arm.model_copy(update={"bundle": bundle}) for arm in arms)


def shadow_of(bundle: BundleFacts, settings: MigrationSettings) -> Shadow:
    return Shadow(bundle=bundle.bundle_id, path=PathName.GENERATIVE, rate=settings.shadow_rate)


def moved_shadow(shadow: Shadow | None, bundle: BundleFacts) -> Shadow | None:
    """The shadow on ``bundle``; none where there was none, or the bundle has no model for it."""
    if shadow is None or bundle.model_id is None:
        return None
    return shadow.model_copy(update={"bundle": bundle.bundle_id})


def _trial_arms(stage: Stage, bundle: str, path: PathName, settings: MigrationSettings) -> tuple[Arm, ...]:
    held = _held_back(bundle, settings)
    free = _left(held)
    treated = settings.pilot_share if stage is Stage.PILOT else settings.hybrid_share
    treatment = Arm(name=TREATMENT, bundle=bundle, path=path, share=_share(free * treated))
    both: tuple[Arm, ...] = ()
    if (share := _share(free * settings.interleaved_share)) > 0:
        both = (Arm(name=INTERLEAVED, bundle=bundle, path=PathName.INTERLEAVED, share=share),)
    left = _share(_left((*held, *both, treatment)))
    control = Arm(name=CONTROL, bundle=bundle, path=PathName.CASCADE, share=left)
    return (*held, *both, control, treatment)


def _full_arms(bundle: str, path: PathName, settings: MigrationSettings) -> tuple[Arm, ...]:
    held = _held_back(bundle, settings)
    share = _share(_left(held))
    return (*held, Arm(name=TREATMENT, bundle=bundle, path=path, share=share))


def _held_back(bundle: str, settings: MigrationSettings) -> tuple[Arm, ...]:
    if (share := _share(settings.holdback_share)) == 0:
        return ()
    return (Arm(name=HOLDBACK, bundle=bundle, path=PathName.CASCADE, share=share),)


def _dealt(arms: Sequence[Arm], total: float) -> tuple[Arm, ...]:
    """The arms in their proportions, with shares that add up to ``total``."""
    before = sum(arm.share for arm in arms)
    shares = [_share(arm.share / before * total) for arm in arms]
    shares[0] = _share(total - sum(shares[1:]))
    return tuple(arm.model_copy(update={"share": share}) for arm, share in zip(arms, shares, strict=True))


def _left(arms: Sequence[Arm]) -> float:
    return 1.0 - sum(arm.share for arm in arms)


def _share(value: float) -> float:
    return round(value, _DIGITS)
