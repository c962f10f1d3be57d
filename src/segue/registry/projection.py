"""MLflow's aliases as a projection of the ledger, and an alias moved by hand as a request.

Three values are compared for every alias: what was projected last (remembered in the ledger), what the ledger
says, and what the registry shows. Only *shown ≠ projected last* is a request, and not even that where the
registry already shows what the ledger says: then a projection was cut short before it was remembered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from segue.migration.apply import REFRESHES, Deployer
from segue.migration.decide import Target
from segue.migration.state_machine import STAGES, Change, Refused, State, StateMachine
from segue.schema import Stage

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous_champion"
STAGE_ALIASES: Final = tuple(stage.value for stage in STAGES[1:])
ALIASES: Final = (CHAMPION, CHALLENGER, PREVIOUS, *STAGE_ALIASES)


class AliasRegistry(Protocol):
    """The part of a model registry that is projected to. Bundles stand for the versions that carry them."""

    def aliases(self) -> dict[str, str]:
        """Every alias of ours and the bundle (or, where a version carries none, ``version <n>``) it is on."""
        ...

    def set_alias(self, alias: str, bundle: str) -> None: ...

    def delete_alias(self, alias: str) -> None: ...

    def tag(self, bundle: str | None, key: str, value: str) -> None:
        """A tag on the bundle's version; of the registered model itself where ``bundle`` is null."""
        ...


@dataclass(frozen=True, slots=True)
class AliasRequest:
    """Somebody moved an alias to ``bundle``, or deleted it (null)."""

    alias: str
    bundle: str | None


def desired(state: State) -> dict[str, str]:
    """The aliases that the ledger asks for."""
    current = state.current
    if current is None:
        return {}
    found = {CHAMPION: current.champion.bundle}
    for revision in reversed(state.revisions[:-1]):
        if revision.deployment.champion.bundle != current.champion.bundle:
            found[PREVIOUS] = revision.deployment.champion.bundle
            break
    if current.canary is not None:
        found[CHALLENGER] = current.canary.bundle
    elif current.shadow is not None:
        found[CHALLENGER] = current.shadow.bundle
    for stage in STAGES[1 : STAGES.index(current.stage) + 1]:
        for revision in reversed(state.revisions):
            document = revision.deployment
            if document.stage is stage and document.generative_bundle is not None:
                found[stage.value] = document.generative_bundle
                break
    return found


def is_behind(state: State) -> bool:
    """Whether something was done since the aliases were projected last: by hand, or by a run that was cut short."""
    return state.current is not None and state.aliases != desired(state)


def requests(
    last: Mapping[str, str] | None, ledger: Mapping[str, str], shown: Mapping[str, str]
) -> list[AliasRequest]:
    """What people ask for by moving aliases, in a fixed order. Nothing before the first projection."""
    if last is None:
        return []
    return [
        AliasRequest(alias, shown.get(alias))
        for alias in ALIASES
        if shown.get(alias) != last.get(alias) and shown.get(alias) != ledger.get(alias)
    ]


def answer(request: AliasRequest, machine: StateMachine, deployer: Deployer | None) -> Change:
    """Do what a moved alias asks for if its event's gate passes.

    ``champion`` back on a bundle that was champion before is a rollback (no gate), on the new bundle a
    refresh; ``challenger`` asks for the shadow; a stage's alias for the advance. Where the gate does not
    pass, the change's message says why.
    """
    actor = f"mlflow alias {request.alias}"
    if request.bundle is None:
        return Change("no change: the alias was deleted, which asks for nothing; what was meant?")
    if request.alias == PREVIOUS:
        return Change("no change: what was champion before cannot be chosen")
    if request.alias == CHAMPION and (earlier := _was_champion(machine.state, request.bundle)) is not None:
        try:
            return machine.rollback(actor=actor, reason="the alias champion was moved back", to=earlier)
        except Refused as refusal:
            return Change(f"no change: {refusal}")
    if deployer is None or request.bundle != deployer.offer.bundle.bundle_id:
        return Change(
            f"no change: no decision lies here about {request.bundle[:12]}; only the newest bundle can enter"
        )
    if request.alias == CHAMPION:
        refresh = next((target for target in REFRESHES if target in deployer.decisions), None)
        if refresh is None:
            return Change("no change: nothing was decided about a refresh")
        return deployer.apply(refresh, actor=actor)
    target = Target.SHADOW if request.alias == CHALLENGER else Target(request.alias)
    return deployer.apply(target, actor=actor)


def answer_requests(
    registry: AliasRegistry, machine: StateMachine, deployer: Deployer | None
) -> list[tuple[AliasRequest, Change]]:
    """Answer every request and remember it; tag the version with the reason where it is refused."""
    state = machine.state
    answered = []
    for request in requests(state.aliases, desired(state), registry.aliases()):
        change = answer(request, machine, deployer)
        machine.record_request(
            {
                "alias": request.alias,
                "bundle": request.bundle,
                "followed": change.changed,
                "answer": change.message,
            }
        )
        if not change.changed:
            kind = "question" if request.bundle is None else "refused"
            registry.tag(request.bundle, f"segue.{kind}.{request.alias}", change.message)
        answered.append((request, change))
    return answered


def project(registry: AliasRegistry, machine: StateMachine) -> bool:
    """Make the registry's aliases those of the ledger and remember them. Returns whether any had to move."""
    state = machine.state
    wanted = desired(state)
    shown = registry.aliases()
    moved = False
    for alias in ALIASES:
        if alias in wanted and shown.get(alias) != wanted[alias]:
            registry.set_alias(alias, wanted[alias])
            moved = True
        elif alias not in wanted and alias in shown:
            registry.delete_alias(alias)
            moved = True
    current = state.current
    if current is not None and (moved or state.aliases != wanted):
        for bundle in sorted(set(wanted.values())):
            registry.tag(bundle, "segue.stage", current.stage.value)
            registry.tag(bundle, "segue.revision", str(current.revision))
    machine.record_projection(wanted)
    return moved


def _was_champion(state: State, bundle: str) -> int | None:
    """The newest earlier revision with ``bundle`` as champion, at no later stage than the present one."""
    current = state.current
    if current is None or current.champion.bundle == bundle:
        return None
    for revision in reversed(state.revisions[:-1]):
        document = revision.deployment
        if document.champion.bundle == bundle and _not_further(document.stage, current.stage):
            return document.revision
    return None


def _not_further(stage: Stage, than: Stage) -> bool:
    return STAGES.index(stage) <= STAGES.index(than)
