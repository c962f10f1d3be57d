"""From files to decisions: which evidence, which policy, which bundle. What the decision steps run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path

from segue.artifacts import read_json
from segue.errors import ArtifactError
from segue.migration.decide import Decision, Target, decide, newest
from segue.migration.deployment import BundleFacts
from segue.migration.evidence import EVIDENCE_FILE, Evidence, read_evidence
from segue.migration.policy import before_serving, lint, path_faults
from segue.migration.settings import MigrationSettings, Policy

BUNDLE_FILE = "bundle.json"
WEIGHTS = "generative_model"
LEARNED_BEFORE = ("codebook", "tuning")


def policy_of(settings: MigrationSettings, target: Target) -> Policy:
    """What must be shown for ``target``. A canary must show what its policy asks for as far as that can be known before
    anybody was served: everything but the online requirements, which guard it once it runs."""
    policy = guarding_policy_of(settings, target)
    if target not in (Target.CANARY, Target.CANARY_INCUMBENT):
        return policy
    return before_serving(policy)


def guarding_policy_of(settings: MigrationSettings, target: Target) -> Policy:
    """All that is written down for ``target``, whose guardrails hold while an experiment gathers evidence for it."""
    policy = getattr(settings, (Target.REFRESH_RECIPE if target is Target.CANARY else target).value)
    assert isinstance(policy, Policy)
    return policy


def read_facts(bundle: Path) -> BundleFacts:
    """What the state machine must know of the bundle in ``bundle``.

    Raises ArtifactError where it does not say.
    """
    path = bundle / BUNDLE_FILE
    raw = read_json(path)
    names = tuple(BundleFacts.model_fields)
    if not isinstance(raw, dict) or not all(name in raw for name in names):
        raise ArtifactError(f"{path} lacks one of {', '.join(names)}: build the bundle again")
    return BundleFacts.model_validate({name: raw[name] for name in names})


def gather(folders: Iterable[Path], dataset: str) -> list[Evidence]:
    """All evidence of the artifacts in ``folders``. Raises ArtifactError where any is of another dataset."""
    found = []
    for folder in folders:
        for item in read_evidence(folder / EVIDENCE_FILE):
            if item.dataset != dataset:
                raise ArtifactError(
                    f"{folder / EVIDENCE_FILE} holds evidence of dataset {item.dataset!r}, and this is {dataset!r}: "
                    f"run the step {folder.name} again"
                )
            found.append(item)
    return found


def gate(
    target: Target,
    evidence: Iterable[Evidence],
    bundle: BundleFacts,
    settings: MigrationSettings,
    *,
    as_of: datetime | None = None,
    notes: Iterable[str] = (),
    hold_because: str | None = None,
) -> Decision:
    """Decide about ``bundle``.

    Without ``as_of`` the moment is that of the newest evidence, so that the decision is a function of files.
    HOLD where the policy is about other paths than the settings let serve.
    Raises ConfigurationError where the policy can never pass or never fail.
    """
    evidence = list(evidence)
    policy = policy_of(settings, target)
    lint(policy, target.value)
    return decide(
        evidence,
        policy,
        as_of if as_of is not None else newest(evidence),
        target=target,
        recipe=bundle.recipe,
        bundle_id=bundle.bundle_id,
        notes=notes,
        hold_because=hold_because,
        path_faults=path_faults(settings, target.value),
    )


def refresh_class(base: Mapping[str, str | None]) -> tuple[Target, str | None]:
    """Of which class a refresh is, by what the graph kept instead of rebuilding, and why to HOLD, if so."""
    kept = [name for name in (*LEARNED_BEFORE, WEIGHTS) if base.get(name) is not None]
    if not kept:
        return Target.REFRESH_RECIPE, (
            "nothing is kept of codebook or weights, so there is nothing that could be refreshed"
        )
    if all(name in kept for name in LEARNED_BEFORE):
        return (Target.REFRESH_DATA if WEIGHTS in kept else Target.REFRESH_RETRAIN), None
    return Target.REFRESH_RECIPE, None
