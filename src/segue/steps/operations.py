"""What a person asks for at the command line: status, history, rollback and the other events by hand."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from segue.errors import StateError
from segue.migration.decide import Target
from segue.migration.ledger import Ledger
from segue.migration.settings import MigrationSettings
from segue.migration.state_machine import Change, StateMachine
from segue.params import load_params
from segue.workspace import Workspace

RECENT = 10  # entries of the ledger that a status shows


def status(workspace: Workspace, dataset: str) -> dict[str, Any]:
    """What serves, and the ledger's last entries. Raises StateError where the ledger was tampered with."""
    with _ledger(workspace, dataset) as ledger:
        ledger.verify()
        current = ledger.current()
        return {
            "deployment": None if current is None else current.model_dump(mode="json"),
            "ledger": list(_lines(ledger))[-RECENT:],
        }


def history(workspace: Workspace, dataset: str) -> list[str]:
    """Every entry of the ledger as a line, after its hash chain was verified."""
    with _ledger(workspace, dataset) as ledger:
        ledger.verify()
        return list(_lines(ledger))


def rollback(
    workspace: Workspace, dataset: str, *, actor: str | None = None, reason: str, to: int | None = None
) -> str:
    """Put the last good revision (or revision ``to``) back. Returns what happened, in a line."""
    return _by_hand(
        workspace, dataset, lambda machine: machine.rollback(actor=_actor(actor), reason=reason, to=to)
    )


def demote(workspace: Workspace, dataset: str, *, actor: str | None = None, reason: str) -> str:
    """One stage back."""
    return _by_hand(workspace, dataset, lambda machine: machine.demote(actor=_actor(actor), reason=reason))


def abandon(workspace: Workspace, dataset: str, *, actor: str | None = None, reason: str) -> str:
    """End the running experiment."""
    return _by_hand(workspace, dataset, lambda machine: machine.abandon(actor=_actor(actor), reason=reason))


def override(workspace: Workspace, dataset: str, target: Target, *, actor: str, reason: str) -> str:
    """Do without a passing gate what a decision about the newest bundle for ``target`` would do.

    A recipe refresh concludes the canary that runs, whichever bundle is the newest meanwhile.
    """
    from segue.migration.gates import read_facts
    from segue.registry.bundle import publish
    from segue.steps.day_two import record_served

    def event(machine: StateMachine) -> Change:
        state = machine.state
        canary = None if state.current is None else state.current.canary
        if target is Target.REFRESH_RECIPE and canary is not None:
            facts = state.facts[canary.bundle]  # published and recorded when it became an arm
        else:
            folder = workspace.step(dataset, "bundle")
            facts = read_facts(folder)
            publish(folder, workspace.bundles(dataset))
            record_served(workspace, dataset, facts.bundle_id)
        return machine.override(facts, target, actor=actor, reason=reason)

    return _by_hand(workspace, dataset, event)


def _by_hand(workspace: Workspace, dataset: str, event: Callable[[StateMachine], Change]) -> str:
    settings: MigrationSettings = load_params(workspace, dataset).migration
    # Not under the dataset's lock: a rollback must not wait for a training. The ledger's compare-and-swap is enough.
    with _ledger(workspace, dataset) as ledger:
        change = event(StateMachine(ledger, settings))
    # The aliases in MLflow follow at the next run of `deployment`: a lagging projection is no request.
    return change.message


@contextmanager
def _ledger(workspace: Workspace, dataset: str) -> Iterator[Ledger]:
    ledger = Ledger.open(workspace, dataset)
    try:
        yield ledger
    finally:
        ledger.close()


def _actor(actor: str | None) -> str:
    try:
        return actor or getpass.getuser()
    except (KeyError, OSError) as error:  # a container's user may have no name
        raise StateError("your login has no name here: give one with --actor") from error


def _lines(ledger: Ledger) -> Iterator[str]:
    for row in ledger.rows():
        payload = row.payload
        match row.kind:
            case "deployment":
                document = payload["deployment"]
                arms = ", ".join(
                    f"{arm['name']} {arm['share']:.0%} {arm['path']} of {arm['bundle'][:12]}"
                    for arm in document["arms"]
                )
                what = (
                    f"revision {document['revision']} ({payload['event']}), stage {document['stage']}: {arms}"
                )
                if document["restores"] is not None:
                    what += f"; restores revision {document['restores']}"
                what += f"; by {document['actor']}: {document['reason']}"
            case "decision":
                decision = payload["decision"]
                what = f"decision {payload['sha256'][:12]}: {decision['target']} {decision['outcome']}"
                if decision["reasons"]:
                    what += f", {decision['reasons'][0]}"
            case "revocation":
                named = ", ".join(decision[:12] for decision in payload["decisions"]) or "no decision"
                what = f"revision {payload['by_revision']} revokes {named}"
            case "override":
                what = f"override of {payload['target']} by {payload['actor']}: {payload['reason']}"
            case "request":
                what = f"alias {payload['alias']} was moved by hand: {payload['answer']}"
            case _:
                aliases = ", ".join(
                    f"{alias} on {bundle[:12]}" for alias, bundle in payload["aliases"].items()
                )
                what = f"projected to MLflow: {aliases}"
        yield f"{row.sequence:4d}  {row.at}  {what}"
