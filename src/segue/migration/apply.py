"""What the step ``deployment`` does: decisions and requests in, events out.

Nobody's outcome is trusted. A decision is recorded, then evaluated again on its evidence at this very moment,
and only if both say PROMOTE the state machine is asked; it has the last word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from segue.errors import ArtifactError, StateError
from segue.migration.approval import Proposal
from segue.migration.decide import Decision, Outcome, Target, decide
from segue.migration.deployment import BundleFacts
from segue.migration.evidence import Evidence, evidence_sha256
from segue.migration.gates import gate, policy_of
from segue.migration.online_experiment import running_experiment
from segue.migration.policy import path_faults, policy_sha256
from segue.migration.settings import MigrationSettings
from segue.migration.state_machine import STAGES, SYSTEM, Change, Refused, StateMachine
from segue.schema import Stage

REFRESHES: Final = (Target.REFRESH_DATA, Target.REFRESH_RETRAIN, Target.REFRESH_RECIPE)
STAGE_TARGETS: Final = tuple(Target(stage.value) for stage in STAGES[1:])


@dataclass(frozen=True, slots=True)
class Offer:
    """A bundle, what was measured of it, and what was decided about it."""

    bundle: BundleFacts
    evidence: Sequence[Evidence]
    decisions: Mapping[Target, Decision]


@dataclass(slots=True)
class Report:
    """What a run of the deployment did, line by line."""

    lines: list[str] = field(default_factory=list)
    changed: bool = False

    def add(self, subject: str, change: Change) -> None:
        self.changed = self.changed or change.changed
        self.lines.append(f"{subject}: {change.message}")

    @property
    def message(self) -> str:
        """All of it in one line, which begins with "no change" where nothing changed."""
        text = "; ".join(self.lines)
        return text if self.changed else f"no change: {text}"


class Deployer:
    """Applies an offer's decisions through a state machine.

    ``moment`` gives the present, with offset. ``unreadable`` says why the offered bundle's generative model cannot be loaded,
    or None; it is asked only where a decision would let that model serve.
    """

    def __init__(
        self,
        machine: StateMachine,
        offer: Offer,
        *,
        moment: Callable[[], datetime],
        unreadable: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.machine = machine
        self.offer = offer
        self._moment = moment
        self._unreadable = unreadable
        shadow = gate(Target.SHADOW, offer.evidence, offer.bundle, self._settings)
        self.decisions: dict[Target, Decision] = {**offer.decisions, Target.SHADOW: shadow}
        for decision in offer.decisions.values():
            self._require_current(decision)

    @property
    def _settings(self) -> MigrationSettings:
        return self.machine.settings

    def run(self) -> Report:
        """Record every decision and apply, in order: the refresh, the next stages, the shadow."""
        report = Report()
        advanced = False
        for target in (*REFRESHES, *STAGE_TARGETS):
            decision = self.decisions.get(target)
            if decision is None:
                continue
            self.machine.record(decision)
            if advanced:
                # Nobody was shown anything at the stage that was just entered.
                report.add(f"{target} {decision.outcome}", Change("no change: one stage at a time"))
                continue
            subject = f"{target} {decision.outcome}"
            if decision.outcome is Outcome.PROMOTE and not self._settings.automatic:
                report.add(subject, Change(f"no change: it waits for the alias of {target} in MLflow"))
                continue
            change = self.apply(target)
            advanced = change.changed and target in STAGE_TARGETS
            report.add(subject, change)
        self._canary(report)
        self._shadow(report)
        return report

    def approve(self, proposal: Proposal, approver: str) -> Change:
        """Let a proposal act, by the gate of this moment.

        Raises StateError where it may not: another decision lies here, its evidence went stale, its time has passed, or
        the approver is its proposer.
        """
        if proposal.override:
            raise StateError(f"{proposal} is no decision: the state machine takes it")
        if proposal.target in (Target.CANARY, Target.CANARY_INCUMBENT):
            # These two are decided here and not by a step.
            self.decisions[proposal.target] = gate(
                proposal.target, self.offer.evidence, self.offer.bundle, self._settings
            )
        found = self.decisions.get(proposal.target)
        if found is None or found.sha256 != proposal.identity:
            lies = "none" if found is None else f"decision {found.short}"
            raise StateError(
                f"not approved: {proposal} is not what lies here ({lies} about {proposal.target}): "
                "it was decided again since; see `segue status`"
            )
        change = self.apply(proposal.target, actor=proposal.actor, approver=approver)
        if not change.changed:
            raise StateError(f"not approved: {change.message.removeprefix('no change: ')}")
        return change

    def apply(self, target: Target, *, actor: str = SYSTEM, approver: str | None = None) -> Change:
        """Apply the decision about ``target``, if there is one and it stands at this moment.

        ``approver``: the second person, where one is asked for.
        """
        decision = self.decisions.get(target)
        if decision is None:
            return Change(f"no change: nothing was decided about {target}")
        if decision.outcome is Outcome.HOLD:
            return Change(f"no change: {_first(decision)}")
        fresh = self._again(decision)
        if fresh.outcome is not decision.outcome:
            return Change(
                f"no change: decision {decision.short} said {decision.outcome}, "
                f"and at this moment its evidence says {fresh.outcome}: {_first(fresh)}"
            )
        try:
            if decision.outcome is Outcome.ROLLBACK:
                return self._roll_back(decision, actor)
            if (foreign := self._of_another_experiment(decision)) is not None:
                return foreign
            if self._lets_the_model_serve(target) and (reason := self._unreadable()) is not None:
                return Change(f"no change: {reason}")
            event = {
                **dict.fromkeys(STAGE_TARGETS, self.machine.advance),
                **dict.fromkeys(REFRESHES, self.machine.refresh),
                Target.SHADOW: self.machine.shadow,
                Target.CANARY: self.machine.canary,
                Target.CANARY_INCUMBENT: self.machine.canary,
            }[target]
            return event(decision, self.offer.bundle, actor=actor, approver=approver)
        except Refused as refusal:
            return Change(f"no change: {refusal}")

    def _lets_the_model_serve(self, target: Target) -> bool:
        """Whether ``target`` brings weights to a generative arm, or to the shadow. New items under the weights that serve do
        not."""
        if target in (*STAGE_TARGETS, Target.SHADOW, Target.CANARY):
            return True
        current = self.machine.state.current
        return (
            target in (Target.REFRESH_RETRAIN, Target.REFRESH_RECIPE)
            and current is not None
            and (current.stage is not Stage.CASCADE or current.shadow is not None)
        )

    def _again(self, decision: Decision) -> Decision:
        return decide(
            self.offer.evidence,
            policy_of(self._settings, decision.target),
            self._moment(),
            target=decision.target,
            recipe=self.offer.bundle.recipe,
            bundle_id=self.offer.bundle.bundle_id,
            # The settings may name another path by now than when it was decided.
            path_faults=path_faults(self._settings, decision.target.value),
        )

    def _of_another_experiment(self, decision: Decision) -> Change | None:
        """Why online evidence of another experiment than the one that runs does not count, if the decision rests on any.

        The same recipe may enter the same stage again; who suffered it then says nothing about who sees it now.
        """
        if all(verdict.requirement.kind != "online" for verdict in decision.verdicts):
            return None
        running = running_experiment(self.machine.state)
        entry = None if running is None else running.entry
        entries = {
            item.experiment
            for item in self.offer.evidence
            if item.kind == "online"
            and item.gathered_for == decision.target.value
            and item.recipe_a == decision.recipe
        }
        if not (others := entries - {entry}):
            return None
        past = ", ".join(sorted(str(number) for number in others))
        now = "none runs" if entry is None else f"revision {entry} entered the one that runs"
        return Change(
            f"no change: decision {decision.short} rests on online evidence of the experiment that revision {past} "
            f"entered, and {now}: measure again"
        )

    def _roll_back(self, decision: Decision, actor: str) -> Change:
        running = running_experiment(self.machine.state)
        # The recipe on trial: a canary's, where one runs, and not that of the document, which is what it runs beside.
        if running is None or running.on_trial.facts.recipe != decision.recipe:
            return Change("no change: the recipe whose guardrail was crossed serves nobody")
        if (foreign := self._of_another_experiment(decision)) is not None:
            return foreign
        return self.machine.rollback(
            actor=actor, reason=f"guardrail: {decision.broken_guardrail}", experiment=True, decision=decision
        )

    def _canary(self, report: Report) -> None:
        """Another recipe while the generative path serves everybody begins as a canary; so does another
        incumbent while the cascade does."""
        self._canary_of_an_incumbent(report)
        decision = self.decisions.get(Target.REFRESH_RECIPE)
        current = self.machine.state.current
        if decision is None or current is None or current.stage is not Stage.FULL or not decision.verdicts:
            return
        if self.offer.bundle.bundle_id in current.bundles or not self._settings.automatic:
            return
        self.decisions[Target.CANARY] = gate(
            Target.CANARY, self.offer.evidence, self.offer.bundle, self._settings
        )
        report.add("canary", self.apply(Target.CANARY))

    def _canary_of_an_incumbent(self, report: Report) -> None:
        current = self.machine.state.current
        if current is None or current.stage is not Stage.CASCADE or not self._settings.automatic:
            return
        if current.canary is not None or not self.machine.brings_another_incumbent(self.offer.bundle):
            return
        target = Target.CANARY_INCUMBENT
        decision = gate(target, self.offer.evidence, self.offer.bundle, self._settings)
        self.decisions[target] = decision
        self.machine.record(decision)
        report.add("canary of another incumbent", self.apply(target))

    def _shadow(self, report: Report) -> None:
        """At stage cascade the newest contender runs in shadow, if nothing but its pilot is on HOLD."""
        current = self.machine.state.current
        if current is None or current.stage is not Stage.CASCADE or self.offer.bundle.model_id is None:
            return
        if current.canary is not None:
            return  # its bundle can be previewed as it is, and what ran in shadow before goes on
        if current.generative_bundle == self.offer.bundle.bundle_id:
            return
        self.machine.record(self.decisions[Target.SHADOW])
        report.add("shadow", self.apply(Target.SHADOW))

    def _require_current(self, decision: Decision) -> None:
        """Raises ArtifactError where a decision was made on another bundle, evidence or policy."""
        policy = policy_of(self._settings, decision.target)
        if (
            decision.bundle_id != self.offer.bundle.bundle_id
            or decision.evidence_sha256 != evidence_sha256(self.offer.evidence)
            or decision.policy_sha256 != policy_sha256(policy)
        ):
            raise ArtifactError(
                f"the decision about {decision.target} was not made on this bundle, evidence and policy: "
                f"run the decision's step again"
            )


def _first(decision: Decision) -> str:
    return decision.reasons[0] if decision.reasons else "no reason is given"
