"""Settings read off the documents themselves, for the events that need no gate.

A rollback must not wait for a profile that cannot be read. What it needs of the settings, the ledger's documents show.
"""

from __future__ import annotations

from typing import Any, Final

from segue.migration.deployment import INTERLEAVED, Deployment
from segue.migration.settings import LEAST_SHARE, MigrationSettings
from segue.migration.state import State
from segue.schema import Stage

_DIGITS: Final = 9  # of a share, as documents hold it
_TRIALS: Final = (Stage.PILOT, Stage.HYBRID)


def settings_of_documents(state: State) -> MigrationSettings:
    """Shares, paths, weights, scenario and the shadow's rate as the newest document of each stage had them; the defaults
    for what no document shows. Policies are empty: no gate may be asked of these settings."""
    found: dict[str, Any] = {}
    for revision in state.revisions:
        found |= _of(revision.deployment)
    most = 1 - 2 * LEAST_SHARE - found.get("interleaved_share", MigrationSettings().interleaved_share)
    for (
        stage
    ) in _TRIALS:  # documents of different settings may not fit together: a control stays whatever they say
        name = f"{stage.value}_share"
        found[name] = min(found.get(name, getattr(MigrationSettings(), name)), most)
    return MigrationSettings.model_validate(found)


def _of(document: Deployment) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if document.shadow is not None:
        found["shadow_rate"] = document.shadow.rate
    if document.stage is Stage.CASCADE:
        return found
    held = 0.0 if document.holdback is None else document.holdback.share
    found["holdback_share"] = held
    treatment = document.treatment
    if treatment is None or document.stage not in _TRIALS or document.canary is not None:
        return found
    both = next((arm.share for arm in document.arms if arm.name == INTERLEAVED), 0.0)
    found |= {
        f"{document.stage.value}_share": round(treatment.share / (1 - held), _DIGITS),
        f"{document.stage.value}_path": treatment.path,
        "interleaved_share": round(both / (1 - held), _DIGITS),
    }
    if document.blend is not None:
        found["blend"] = document.blend
    if document.stage is Stage.PILOT:
        found |= {
            "scenario": document.scenario,
            "scenarios": () if document.scenario is None else (document.scenario,),
        }
    return found
