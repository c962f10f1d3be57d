"""Which arms a stage has, and how shares are dealt out."""

from __future__ import annotations

from typing import Any, Final

from segue.migration.deployment import CANARY, Arm, BundleFacts, Shadow
from segue.migration.settings import MigrationSettings
from segue.schema import PathName, Stage

CONTROL, TREATMENT = "control", "treatment"
_DIGITS: Final = 9  # of a share: enough for any public, and short enough to be read


def stage_of(stage: Stage, bundle: BundleFacts, settings: MigrationSettings) -> dict[str, Any]:
    """What a document says at ``stage`` on ``bundle``: stage, scenario, arms, shadow, blend and recipe."""
    if stage is Stage.CASCADE:
        return {
            "stage": stage,
            "scenario": None,
            "arms": (cascade_arm(bundle.bundle_id),),
            "shadow": shadow_of(bundle, settings) if bundle.model_id is not None else None,
            "blend": None,
            "recipe": None,
        }
    share, path = {
        Stage.PILOT: (settings.pilot_share, settings.pilot_path),
        Stage.HYBRID: (settings.hybrid_share, settings.hybrid_path),
        Stage.FULL: (settings.full_share, PathName.GENERATIVE),
    }[stage]
    return {
        "stage": stage,
        "scenario": settings.scenario if stage is Stage.PILOT else None,
        "arms": (
            Arm(name=CONTROL, bundle=bundle.bundle_id, path=PathName.CASCADE, share=rounded(1 - share)),
            Arm(name=TREATMENT, bundle=bundle.bundle_id, path=path, share=share),
        ),
        "shadow": None,
        "blend": settings.blend if path is PathName.BLENDED else None,
        "recipe": bundle.recipe,
    }


def cascade_arm(bundle: str) -> Arm:
    """Everybody on the cascade."""
    return Arm(name="cascade", bundle=bundle, path=PathName.CASCADE, share=1.0)


def with_canary(arms: tuple[Arm, ...], champion: Arm, bundle: BundleFacts, share: float) -> tuple[Arm, ...]:
    """The arms with one more on ``bundle``, which takes ``share`` of each."""
    return whole((
        *(arm.model_copy(update={"share": rounded(arm.share * (1 - share))}) for arm in arms),
        Arm(name=CANARY, bundle=bundle.bundle_id, path=champion.path, share=share),
    ))  # fmt: skip


def without_canary(arms: tuple[Arm, ...]) -> tuple[Arm, ...]:
    """The arms without the canary, whose share goes back to where it came from."""
    return whole(tuple(arm for arm in arms if arm.name != CANARY))


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


def whole(arms: tuple[Arm, ...]) -> tuple[Arm, ...]:
    """The arms with shares that add up to exactly 1, in their proportions."""
    total = sum(arm.share for arm in arms)
    shares = [rounded(arm.share / total) for arm in arms]
    shares[0] = rounded(1 - sum(shares[1:]))
    return tuple(arm.model_copy(update={"share": share}) for arm, share in zip(arms, shares, strict=True))


def rounded(share: float) -> float:
    return round(share, _DIGITS)
