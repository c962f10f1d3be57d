"""Looks at a simulated migration: online evidence, the gates' decisions, the deployment. The very functions of a real one.

What a gate admits is applied here, as the step ``deployment`` does. What a guardrail asks for is not: a ROLLBACK is left to
the watcher, which acts by itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final

from segue.errors import StateError
from segue.migration.apply import Deployer, Offer
from segue.migration.decide import DECISION_FILE, Decision, Outcome, Target, write_decision
from segue.migration.deployment import Deployment
from segue.migration.evidence import EVIDENCE_FILE, Evidence, write_evidence
from segue.migration.gates import gate, gather, policy_of, read_facts
from segue.migration.ledger import Ledger
from segue.migration.looks import LOOKS_FILE, append_looks
from segue.migration.online import About, online_evidence
from segue.migration.online_experiment import Experiment, running_experiment
from segue.migration.online_users import OnlineUsers
from segue.migration.settings import MigrationSettings
from segue.migration.state_machine import StateMachine
from segue.registry.bundle import publish, read_bundle
from segue.schema import Stage
from segue.serving.store import Store
from segue.serving.watching import StoreReader
from segue.simulation.timeline import Moment, Timeline
from segue.simulation.traffic_loop import Traffic
from segue.simulation.workspace import SimulationWorkspace

OFFLINE: Final = ("offline_evaluation", "refit_check", "serving_check")
_DECISION_STEPS: Final = {Target.PILOT: "pilot", Target.HYBRID: "hybrid", Target.FULL: "full"}
_AT_END_SECONDS: Final = 1.0  # how long the last stage, or the cascade after a rollback, is watched serving
_WATCHER_SECONDS: Final = 15.0  # how long a guardrail that was seen to be crossed may stay unanswered


class Gatekeeper:
    """Judges and moves one simulation. ``crossed_at``: when a look first saw a guardrail crossed, seconds since 1970."""

    def __init__(
        self,
        own: SimulationWorkspace,
        settings: MigrationSettings,
        ledger: Ledger,
        store: Callable[[], Store],
        timeline: Timeline,
    ) -> None:
        self._own = own
        self._settings = settings
        self._machine = StateMachine(ledger, settings)
        self._ledger = ledger
        self._store = store
        self._timeline = timeline
        bundle = own.workspace.step(own.dataset, "bundle")
        self._facts = read_facts(bundle)
        # What was measured before anybody was served is the real contender's: it names the real dataset.
        self._before = gather([own.workspace.step(own.dataset, step) for step in OFFLINE], own.source)
        self._snapshot = read_bundle(bundle, verify=False).histories_snapshot
        self._revision = 0
        self._reader: StoreReader | None = None
        self._read: Experiment | None = None  # whose users the reader counts
        self._ended: float | None = None
        self._crossed: float | None = None  # of the monotonic clock
        self.crossed_at: float | None = None
        self.decisions: dict[Target, Decision] = {}

    def begin(self) -> None:
        """Publish both bundles; the cascade serves, and the pilot is entered if its gate admits it."""
        workspace, dataset = self._own.workspace, self._own.dataset
        for step in ("incumbent_bundle", "bundle"):
            publish(workspace.step(dataset, step), workspace.bundles(dataset))
        facts = read_facts(workspace.step(dataset, "incumbent_bundle"))
        self._machine.bootstrap(facts, reason="simulation: first deployment")

    def look(self, traffic: Traffic) -> bool:
        """Whether the simulation has seen enough."""
        current = self._follow(traffic)
        if self.is_final(current):
            return self._is_over(current, traffic)
        experiment = running_experiment(self._machine.state)
        target = Target.PILOT if experiment is None else experiment.target
        evidence = [*self._before, *self._online(experiment)]
        decision = gate(target, evidence, self._facts, self._settings)
        self._keep(decision)
        self._tell(decision, traffic, current)
        if decision.outcome is Outcome.ROLLBACK:
            self._wait_for_the_watcher(decision)
            return False
        deployer = Deployer(
            self._machine,
            Offer(self._facts, evidence, {target: decision}),
            moment=lambda: datetime.now(UTC),
        )
        try:
            deployer.run()
        except StateError as error:  # the watcher wrote first: look again, at what serves then
            self._timeline.add(self._moment("look", f"somebody else was faster: {error}", traffic, current))
            return False
        self._follow(traffic)
        return False

    def current(self) -> Deployment:
        found = self._machine.state.current
        assert found is not None  # begin() saw to it
        return found

    def _follow(self, traffic: Traffic) -> Deployment:
        """Tell of every revision that is new since the last look."""
        state = self._machine.state
        for revision in state.revisions[self._revision :]:
            document = revision.deployment
            kind = "rollback" if revision.event == "rollback" else "stage"
            arms = ", ".join(f"{arm.name} {arm.share:.0%} {arm.path}" for arm in document.arms)
            text = f"revision {document.revision}, {revision.event}: stage {document.stage} ({arms})"
            if revision.event == "rollback":
                text += f"; by {document.actor}: {document.reason}"
            self._timeline.add(self._moment(kind, text, traffic, document))
        self._revision = len(state.revisions)
        return self.current()

    def _is_over(self, current: Deployment, traffic: Traffic) -> bool:
        """Whether the client has seen the end serve for a while."""
        if self._ended is None and current.revision in traffic.revisions:
            self._ended = traffic.elapsed
        return self._ended is not None and traffic.elapsed - self._ended > _AT_END_SECONDS

    def is_final(self, current: Deployment) -> bool:
        """At the last stage, or the cascade's again."""
        return current.stage is Stage.FULL or self.rolled_back(current)

    @staticmethod
    def rolled_back(current: Deployment) -> bool:
        return current.restores is not None and current.stage is Stage.CASCADE

    def _online(self, experiment: Experiment | None) -> list[Evidence]:
        if experiment is None:
            return []
        wanted = policy_of(self._settings, experiment.target).requirements
        measured = online_evidence(
            experiment,
            self._users(experiment),
            self._settings,
            About(dataset=self._own.dataset, snapshot=self._snapshot, code_version="simulation"),
            only=[one for one in wanted if one.kind == "online"],
        )
        folder = self._own.workspace.step(self._own.dataset, "online_evidence")
        folder.mkdir(parents=True, exist_ok=True)
        write_evidence(folder / EVIDENCE_FILE, measured.evidence)
        append_looks(self._own.state / "online" / LOOKS_FILE, measured.evidence)
        return measured.evidence

    def _users(self, experiment: Experiment) -> OnlineUsers:
        """Counted as their windows close, so that a look costs what is new since the last one."""
        if self._reader is None or self._read is None or self._read.served != experiment.served:
            self._reader = StoreReader(self._store(), experiment, self._settings.online)
            self._read = experiment
        return self._reader.users()

    def _keep(self, decision: Decision) -> None:
        self.decisions[decision.target] = decision
        step = _DECISION_STEPS.get(decision.target)
        if step is not None:
            folder = self._own.workspace.step(self._own.dataset, f"{step}_decision")
            folder.mkdir(parents=True, exist_ok=True)
            write_decision(folder / DECISION_FILE, decision)

    def _tell(self, decision: Decision, traffic: Traffic, current: Deployment) -> None:
        reason = decision.reasons[0] if decision.reasons else "no reason is given"
        statuses = [verdict.status.value for verdict in decision.verdicts]
        key = f"{decision.target} {decision.outcome} {statuses}"
        figures = {
            verdict.requirement.metric: [verdict.estimate, verdict.low, verdict.high, verdict.n]
            for verdict in decision.verdicts
            if verdict.requirement.kind == "online" and verdict.n is not None
        }
        self._timeline.add(
            self._moment(
                "look", f"{decision.target} {decision.outcome}: {reason}", traffic, current, figures
            ),
            key=key,
        )

    def _wait_for_the_watcher(self, decision: Decision) -> None:
        """The loop goes on serving meanwhile: what is measured is how long a real public would go on being served this."""
        now = time.monotonic()
        if self._crossed is None:
            self._crossed, self.crossed_at = now, time.time()
        elif now - self._crossed > _WATCHER_SECONDS:
            raise StateError(
                f"a guardrail of this simulation was crossed {now - self._crossed:.0f} s ago ({decision.reasons[0]}), and no "
                "watcher rolled back: look at server.log beside the simulation's report"
            )

    def _moment(
        self,
        kind: str,
        text: str,
        traffic: Traffic,
        document: Deployment,
        figures: Mapping[str, object] | None = None,
    ) -> Moment:
        return Moment(
            at=round(traffic.elapsed, 3) if traffic.started else 0.0,
            kind=kind,  # type: ignore[arg-type]
            text=text,
            stage=document.stage.value,
            revision=document.revision,
            lists=traffic.visits,
            users=len(traffic.users),
            figures=dict(figures or {}),
        )
