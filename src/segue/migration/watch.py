"""The guardrail watcher: looks at the running experiment all the time, and goes back by itself when a guardrail is broken.

It needs no orchestrator, only the ledger and whoever counts users. It never raises a stage. Any number of watchers may run: the
ledger's compare-and-swap lets one of them act, and the others then see that the experiment is over.

The guardrails are those of the policy that the running stage gathers evidence for, at the confidence of their family, so the
chance that a sound experiment is *ever* ended by mistake is 5 % at most, however often the watcher looks (docs/statistics.md).
"""

from __future__ import annotations

import logging
import math
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from segue.errors import StateError
from segue.migration.change import SYSTEM, Change
from segue.migration.decide import Decision, Outcome, decide, newest
from segue.migration.deployment import CANARY
from segue.migration.evidence import Evidence
from segue.migration.gates import guarding_policy_of
from segue.migration.online import About, online_evidence
from segue.migration.online_experiment import Experiment, running_experiment
from segue.migration.online_users import CatalogueFacts, OnlineUsers
from segue.migration.policy import Status, Verdict, evaluate, lint
from segue.migration.settings import MigrationSettings, Policy, Requirement
from segue.migration.state_machine import StateMachine
from segue.schema import PathName, Stage

logger = logging.getLogger("segue.watch")

_OF_ITEMS: Final = ("invalid_rate", "long_tail_share", "new_item_share", "coverage")


class UserReader(Protocol):
    """Counts the users of one experiment, each time only what is new."""

    moment: float  # of the last call, seconds since 1970

    def users(self) -> OnlineUsers:
        """All users whose window has closed by now."""

    def at(self, moment: float) -> OnlineUsers:
        """Of the users of the last call those who had counted at ``moment``."""

    def moments(self, after: float) -> list[float]:
        """When users began to count, from behind ``after`` to the last call's moment, oldest first."""

    def continue_with(self, experiment: Experiment) -> None:
        """Go on after a refresh, by which more lists count than before."""


@dataclass(frozen=True, slots=True)
class Crossing:
    """A guardrail was found broken. Times: seconds since 1970.

    ``crossed_at``: when the user counted with whom the bound crossed the margin, behind the last look that found all in order;
    ``acted_at``: when what serves had been put back. ``change`` is what the rollback did.
    """

    decision: Decision
    change: Change
    crossed_at: float
    noticed_at: float
    acted_at: float

    @property
    def seconds(self) -> float:
        """From the crossing until the rollback stood in the ledger."""
        return self.acted_at - self.crossed_at


class Watcher:
    """Watches one dataset.

    Args:
        machine: over the dataset's ledger.
        reader_for: makes the reader of an experiment.
        about: what evidence says of its origin.
        catalogue: facts of the items, asked for where a guardrail is about them; None: those are not measured.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        machine: StateMachine,
        reader_for: Callable[[Experiment], UserReader],
        about: Callable[[Experiment], About],
        *,
        catalogue: Callable[[Experiment], CatalogueFacts | None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._machine = machine
        self._reader_for = reader_for
        self._about = about
        self._catalogue = catalogue
        self._clock = clock
        self._head: str | None = ""  # of the ledger when it was read last; no row has this hash
        self._reader: UserReader | None = None
        self._facts: CatalogueFacts | None = None
        self._counted: tuple[int, ...] = ()
        self._sound_at = -math.inf  # by which moment every guardrail was last found to hold
        self.experiment: Experiment | None = None
        self.users = 0  # counted at the last look
        self.guardrails: tuple[Verdict, ...] = ()  # as they stood then

    def look(self) -> Crossing | None:
        """Look once; what was found broken and done about it, if anything.

        Raises what the ledger or the reader raises; the next look begins where this one did. Raises
        ConfigurationError where the policy can never pass or never fail.
        """
        self._follow()
        experiment, reader = self.experiment, self._reader
        if experiment is None or reader is None:
            return None
        policy = guarding_policy(experiment, self._machine.settings)
        guardrails = [one for one in policy.requirements if one.guardrail and one.kind == "online"]
        if not guardrails:
            return None
        users = reader.users()
        counted = (users.feedback.height, users.serving.height, sum(users.assigned.values()))
        if counted == self._counted:
            return None
        verdicts = self._verdicts(experiment, users, guardrails)
        self.users, self.guardrails = max(counted[:2]), verdicts
        if not any(verdict.status is Status.FAILED for verdict in verdicts):
            self._counted, self._sound_at = counted, reader.moment
            return None
        return self._act(experiment, reader, users, policy, guardrails)

    def _follow(self) -> None:
        """Read the ledger where it has grown, and begin with another reader where other exposures count."""
        if self._machine.ledger.head() == self._head:
            return
        state = self._machine.state
        before, self.experiment = self.experiment, running_experiment(state)
        self._head = state.head
        self._facts = None  # a refresh brings other items
        if self.experiment is None:
            self._reader = None
        elif self._reader is not None and before is not None and _goes_on(before, self.experiment):
            self._reader.continue_with(self.experiment)
        else:
            self._reader = self._reader_for(self.experiment)
            self._sound_at = -math.inf
            logger.info(
                "watching the experiment that revision %d entered (stage %s)",
                self.experiment.entry,
                self.experiment.stage,
            )
        self._counted = ()
        self.users, self.guardrails = 0, ()

    def _broken(self, experiment: Experiment, users: OnlineUsers, guardrails: Sequence[Requirement]) -> bool:
        verdicts = self._verdicts(experiment, users, guardrails)
        return any(verdict.status is Status.FAILED for verdict in verdicts)

    def _verdicts(
        self, experiment: Experiment, users: OnlineUsers, guardrails: Sequence[Requirement]
    ) -> tuple[Verdict, ...]:
        found = self._evidence(experiment, users, Policy(requirements=tuple(guardrails)))
        recipe, bundle = experiment.on_trial.facts.recipe, experiment.on_trial.facts.bundle_id
        as_of = newest(found)
        target = experiment.target.value
        return tuple(
            evaluate(one, found, as_of, recipe=recipe, bundle=bundle, target=target) for one in guardrails
        )

    def _crossed_at(
        self, experiment: Experiment, reader: UserReader, guardrails: Sequence[Requirement]
    ) -> float:
        """The moment at which a guardrail broken now was not broken before, by bisection: where a bound went to and fro, one
        of its crossings."""
        moments = reader.moments(self._sound_at) or [reader.moment]
        found = bisect_left(
            moments,
            True,
            hi=len(moments) - 1,
            key=lambda one: self._broken(experiment, reader.at(one), guardrails),
        )
        return moments[found]

    def _evidence(self, experiment: Experiment, users: OnlineUsers, policy: Policy) -> list[Evidence]:
        if self._facts is None and any(
            one.metric.partition("@")[0] in _OF_ITEMS for one in policy.requirements
        ):
            self._facts = self._catalogue(experiment)
        measured = online_evidence(
            experiment,
            users,
            self._machine.settings,
            self._about(experiment),
            catalogue=self._facts,
            only=policy.requirements,
        )
        return measured.evidence

    def _act(
        self,
        experiment: Experiment,
        reader: UserReader,
        users: OnlineUsers,
        policy: Policy,
        guardrails: Sequence[Requirement],
    ) -> Crossing | None:
        noticed_at = self._clock()
        evidence = self._evidence(experiment, users, policy)
        as_of = newest(evidence)
        decision = decide(
            evidence,
            policy,
            as_of,
            target=experiment.target,
            recipe=experiment.on_trial.facts.recipe,
            bundle_id=experiment.on_trial.facts.bundle_id,
        )
        if decision.outcome is not Outcome.ROLLBACK:
            return None
        try:
            change = self._machine.rollback(
                actor=SYSTEM,
                reason=f"guardrail: {decision.broken_guardrail}",
                experiment=True,
                decision=decision,
                expected_revision=experiment.revision,  # two watchers must not go back two stages for one fault
            )
        except StateError as error:
            if self._machine.ledger.head() == self._head:
                raise
            logger.info("somebody else was faster: %s", error)
            return None
        acted_at = self._clock()
        crossed_at = self._crossed_at(experiment, reader, guardrails)
        crossing = Crossing(decision, change, crossed_at, noticed_at, acted_at)
        logger.warning(
            "%s; %s; %.3f s after the crossing", decision.broken_guardrail, change.message, crossing.seconds
        )
        return crossing


def _goes_on(before: Experiment, now: Experiment) -> bool:
    """Whether all that counted ``before`` counts ``now``: what was counted need not be read again."""
    return before.identity == now.identity and before.served <= now.served


def guarding_policy(experiment: Experiment, settings: MigrationSettings) -> Policy:
    """The policy whose guardrails hold while ``experiment`` runs. Raises ConfigurationError where it is unsound.

    At the last stage the policy that admitted to it goes on guarding: what it asks of the path that was measured then is
    asked of the path that serves now.
    """
    policy = guarding_policy_of(settings, experiment.target)
    lint(policy, experiment.target.value)
    if experiment.stage is not Stage.FULL or experiment.on_trial.name == CANARY:
        return policy
    label = experiment.on_trial.label
    return Policy(
        requirements=tuple(
            one if one.path == PathName.CASCADE else one.model_copy(update={"path": label})
            for one in policy.requirements
        )
    )
