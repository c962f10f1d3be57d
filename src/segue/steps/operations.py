"""What a person asks for at the command line: status, history, rollback and the other events by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from segue.canonical import short
from segue.errors import ConfigurationError, StateError
from segue.migration.apply import STAGE_TARGETS, Deployer
from segue.migration.approval import Proposal
from segue.migration.decide import Target
from segue.migration.ledger import Ledger
from segue.migration.remembered import settings_of_documents
from segue.migration.settings import MigrationSettings
from segue.migration.state_machine import Change, State, StateMachine
from segue.params import load_params
from segue.steps.actors import login, named
from segue.workspace import Workspace

RECENT = 10  # entries of the ledger that a status shows


def status(workspace: Workspace, dataset: str) -> dict[str, Any]:
    """What serves, what waits for approval, and the ledger's last entries.

    Raises StateError where the ledger was tampered with.
    """
    with _ledger(workspace, dataset) as ledger:
        ledger.verify()
        state = State.of(dataset, ledger.rows())
        return {
            "deployment": None if state.current is None else state.current.model_dump(mode="json"),
            "waiting": [str(proposal) for proposal in state.waiting],
            "ledger": list(_lines(ledger))[-RECENT:],
        }


def history(workspace: Workspace, dataset: str) -> list[str]:
    """Every entry of the ledger as a line, after its hash chain was verified."""
    with _ledger(workspace, dataset) as ledger:
        ledger.verify()
        return list(_lines(ledger))


def rollback(
    workspace: Workspace,
    dataset: str,
    *,
    actor: str | None = None,
    reason: str,
    to: int | None = None,
    warn: Callable[[str], None] = print,
) -> str:
    """Put the last good revision (or revision ``to``) back. Returns what happened, in a line.

    Like the two below, it needs ledger and deployment alone: where the parameters are wrong, ``warn`` hears of it and the
    documents of the ledger stand in for them.
    """
    return _backward(
        workspace, dataset, lambda machine: machine.rollback(actor=named(actor), reason=reason, to=to), warn
    )


def demote(
    workspace: Workspace,
    dataset: str,
    *,
    actor: str | None = None,
    reason: str,
    warn: Callable[[str], None] = print,
) -> str:
    """One stage back."""
    return _backward(
        workspace, dataset, lambda machine: machine.demote(actor=named(actor), reason=reason), warn
    )


def abandon(
    workspace: Workspace,
    dataset: str,
    *,
    actor: str | None = None,
    reason: str,
    warn: Callable[[str], None] = print,
) -> str:
    """End the running experiment."""
    return _backward(
        workspace, dataset, lambda machine: machine.abandon(actor=named(actor), reason=reason), warn
    )


def override(workspace: Workspace, dataset: str, target: Target, *, actor: str, reason: str) -> str:
    """Do without a passing gate what a decision about the newest bundle for ``target`` would do.

    A recipe refresh concludes the canary that runs, whichever bundle is the newest meanwhile. Raises ArtifactError where a
    stage or the shadow is asked for and the bundle's generative model cannot be loaded: a gate may be done without, a model
    may not. StateError where there is no bundle at all.
    """
    from segue.migration.gates import read_facts
    from segue.registry.bundle import publish
    from segue.serving.readable import require_readable
    from segue.steps.day_two import record_served

    def event(machine: StateMachine) -> Change:
        state = machine.state
        canary = None if state.current is None else state.current.canary
        if target is Target.REFRESH_RECIPE and canary is not None:
            facts = state.facts[canary.bundle]  # published and recorded when it became an arm
        else:
            folder = workspace.step(dataset, "bundle")
            if not folder.is_dir():
                raise StateError(
                    f"{dataset} has no bundle that could be let in: make one by `segue run --dataset {dataset}`"
                )
            facts = read_facts(folder)
            if target in (*STAGE_TARGETS, Target.SHADOW):
                require_readable(folder)
            publish(folder, workspace.bundles(dataset))
            record_served(workspace, dataset, facts.bundle_id)
        return machine.override(facts, target, actor=actor, reason=reason)

    return _by_hand(workspace, dataset, event)


def approve(workspace: Workspace, dataset: str, *, actor: str, decision: str | None) -> str:
    """Let a proposal act, by the gate of this moment. Returns what happened, in a line.

    ``decision``: the first characters of its hash; None: the newest that waits. Raises StateError where it may not act:
    nothing waits under that name, the approver is its proposer, or its gate does not pass (any more).
    """
    from segue.serving.readable import why_unreadable
    from segue.steps.offers import folders, read_offer

    settings = load_params(workspace, dataset).migration
    with _ledger(workspace, dataset) as ledger:
        ledger.verify()
        machine = StateMachine(ledger, settings, user=login())
        if settings.approval == "none":
            raise StateError(
                "nothing waits for approval: migration.approval is none, so what may act has acted already"
            )
        proposal = _waiting(machine.state, decision)
        if proposal.override:
            return machine.override(
                proposal.bundle,
                proposal.target,
                actor=proposal.actor,
                reason=proposal.asked,
                approver=actor,
            ).message
        told: list[str] = []
        offer = read_offer(workspace, dataset, folders(workspace, dataset), told.append)
        bundle = workspace.step(dataset, "bundle")
        deployer = Deployer(
            machine, offer, moment=lambda: datetime.now(UTC), unreadable=lambda: why_unreadable(bundle)
        )
        return "; ".join([*told, deployer.approve(proposal, actor).message])


def _waiting(state: State, decision: str | None) -> Proposal:
    if decision is None:
        if not state.waiting:
            raise StateError("nothing waits for approval")
        return state.waiting[-1]
    found = [one for one in state.waiting if one.identity.startswith(decision)]
    if len(found) == 1:
        return found[0]
    listed = "; ".join(map(str, state.waiting)) or "nothing does"
    for what, settled in (("applied", state.applied), ("revoked", state.revoked)):
        for identity, revision in settled.items():
            if identity.startswith(decision):
                raise StateError(
                    f"not approved: decision {short(identity)} was {what} by revision {revision}; waiting: {listed}"
                )
    many = "more than one proposal" if found else "no proposal"
    raise StateError(f"not approved: {many} named {decision!r} waits for approval; waiting: {listed}")


def _backward(
    workspace: Workspace, dataset: str, event: Callable[[StateMachine], Change], warn: Callable[[str], None]
) -> str:
    settings: MigrationSettings | None = None
    try:
        settings = load_params(workspace, dataset).migration
    except ConfigurationError as error:
        if not is_known(workspace, dataset):
            raise
        warn(f"{error}; what it needs of the parameters is read off the ledger's documents")
    with _ledger(workspace, dataset) as ledger:
        if settings is None:
            settings = settings_of_documents(State.of(dataset, ledger.rows()))
        return event(StateMachine(ledger, settings, user=login())).message


def is_known(workspace: Workspace, dataset: str) -> bool:
    """Whether there is anything of ``dataset`` here, be its profile as wrong as it may."""
    return workspace.profile_file(dataset).is_file() or workspace.state(dataset).is_dir()


def _by_hand(workspace: Workspace, dataset: str, event: Callable[[StateMachine], Change]) -> str:
    settings: MigrationSettings = load_params(workspace, dataset).migration
    # Not under the dataset's lock: a rollback must not wait for a training. The ledger's compare-and-swap is enough.
    with _ledger(workspace, dataset) as ledger:
        change = event(StateMachine(ledger, settings, user=login()))
    # The aliases in MLflow follow at the next run of `deployment`: a lagging projection is no request.
    return change.message


@contextmanager
def _ledger(workspace: Workspace, dataset: str) -> Iterator[Ledger]:
    ledger = Ledger.open(workspace, dataset)
    try:
        yield ledger
    finally:
        ledger.close()


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
            case "proposal":
                what = f"proposed, and waits for a second person: {Proposal.of(payload, row.at)}"
            case "approval":
                what = f"{payload['actor']} approves of {payload['identity'][:12]}, proposed by {payload['proposer']}"
            case "request":
                what = f"alias {payload['alias']} was moved by hand: {payload['answer']}"
            case _:
                aliases = ", ".join(
                    f"{alias} on {bundle[:12]}" for alias, bundle in payload["aliases"].items()
                )
                what = f"projected to MLflow: {aliases}"
        yield f"{row.sequence:4d}  {row.at}  {what}"
