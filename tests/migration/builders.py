"""Small real evidence, bundles, decisions and ledgers for the tests."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from segue.migration.decide import Decision, Outcome, Target
from segue.migration.deployment import BundleFacts
from segue.migration.evidence import Evidence
from segue.migration.gates import gate
from segue.migration.ledger import Ledger
from segue.migration.settings import MigrationSettings, Policy, Requirement
from segue.migration.state_machine import StateMachine
from segue.schema import PathName

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
INCUMBENT = "incumbent-1"


def evidence(**changes: Any) -> Evidence:
    """Offline NDCG difference, well above a margin of -0.01, of recipe R1."""
    fields: dict[str, Any] = {
        "kind": "offline", "metric": "ndcg@10", "path_a": "generative", "path_b": "cascade", "recipe_a": "R1",
        "recipe_b": "R1", "unit": "user", "interval": "bootstrap", "estimate": 0.01, "low": 0.002,
        "high": 0.018,
        "confidence": 0.95, "n": 900, "protocol": "leave_one_out", "dataset": "toy", "snapshot": "s",
        "code_version": "c", "sd": 0.25,
    }  # fmt: skip
    return Evidence.model_validate(fields | changes)


def serving(bundle: str, metric: str = "invalid_rate", value: float = 0.0, **changes: Any) -> Evidence:
    """Exact serving evidence of one bundle, measured at noon."""
    return evidence(
        **{
            "kind": "serving", "metric": metric, "path_b": None, "recipe_a": None, "recipe_b": None,
            "bundle": bundle, "unit": "request", "interval": "exact", "estimate": value, "low": value,
            "high": value, "n": 200, "measured_at": NOON.isoformat(),
        } | changes
    )  # fmt: skip


def online(**changes: Any) -> Evidence:
    """An online CTR difference above -0.005, as a confidence sequence, of the pilot that revision 2 entered."""
    return evidence(
        **{
            "kind": "online", "metric": "ctr", "interval": "confidence_sequence", "estimate": 0.004,
            "low": 0.001, "high": 0.007, "n": 9000, "measured_at": NOON.isoformat(), "experiment": 2,
            "gathered_for": "hybrid",
        } | changes
    )  # fmt: skip


def requirement(**changes: Any) -> Requirement:
    fields: dict[str, Any] = {
        "metric": "ndcg@10", "kind": "offline", "direction": "at_least", "margin": -0.01, "against": "cascade"
    }  # fmt: skip
    return Requirement.model_validate(fields | changes)


OFFLINE = requirement()
VALID = requirement(metric="invalid_rate", kind="serving", direction="at_most", margin=0.0, against=None)
ONLINE = requirement(
    metric="ctr", kind="online", margin=-0.005, minimum_n=1000, maximum_age_days=7, guardrail=True
)
SETTINGS = MigrationSettings(
    shadow=Policy(requirements=(VALID,)),
    pilot=Policy(requirements=(OFFLINE, VALID)),
    hybrid=Policy(requirements=(ONLINE,)),
    full=Policy(requirements=(ONLINE,)),
    refresh_data=Policy(requirements=(VALID,)),
    refresh_retrain=Policy(requirements=(OFFLINE, VALID)),
    refresh_recipe=Policy(requirements=(OFFLINE, VALID, ONLINE)),
    canary_incumbent=Policy(requirements=(VALID,)),
    # As in the walk of the contracts: two arms. tests/migration/test_arms.py has the others.
    holdback_share=0.0,
    interleaved_share=0.0,
    hybrid_path=PathName.GENERATIVE,  # the pilot's, which the evidence above is about
)


def bundle(
    name: str, model: str | None = "M1", recipe: str = "R1", incumbent: str = INCUMBENT
) -> BundleFacts:
    return BundleFacts(
        bundle_id=name, recipe="R0" if model is None else recipe, incumbent_id=incumbent, model_id=model
    )


def body(facts: BundleFacts, *more: Evidence) -> list[Evidence]:
    """Everything that shows ``facts`` in order."""
    return [evidence(recipe_a=facts.recipe), serving(facts.bundle_id), *more]


def decision(target: Target, facts: BundleFacts, *more: Evidence) -> Decision:
    """The decision that the evidence gives; PROMOTE for everything but what needs online evidence. Whatever is online was
    gathered for it."""
    told = [
        item.model_copy(update={"gathered_for": target.value}) if item.kind == "online" else item
        for item in more
    ]
    return gate(target, body(facts, *told), facts, SETTINGS)


def promote(target: Target, facts: BundleFacts, salt: str = "") -> Decision:
    """A PROMOTE of any target; equal arguments give the same decision."""
    return Decision(
        target=target, outcome=Outcome.PROMOTE, reasons=(), recipe=facts.recipe, bundle_id=facts.bundle_id,
        evidence_sha256=f"e{salt}", policy_sha256="p", as_of=None,
    )  # fmt: skip


def ledger(folder: Path) -> Ledger:
    """The ledger in ``folder``; its rows in SQLite there, or in the database that the file ``url`` in it names."""
    named = folder / "url"
    return Ledger(
        named.read_text() if named.is_file() else f"sqlite:///{folder / 'ledger.db'}",
        "toy",
        projection=folder / "deployment" / "current.json",
        bundles_root=str(folder / "bundles"),
    )


def machine(folder: Path, settings: MigrationSettings = SETTINGS) -> StateMachine:
    return StateMachine(ledger(folder), settings, clock=NOON.isoformat)
