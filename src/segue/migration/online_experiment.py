"""The running experiment, read off the ledger: whose exposures count, and what they are evidence for.

An experiment begins with the revision that entered its stage (or began its canary). Refreshes of the same recipe go
on with it; another recipe, another stage, another path or another split of the users is another experiment, whose exposures
never count. Of the split because pooled periods with different shares compare the users of one period with those of the other
(Simpson's paradox; Crook et al. 2009, "Seven pitfalls to avoid when running controlled experiments on the web", KDD),
and what a share should be is no single number then.

What a user did before may sharpen the figures (CUPED) only where no arm of the experiment can have moved it. Pilot, hybrid and
full draw their users with one salt (docs/adr/0013): whoever is treated at hybrid may have been treated in the pilot. So the past
ends not with the stage but with the salt.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from segue.migration.decide import Target
from segue.migration.deployment import CANARY, HOLDBACK, Arm, BundleFacts, Deployment
from segue.migration.state import State
from segue.schema import PathName, Stage

# What the evidence of a stage is gathered for. At the last stage its own policy goes on guarding it.
_NEXT: Final = {Stage.PILOT: Target.HYBRID, Stage.HYBRID: Target.FULL, Stage.FULL: Target.FULL}

Split = frozenset[tuple[str, PathName, float]]  # (arm, path, share): how the users are dealt out


@dataclass(frozen=True, slots=True)
class ExperimentArm:
    """An arm as it serves now. ``label`` is how evidence names it: its path, or its name where the baseline has the same
    path (a canary of another incumbent)."""

    name: str
    path: PathName
    share: float
    facts: BundleFacts
    label: str


@dataclass(frozen=True, slots=True)
class Past:
    """When a user's past ends: with the first revision whose salt is one that dealt out the users who count.

    Before it the arms of now were not drawn yet, so what users were shown and did is the same in each but for chance. It was
    shown under a revision before ``revision`` and had arrived before ``at``, seconds since 1970.
    """

    revision: int
    at: float


@dataclass(frozen=True, slots=True)
class Experiment:
    """``served`` holds every (revision, arm, bundle) whose exposures count; ``target`` names the policy that judges.

    ``entry``: the revision that entered the stage or canary; where the shares were changed since, exposures count from the
    first revision on that dealt the users out as now. ``began_at``: when it was entered, seconds since 1970. ``past``: what may
    explain how users differ; what was shown after it and does not count is nobody's. ``baseline`` is None where no arm is the
    cascade's.
    """

    entry: int
    revision: int
    stage: Stage
    target: Target
    began_at: float
    past: Past
    arms: tuple[ExperimentArm, ...]
    served: frozenset[tuple[int, str, str]]
    on_trial: ExperimentArm

    @property
    def baseline(self) -> ExperimentArm | None:
        """The arm that all others are compared with: the control, or at stage full those who are held back."""
        cascades = [arm for arm in self.arms if arm.path is PathName.CASCADE and arm.name != CANARY]
        return next((arm for arm in cascades if arm.name != HOLDBACK), next(iter(cascades), None))

    @property
    def contenders(self) -> tuple[ExperimentArm, ...]:
        """The arms that are compared with the baseline: neither it nor interleaved lists, which compare within."""
        return tuple(
            arm
            for arm in self.arms
            if arm is not self.baseline
            and arm.path is not PathName.INTERLEAVED
            and (arm.path is not PathName.CASCADE or arm.name == CANARY)
        )

    @property
    def interleaved(self) -> tuple[ExperimentArm, ...]:
        return tuple(arm for arm in self.arms if arm.path is PathName.INTERLEAVED)

    @property
    def identity(self) -> tuple[int, str, Split, Past]:
        """Two looks at the ledger see the same experiment where this is equal, whatever was refreshed between them."""
        return self.entry, self.on_trial.facts.recipe, _split(self.arms), self.past


def running_experiment(state: State) -> Experiment | None:
    """The experiment that runs at the newest revision of ``state``; None where everybody gets one path."""
    current = state.current
    if current is None:
        return None
    entry = state.entry(current.revision)
    if entry is None:
        return None
    baseline_label = PathName.CASCADE.value
    arms = tuple(
        ExperimentArm(
            name=arm.name,
            path=arm.path,
            share=arm.share,
            facts=state.facts[arm.bundle],
            label=arm.name if arm.name == CANARY and arm.path.value == baseline_label else arm.path.value,
        )
        for arm in current.arms
    )
    on_trial = _on_trial(arms)
    if on_trial is None:
        return None
    served = frozenset(_served(state, current, entry))
    return Experiment(
        entry=entry,
        revision=current.revision,
        stage=current.stage,
        target=_target(current),
        began_at=_seconds(state.revision(entry).deployment),
        past=_past(state, {revision for revision, _, _ in served}),
        arms=arms,
        served=served,
        on_trial=on_trial,
    )


def _on_trial(arms: tuple[ExperimentArm, ...]) -> ExperimentArm | None:
    """Whose recipe the experiment is about: the canary's, else that of the arm which is not the cascade's."""
    canary = next((arm for arm in arms if arm.name == CANARY), None)
    if canary is not None:
        return canary
    others = [arm for arm in arms if arm.path is not PathName.CASCADE]
    plain = [arm for arm in others if arm.path is not PathName.INTERLEAVED]
    return next(iter(plain or others), None)


def _target(current: Deployment) -> Target:
    if current.canary is not None:
        return Target.CANARY_INCUMBENT if current.stage is Stage.CASCADE else Target.REFRESH_RECIPE
    return _NEXT[current.stage]


def _past(state: State, counted: Collection[int]) -> Past:
    """Of several salts (a canary that was abandoned leaves its own) the one that is in use for longest."""
    salts = {state.revision(number).deployment.salt for number in counted}
    first = next(one.deployment for one in state.revisions if one.deployment.salt in salts)
    return Past(first.revision, _seconds(first))


def _seconds(document: Deployment) -> float:
    return datetime.fromisoformat(document.at).timestamp()


def _split(arms: Iterable[Arm | ExperimentArm]) -> Split:
    return frozenset((arm.name, arm.path, arm.share) for arm in arms)


def _served(state: State, current: Deployment, entry: int) -> list[tuple[int, str, str]]:
    def key(name: str, path: PathName, bundle: str) -> tuple[str, PathName, str]:
        return name, path, state.facts[bundle].recipe

    now = {key(arm.name, arm.path, arm.bundle) for arm in current.arms}
    return [
        (document.revision, arm.name, arm.bundle)
        for number in range(entry, current.revision + 1)
        if (document := state.revision(number).deployment).stage is current.stage
        and _split(document.arms) == _split(current.arms)
        for arm in document.arms
        if key(arm.name, arm.path, arm.bundle) in now
    ]
