"""The deployment's state machine (CONTRACTS 2): which document may follow which, and by whose leave.

Every event reads the ledger, computes the next document, and writes it with what goes with it in one
transaction. What a decision allows is done at most once; a repeated or revoked decision changes nothing and
says so. Three rules go beyond the plain table of events (docs/adr/0003-shadow-contender.md):

* ``shadow``: at stage cascade a contender whose serving check passed may run in shadow, so that it can be
  previewed while its pilot is on HOLD.
* Leaving a stage by rollback, demotion or abandonment also bars the *recipe* from that stage: a new
  measurement of it gives a new decision hash, and must not undo what a person or a guardrail did.
* Leaving a refresh bars its *bundle*, for the same reason. Only an override lets either in again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Literal

from segue.errors import StateError
from segue.migration.decide import Decision, Outcome, Target
from segue.migration.deployment import CANARY, GENERATIVE_PATHS, Arm, BundleFacts, Deployment, Shadow
from segue.migration.ledger import Entry, Ledger, Revision, Row, now, revisions_of
from segue.migration.settings import MigrationSettings
from segue.schema import PathName, Stage

SYSTEM: Final = "segue"  # the actor of what happens without a person
CONTROL, TREATMENT = "control", "treatment"
STAGES: Final = tuple(Stage)
RefreshClass = Literal["data", "retrain", "recipe"]
_REFRESH: Final[Mapping[Target, RefreshClass]] = {
    Target.REFRESH_DATA: "data",
    Target.REFRESH_RETRAIN: "retrain",
    Target.REFRESH_RECIPE: "recipe",
}


class Refused(StateError):
    """The event is not allowed with this bundle at this stage; nothing was changed."""


@dataclass(frozen=True, slots=True)
class Change:
    """What an event did. ``deployment`` is null where nothing changed; ``message`` is a line for people."""

    message: str
    deployment: Deployment | None = None

    @property
    def changed(self) -> bool:
        return self.deployment is not None


@dataclass(frozen=True)
class State:
    """What the ledger says, folded."""

    revisions: tuple[Revision, ...] = ()
    decisions: Mapping[str, Decision] = field(default_factory=dict)
    applied: Mapping[str, int] = field(default_factory=dict)  # decision -> the revision that applied it
    revoked: Mapping[str, int] = field(default_factory=dict)  # decision -> the revision that revoked it
    barred_bundles: Mapping[str, int] = field(default_factory=dict)  # bundle -> the revision that left it
    barred_recipes: Mapping[tuple[str, str], int] = field(
        default_factory=dict
    )  # (target, recipe) -> revision
    aliases: Mapping[str, str] | None = None  # last projected: alias -> bundle
    head: str | None = None

    @classmethod
    def of(cls, rows: Sequence[Row]) -> State:
        """Fold the ledger's rows, oldest first."""
        decisions: dict[str, Decision] = {}
        applied: dict[str, int] = {}
        revoked: dict[str, int] = {}
        bundles: dict[str, int] = {}
        recipes: dict[tuple[str, str], int] = {}
        aliases: dict[str, str] | None = None
        for row in rows:
            payload = row.payload
            match row.kind:
                case "decision":
                    decisions[payload["sha256"]] = Decision.model_validate(payload["decision"])
                case "deployment":
                    if (decision := payload["applies"]) is not None:
                        applied.setdefault(decision, payload["deployment"]["revision"])
                case "revocation":
                    by = payload["by_revision"]
                    revoked.update(dict.fromkeys(payload["decisions"], by))
                    bundles.update(dict.fromkeys(payload["bundles"], by))
                    recipes.update(dict.fromkeys(map(_pair, payload["recipes"]), by))
                case "override":
                    bundles.pop(payload["bundle"], None)
                    recipes.pop((payload["target"], payload["recipe"]), None)
                case "projection":
                    aliases = payload["aliases"]
                case "request":
                    pass
        return cls(
            revisions=tuple(revisions_of(rows)),
            decisions=decisions,
            applied=applied,
            revoked=revoked,
            barred_bundles=bundles,
            barred_recipes=recipes,
            aliases=aliases,
            head=rows[-1].hash if rows else None,
        )

    @property
    def current(self) -> Deployment | None:
        return self.revisions[-1].deployment if self.revisions else None

    @cached_property
    def facts(self) -> dict[str, BundleFacts]:
        """What is known of every bundle that ever was deployed."""
        return {name: facts for revision in self.revisions for name, facts in revision.bundles.items()}

    def revision(self, number: int) -> Revision:
        """Raises StateError where there is no such revision."""
        if not 1 <= number <= len(self.revisions):
            raise StateError(f"there is no revision {number}: the ledger holds 1 to {len(self.revisions)}")
        return self.revisions[number - 1]

    def origin(self, number: int) -> int:
        """The revision whose event made what ``number`` serves: a rollback is what it restores."""
        while (restored := self.revision(number).deployment.restores) is not None:
            number = restored
        return number

    def refreshed(self, bundle: str) -> int | None:
        """The revision whose refresh took the place of ``bundle``; None where none did, or it came back since."""
        found = None
        before: tuple[str, ...] = ()
        for revision in self.revisions:
            document = revision.deployment
            if bundle in document.bundles:
                found = None
            elif bundle in before and revision.event.startswith("refresh_"):
                found = document.revision
            before = document.bundles
        return found

    def entry(self, number: int) -> int | None:
        """The revision that entered the stage or canary which runs at ``number``; None where none runs.

        A stage that was gone back to (from hybrid to pilot) was entered when it was first advanced to.
        """
        running = self.revision(number).deployment
        for revision in reversed(self.revisions[:number]):
            if _has_canary(running):
                if revision.event == "canary":
                    return revision.deployment.revision
            elif _enters(revision.event) and revision.deployment.stage is running.stage:
                return revision.deployment.revision
        return None


class StateMachine:
    """The events, over one ledger. ``clock`` gives the ISO time that a document is dated with."""

    def __init__(
        self,
        ledger: Ledger,
        settings: MigrationSettings,
        *,
        clock: Callable[[], str] = lambda: now().isoformat(),
    ) -> None:
        self.ledger = ledger
        self.settings = settings
        self._clock = clock

    @property
    def state(self) -> State:
        return State.of(self.ledger.rows())

    # -- what is recorded without changing what serves

    def record(self, decision: Decision) -> bool:
        """Record a decision, a HOLD too. Returns whether it was new."""
        state = self.state
        if decision.sha256 in state.decisions:
            return False
        self.ledger.append([_decision_entry(decision)], expected_revision=_number(state))
        return True

    def record_projection(self, aliases: Mapping[str, str]) -> None:
        """Remember what was projected last, if it differs from what was remembered."""
        state = self.state
        if state.aliases != dict(aliases):
            self.ledger.append(
                [Entry("projection", {"aliases": dict(aliases)})], expected_revision=_number(state)
            )

    def record_request(self, payload: Mapping[str, Any]) -> None:
        """Remember that somebody moved an alias, and what became of it."""
        self.ledger.append([Entry("request", payload)], expected_revision=_number(self.state))

    # -- events

    def bootstrap(
        self, bundle: BundleFacts, *, actor: str = SYSTEM, reason: str = "first deployment"
    ) -> Change:
        """Revision 1: the incumbent serves everybody."""
        state = self.state
        if state.current is not None:
            return Change(f"no change: revision {state.current.revision} serves already")
        return self._write(
            state,
            event="bootstrap",
            changes={"stage": Stage.CASCADE, "arms": (_cascade_arm(bundle.bundle_id),)},
            facts=[bundle],
            actor=actor,
            reason=reason,
        )

    def advance(self, decision: Decision, bundle: BundleFacts, *, actor: str = SYSTEM) -> Change:
        """One stage on: cascade → pilot → hybrid → full; may bring a bundle whose incumbent is unchanged.

        Raises Refused where the incumbent differs or the bundle has no generative model.
        """
        target = Stage(decision.target.value)
        state, current = self._begun()
        if STAGES.index(target) <= STAGES.index(current.stage):
            return Change(
                f"no change: decision {decision.short} is about {target}, and the stage is {current.stage}"
            )
        if (refusal := self._refusal(state, decision, bundle)) is not None:
            return refusal
        if STAGES.index(target) != STAGES.index(current.stage) + 1:
            return Change(f"no change: {target} is more than one stage after {current.stage}")
        if _has_canary(current):
            return Change(
                "no change: a canary runs, and one experiment runs at a time; conclude or abandon it"
            )
        self._require_same_incumbent(state, current, bundle, "advance")
        if bundle.model_id is None:
            raise Refused(f"bundle {_short(bundle.bundle_id)} has no generative model to enter {target} with")
        return self._write(
            state,
            event="advance",
            changes=self._stage(target, bundle),
            facts=[bundle],
            decision=decision,
            actor=actor,
            reason=f"{decision.target} PROMOTE",
        )

    def refresh(self, decision: Decision, bundle: BundleFacts, *, actor: str = SYSTEM) -> Change:
        """A new bundle at the same stage, of class data, retrain or recipe, for every arm and the shadow.

        *data* demands the same weights, *retrain* the same recipe, *recipe* that its canary ran. Raises
        Refused where the bundle is of another class than the decision.
        """
        kind = _REFRESH[decision.target]
        state, current = self._begun()
        if (refusal := self._refusal(state, decision, bundle)) is not None:
            return refusal
        if current.bundles == (bundle.bundle_id,):
            return Change(f"no change: bundle {_short(bundle.bundle_id)} serves already")
        self._require_class(state, current, bundle, kind)
        arms = tuple(
            arm.model_copy(update={"bundle": bundle.bundle_id}) for arm in current.arms if arm.name != CANARY
        )
        return self._write(
            state,
            event=f"refresh_{kind}",
            changes={
                "arms": _whole(arms),
                "shadow": _moved(current.shadow, bundle),
                "recipe": bundle.recipe if _is_generative(current) else current.recipe,
            },
            facts=[bundle],
            decision=decision,
            actor=actor,
            reason=f"{kind} refresh PROMOTE",
        )

    def canary(self, decision: Decision, bundle: BundleFacts, *, actor: str = SYSTEM) -> Change:
        """Another recipe begins as a small arm beside what serves; only when no other experiment runs.

        At stage cascade it is another incumbent's arm, by the decision ``canary_incumbent`` (docs/adr/0008).
        """
        state, current = self._begun()
        if (refusal := self._refusal(state, decision, bundle)) is not None:
            return refusal
        if _has_canary(current) or current.stage in (Stage.PILOT, Stage.HYBRID):
            return Change(f"no change: one experiment runs at a time, and the stage is {current.stage}")
        if (decision.target is Target.CANARY_INCUMBENT) != (current.stage is Stage.CASCADE):
            return Change(
                f"no change: decision {decision.short} is about {decision.target}, and the stage is {current.stage}"
            )
        if current.champion.bundle == bundle.bundle_id:
            return Change(f"no change: bundle {_short(bundle.bundle_id)} serves already")
        if current.stage is Stage.CASCADE and not self.brings_another_incumbent(bundle):
            return Change(f"no change: bundle {_short(bundle.bundle_id)} brings the incumbent that serves")
        if current.stage is Stage.CASCADE and (left := _left_with(state, bundle.incumbent_id)) is not None:
            return Change(
                f"no change: the incumbent of bundle {_short(bundle.bundle_id)} was left by revision {left}; "
                "`segue override` brings it back"
            )
        if bundle.model_id is None and current.champion.path in GENERATIVE_PATHS:
            raise Refused(f"bundle {_short(bundle.bundle_id)} has no generative model for a canary")
        share = self.settings.pilot_share
        champion = current.champion
        arms = (
            *(arm.model_copy(update={"share": _share(arm.share * (1 - share))}) for arm in current.arms),
            Arm(name=CANARY, bundle=bundle.bundle_id, path=champion.path, share=share),
        )
        return self._write(
            state,
            event="canary",
            changes={"arms": _whole(arms)},
            facts=[bundle],
            decision=decision,
            actor=actor,
            reason=f"a canary of another {'incumbent' if current.stage is Stage.CASCADE else 'recipe'}",
        )

    def shadow(self, decision: Decision, bundle: BundleFacts, *, actor: str = SYSTEM) -> Change:
        """At stage cascade the bundle's generative path runs in shadow. Nobody's list changes."""
        state, current = self._begun()
        if current.stage is not Stage.CASCADE:
            return Change(f"no change: a shadow belongs to stage cascade, and the stage is {current.stage}")
        if current.shadow is not None and current.shadow.bundle == bundle.bundle_id:
            return Change(f"no change: bundle {_short(bundle.bundle_id)} runs in shadow already")
        if (refusal := self._refusal(state, decision, bundle)) is not None:
            return refusal
        if (by := state.refreshed(bundle.bundle_id)) is not None:
            # An older run's files, out of a cache: the shadow would go back behind a refresh, and day two with it.
            return Change(f"no change: bundle {_short(bundle.bundle_id)} was refreshed by revision {by}")
        if bundle.model_id is None:
            raise Refused(f"bundle {_short(bundle.bundle_id)} has no generative model to run in shadow")
        # A data refresh moves arms and shadow together, so they must share what it keeps.
        self._require_same_incumbent(state, current, bundle, "shadow")
        return self._write(
            state,
            event="shadow",
            changes={"shadow": self._shadow(bundle)},
            facts=[bundle],
            decision=decision,
            actor=actor,
            reason="the contender runs in shadow; its serving check passed",
        )

    def demote(self, *, actor: str, reason: str) -> Change:
        """One stage back, with the bundle that serves."""
        state, current = self._begun()
        if _has_canary(current):
            raise StateError("a canary runs: abandon it first")
        if current.stage is Stage.CASCADE:
            raise StateError("the stage is cascade already: there is nothing to go back to")
        bundle = state.facts[current.generative_bundle or current.champion.bundle]
        entered = state.entry(current.revision)
        return self._write(
            state,
            event="demote",
            changes=self._stage(STAGES[STAGES.index(current.stage) - 1], bundle),
            facts=[bundle],
            actor=actor,
            reason=reason,
            leaves=[] if entered is None else [entered],
        )

    def rollback(
        self,
        *,
        actor: str,
        reason: str,
        experiment: bool = False,
        to: int | None = None,
        decision: Decision | None = None,
    ) -> Change:
        """The last good revision again; what is left is revoked. Raises StateError where none is before.

        By default the newest change is undone, exactly: stage, arms and their bundles are again what they were
        before it; the contender that an advance had brought goes on in shadow. ``experiment`` (a guardrail was
        crossed) goes back to before the running experiment, on the newest bundle, whatever refreshes came in
        between. ``to`` names a revision, which is restored exactly. ``decision`` is the ROLLBACK that asks for
        it, if one does; it acts at most once.
        """
        state, current = self._begun()
        if decision is not None and (by := state.applied.get(decision.sha256)) is not None:
            return Change(f"no change: decision {decision.short} was applied by revision {by}")
        if to is not None:
            if not 1 <= to < current.revision:
                raise StateError(f"revision {to} is not one before {current.revision}")
            if STAGES.index(state.revision(to).deployment.stage) > STAGES.index(current.stage):
                raise StateError(
                    f"revision {to} is at a later stage than {current.stage}: that is an override"
                )
            return self._restore(state, to, list(range(to + 1, current.revision + 1)), actor, reason)
        leaving = state.entry(current.revision) if experiment else state.origin(current.revision)
        if leaving is None:
            raise StateError(f"no experiment runs at revision {current.revision}: there is nothing to leave")
        entered = _enters(state.revision(leaving).event)
        for number in range(leaving - 1, 0, -1):
            newest = self._newest_good(state, current, number) if entered else None
            on = newest if experiment else None
            if _is_good(state, current, number, on=on):
                return self._restore(
                    state, number, [leaving], actor, reason, on=on, shadow_on=newest, decision=decision
                )
        raise StateError(f"revision {current.revision} has no good revision before it to roll back to")

    def abandon(self, *, actor: str, reason: str) -> Change:
        """End the running experiment: the canary's arm goes, or the pilot's."""
        state, current = self._begun()
        entered = state.entry(current.revision)
        leaves = [] if entered is None else [entered]
        if _has_canary(current):
            arms = tuple(arm for arm in current.arms if arm.name != CANARY)
            changes: dict[str, Any] = {"arms": _whole(arms)}
            if current.shadow is not None and any(
                arm.name == CANARY and arm.bundle == current.shadow.bundle for arm in current.arms
            ):
                # What is left must not go on in shadow either: day two would keep its incumbent.
                before = None if entered is None else state.revision(entered - 1).deployment.shadow
                changes["shadow"] = None if before == current.shadow else before
        elif current.stage is Stage.PILOT:
            changes = self._stage(
                Stage.CASCADE, state.facts[current.generative_bundle or current.champion.bundle]
            )
        else:
            raise StateError(f"no experiment runs at stage {current.stage}: there is nothing to abandon")
        return self._write(state, event="abandon", changes=changes, actor=actor, reason=reason, leaves=leaves)

    def override(self, bundle: BundleFacts, target: Target, *, actor: str, reason: str) -> Change:
        """Do by hand, without a passing gate, what a decision for ``target`` would do. Visible for ever.

        It also lifts what barred the bundle and its recipe. Raises StateError where actor or reason is empty
        or the move is none that a decision could make.
        """
        if not actor.strip() or not reason.strip():
            raise StateError("an override names who does it and why")
        state, current = self._begun()
        canary = current.canary
        if target is Target.REFRESH_RECIPE and canary is not None and canary.bundle != bundle.bundle_id:
            raise StateError(
                f"bundle {_short(canary.bundle)} runs as the canary, not {_short(bundle.bundle_id)}: abandon it first"
            )
        if target in _REFRESH:
            if current.bundles == (bundle.bundle_id,):
                return Change(f"no change: bundle {_short(bundle.bundle_id)} serves already")
            arms = tuple(
                arm.model_copy(update={"bundle": bundle.bundle_id})
                for arm in current.arms
                if arm.name != CANARY
            )
            if bundle.model_id is None and any(arm.path in GENERATIVE_PATHS for arm in arms):
                raise StateError(
                    f"bundle {_short(bundle.bundle_id)} has no generative model, and an arm needs one"
                )
            changes: dict[str, Any] = {"arms": _whole(arms), "shadow": _moved(current.shadow, bundle)}
        elif target is Target.SHADOW and current.stage is Stage.CASCADE and bundle.model_id is not None:
            changes = {"shadow": self._shadow(bundle)}
        elif target.value in {stage.value for stage in STAGES[1:]} and bundle.model_id is not None:
            if Stage(target.value) is current.stage and bundle.bundle_id in current.bundles:
                return Change(
                    f"no change: bundle {_short(bundle.bundle_id)} is at stage {current.stage} already"
                )
            changes = self._stage(Stage(target.value), bundle)
        else:
            raise StateError(
                f"{target} cannot be overridden at stage {current.stage} "
                f"with bundle {_short(bundle.bundle_id)}"
            )
        return self._write(
            state,
            event=f"override_{target.value}",
            changes=changes,
            facts=[bundle],
            actor=actor,
            reason=f"override: {reason}",
            also=[
                Entry(
                    "override",
                    {
                        "actor": actor,
                        "reason": reason,
                        "target": target.value,
                        "bundle": bundle.bundle_id,
                        "recipe": bundle.recipe,
                    },
                )
            ],
        )

    def brings_another_incumbent(self, bundle: BundleFacts) -> bool:
        """Whether ``bundle``'s incumbent is not the one that serves most."""
        state, current = self._begun()
        return state.facts[current.champion.bundle].incumbent_id != bundle.incumbent_id

    # -- inside

    def _begun(self) -> tuple[State, Deployment]:
        state = self.state
        if state.current is None:
            dataset = self.ledger.dataset
            raise StateError(
                f"nothing is deployed for {dataset} yet: bootstrap comes first (`segue run --dataset {dataset}`)"
            )
        return state, state.current

    def _refusal(self, state: State, decision: Decision, bundle: BundleFacts) -> Change | None:
        """Why ``decision`` changes nothing, if it does not."""
        name = f"decision {decision.short} ({decision.target})"
        if decision.outcome is not Outcome.PROMOTE:
            return Change(f"no change: {name} says {decision.outcome}: {'; '.join(decision.reasons[:1])}")
        if decision.bundle_id != bundle.bundle_id or decision.recipe != bundle.recipe:
            raise StateError(f"{name} is not about bundle {_short(bundle.bundle_id)}: decide again")
        if (by := state.revoked.get(decision.sha256)) is not None:
            return Change(f"no change: decision {decision.short} was revoked by revision {by}")
        if (by := state.applied.get(decision.sha256)) is not None:
            return Change(f"no change: decision {decision.short} was applied by revision {by}")
        if (by := state.barred_bundles.get(bundle.bundle_id)) is not None:
            return Change(f"no change: bundle {_short(bundle.bundle_id)} was left by revision {by}; {_LIFT}")
        if (by := state.barred_recipes.get((decision.target.value, bundle.recipe))) is not None:
            return Change(
                f"no change: recipe {_short(bundle.recipe)} was taken out of {decision.target} "
                f"by revision {by}; {_LIFT}"
            )
        return None

    def _require_same_incumbent(
        self, state: State, current: Deployment, bundle: BundleFacts, what: str
    ) -> None:
        serving = state.facts[current.champion.bundle].incumbent_id
        if bundle.incumbent_id != serving:
            raise Refused(
                f"{what} refused: bundle {_short(bundle.bundle_id)} brings incumbent "
                f"{_short(bundle.incumbent_id)}, and {_short(serving)} serves: "
                "another incumbent comes by way of a canary, at stage cascade"
            )

    def _require_class(
        self, state: State, current: Deployment, bundle: BundleFacts, kind: RefreshClass
    ) -> None:
        where = f"refresh of class {kind} refused: bundle {_short(bundle.bundle_id)}"
        if kind == "recipe":
            if not any(arm.name == CANARY and arm.bundle == bundle.bundle_id for arm in current.arms):
                raise Refused(f"{where} has no canary arm yet: another recipe comes by way of one")
            return
        if _has_canary(current):
            raise Refused(f"{where}: a canary runs, conclude or abandon it first")
        self._require_same_incumbent(state, current, bundle, f"refresh of class {kind}")
        generative = current.generative_bundle
        if generative is None:
            return
        serving = state.facts[generative]
        if bundle.model_id is None:
            raise Refused(f"{where} has no generative model, and {_short(generative)} has one")
        if bundle.recipe != serving.recipe:
            raise Refused(
                f"{where} was made by recipe {_short(bundle.recipe)}, what serves by "
                f"{_short(serving.recipe)}: that is a refresh of class recipe"
            )
        if kind == "data" and bundle.model_id != serving.model_id:
            raise Refused(f"{where} has other weights than what serves: that is a refresh of class retrain")

    def _shadow(self, bundle: BundleFacts) -> Shadow:
        return Shadow(bundle=bundle.bundle_id, path=PathName.GENERATIVE, rate=self.settings.shadow_rate)

    def _stage(self, stage: Stage, bundle: BundleFacts) -> dict[str, Any]:
        """Stage, arms, shadow and recipe of ``stage`` on ``bundle``."""
        if stage is Stage.CASCADE:
            return {
                "stage": stage,
                "scenario": None,
                "arms": (_cascade_arm(bundle.bundle_id),),
                "shadow": self._shadow(bundle) if bundle.model_id is not None else None,
                "blend": None,
                "recipe": None,
            }
        share, path = {
            Stage.PILOT: (self.settings.pilot_share, self.settings.pilot_path),
            Stage.HYBRID: (self.settings.hybrid_share, self.settings.hybrid_path),
            Stage.FULL: (self.settings.full_share, PathName.GENERATIVE),
        }[stage]
        return {
            "stage": stage,
            "scenario": self.settings.scenario if stage is Stage.PILOT else None,
            "arms": (
                Arm(name=CONTROL, bundle=bundle.bundle_id, path=PathName.CASCADE, share=_share(1 - share)),
                Arm(name=TREATMENT, bundle=bundle.bundle_id, path=path, share=share),
            ),
            "shadow": None,
            "blend": self.settings.blend if path is PathName.BLENDED else None,
            "recipe": bundle.recipe,
        }

    def _newest_good(self, state: State, current: Deployment, target: int) -> str | None:
        """The newest bundle, if nobody left it and its incumbent is the target's; else None."""
        incumbent = state.facts[state.revision(target).deployment.champion.bundle].incumbent_id
        candidate = current.generative_bundle or current.champion.bundle
        if candidate in state.barred_bundles or state.facts[candidate].incumbent_id != incumbent:
            return None
        return candidate

    def _restore(
        self,
        state: State,
        target: int,
        leaves: list[int],
        actor: str,
        reason: str,
        on: str | None = None,
        shadow_on: str | None = None,
        decision: Decision | None = None,
    ) -> Change:
        """Revision ``target`` again; with ``on`` its stage and arms on that bundle, with ``shadow_on`` that
        bundle in shadow, where the stage has one."""
        restored = state.revision(target).deployment
        arms, shadow, recipe = restored.arms, restored.shadow, restored.recipe
        if on is not None:
            arms = tuple(arm.model_copy(update={"bundle": on}) for arm in arms)
            recipe = None if recipe is None else state.facts[on].recipe
        seen = on or shadow_on
        if seen is not None and restored.stage is Stage.CASCADE and state.facts[seen].model_id is not None:
            shadow = self._shadow(state.facts[seen])  # it stays previewable
        return self._write(
            state,
            event="rollback",
            changes={
                "restores": target,
                "stage": restored.stage,
                "scenario": restored.scenario,
                "arms": arms,
                "shadow": shadow,
                "blend": restored.blend,
                "recipe": recipe,
            },
            actor=actor,
            reason=reason,
            decision=decision,
            leaves=leaves,
        )

    def _write(
        self,
        state: State,
        *,
        event: str,
        changes: Mapping[str, Any],
        actor: str,
        reason: str,
        facts: Sequence[BundleFacts] = (),
        decision: Decision | None = None,
        leaves: Sequence[int] = (),
        also: Sequence[Entry] = (),
    ) -> Change:
        current = state.current
        number = 1 if current is None else current.revision + 1
        base: dict[str, Any] = (
            {} if current is None else {name: getattr(current, name) for name in _CARRIED_ON}
        )
        document = Deployment.model_validate(
            {
                **base,
                "restores": None,
                "salt": self.settings.salt if current is None else current.salt,
                **changes,
                "revision": number,
                "parent": None if current is None else current.revision,
                "policy_sha256": None if decision is None else decision.policy_sha256,
                "decision_sha256": None if decision is None else decision.sha256,
                "actor": actor,
                "reason": reason,
                "at": self._clock(),
            }
        )
        known = state.facts | {item.bundle_id: item for item in facts}
        entries: list[Entry] = []
        if decision is not None and decision.sha256 not in state.decisions:
            entries.append(_decision_entry(decision))
        entries.append(
            Entry(
                "deployment",
                {
                    "event": event,
                    "deployment": document.model_dump(mode="json"),
                    "applies": document.decision_sha256,
                    "bundles": {name: known[name].model_dump(mode="json") for name in document.bundles},
                },
                revision=number,
            )
        )
        if leaves:
            entries.append(_revocation(state, number, leaves, document))
        entries.extend(also)
        self.ledger.append(entries, expected_revision=None if current is None else current.revision)
        return Change(_announcement(event, document), document)


_CARRIED_ON: Final = ("stage", "scenario", "arms", "shadow", "blend", "recipe")
_LIFT: Final = "an override with a reason lets it in again"


def _revocation(state: State, by: int, leaves: Sequence[int], after: Deployment) -> Entry:
    """What leaving the revisions ``leaves`` for ``after`` revokes and bars."""
    decisions, bundles, recipes = set(), set(), set()
    before = state.current
    if before is not None and before.recipe is not None and before.stage is not after.stage:
        # Whatever refreshes came in between: the recipe that runs now is the one that is taken out.
        recipes.add((before.stage.value, before.recipe))
    for number in leaves:
        left = state.revision(number)
        if left.deployment.decision_sha256 is not None:
            decisions.add(left.deployment.decision_sha256)
        if left.event == "rollback":
            continue  # what it restored was good once; leaving it says nothing against a bundle
        if _enters(left.event):
            if left.deployment.recipe is not None:
                recipes.add((left.deployment.stage.value, left.deployment.recipe))
        else:
            earlier = set(state.revision(number - 1).deployment.bundles) if number > 1 else set()
            bundles.update(set(left.deployment.bundles) - earlier)
    return Entry(
        "revocation",
        {
            "by_revision": by,
            "leaves": sorted(leaves),
            "decisions": sorted(decisions),
            "bundles": sorted(bundles),
            "recipes": sorted([target, recipe] for target, recipe in recipes),
        },
    )


def _enters(event: str) -> bool:
    """Whether the event enters a stage beyond cascade."""
    return event == "advance" or event in {f"override_{stage.value}" for stage in STAGES[1:]}


def _is_good(state: State, current: Deployment, number: int, on: str | None) -> bool:
    """Whether ``number`` may be gone back to: no stage further on, nothing in it that was left before."""
    document = state.revision(number).deployment
    if STAGES.index(document.stage) > STAGES.index(current.stage):
        return False
    if document.decision_sha256 in state.revoked:
        return False
    if document.recipe is not None and (document.stage.value, document.recipe) in state.barred_recipes:
        return False
    if on is not None:
        return document.stage is not current.stage
    if any(bundle in state.barred_bundles for bundle in document.bundles):
        return False
    return (document.stage, document.arms, document.shadow) != (current.stage, current.arms, current.shadow)


def _announcement(event: str, document: Deployment) -> str:
    arms = ", ".join(
        f"{arm.name} {arm.share:.0%} ({arm.path} of {_short(arm.bundle)})" for arm in document.arms
    )
    text = f"revision {document.revision}: {event.replace('_', ' ')}, stage {document.stage}; {arms}"
    if document.shadow is not None:
        text += f"; shadow {_short(document.shadow.bundle)}"
    if document.restores is not None:
        text += f"; restores {document.restores}"
    return text


def _decision_entry(decision: Decision) -> Entry:
    return Entry("decision", {"sha256": decision.sha256, "decision": decision.model_dump(mode="json")})


def _cascade_arm(bundle: str) -> Arm:
    return Arm(name="cascade", bundle=bundle, path=PathName.CASCADE, share=1.0)


def _moved(shadow: Shadow | None, bundle: BundleFacts) -> Shadow | None:
    if shadow is None or bundle.model_id is None:
        return None
    return shadow.model_copy(update={"bundle": bundle.bundle_id})


def _pair(value: Sequence[str]) -> tuple[str, str]:
    first, second = value
    return first, second


def _whole(arms: tuple[Arm, ...]) -> tuple[Arm, ...]:
    """The arms with shares that add up to exactly 1, in their proportions."""
    total = sum(arm.share for arm in arms)
    shares = [_share(arm.share / total) for arm in arms]
    shares[0] = _share(1 - sum(shares[1:]))
    return tuple(arm.model_copy(update={"share": share}) for arm, share in zip(arms, shares, strict=True))


def _share(value: float) -> float:
    return round(value, 9)


def _left_with(state: State, incumbent_id: str) -> int | None:
    """The revision that left a bundle with this incumbent, whatever else was in it; None: none did.

    Every night makes another bundle with the same incumbent, so a bar on the bundle alone would last a day.
    """
    return max(
        (
            revision
            for bundle, revision in state.barred_bundles.items()
            if bundle in state.facts and state.facts[bundle].incumbent_id == incumbent_id
        ),
        default=None,
    )


def _has_canary(deployment: Deployment) -> bool:
    return deployment.canary is not None


def _is_generative(deployment: Deployment) -> bool:
    return any(arm.path in GENERATIVE_PATHS for arm in deployment.arms)


def _number(state: State) -> int | None:
    return None if state.current is None else state.current.revision


def _short(identity: str) -> str:
    return identity[:12]
