"""Random sequences of all events, with crashes at every write and restarts: what must hold, holds.

The ledger is a real one in SQLite, the projection is the code that serves MLflow, and the registry a dictionary. A crash
ends the "process" wherever a write begins or has ended, by an exception that nothing may catch; the next rule starts
another process over the same files.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from segue.errors import StateError
from segue.migration.decide import Decision, Target
from segue.migration.deployment import BundleFacts, Deployment, read_current
from segue.migration.ledger import Ledger, Row
from segue.migration.online_experiment import running_experiment
from segue.migration.settings import MigrationSettings, Policy
from segue.migration.state import State
from segue.migration.state_machine import STAGES, StateMachine
from segue.registry.projection import answer_requests, desired, project
from segue.schema import PathName, Stage
from tests.migration.builders import (
    NOON,
    OFFLINE,
    ONLINE,
    SETTINGS,
    VALID,
    bundle,
    evidence,
    ledger,
    online,
    promote,
    serving,
)
from tests.migration.test_apply import deployer

A = bundle("A", model=None)
BUNDLES = [
    bundle(f"{model}-{number}", model=model, recipe=recipe)
    for model, recipe in (("M1", "R1"), ("M2", "R1"), ("M3", "R2"))
    for number in range(2)
] + [bundle(f"S-{number}", incumbent="incumbent-2") for number in range(2)]
BLENDED = ONLINE.model_copy(update={"path": "blended"})
RULES = MigrationSettings.model_validate(
    {
        **SETTINGS.model_dump(),
        "holdback_share": 0.1,
        "interleaved_share": 0.05,
        "scenarios": ["home"],
        "scenario": "home",
        "hybrid_path": "blended",
        "blend": {"cascade": 0.3, "generative": 0.7},
        "hybrid": Policy(requirements=(ONLINE, OFFLINE.model_copy(update={"path": "blended"}))),
        "full": Policy(requirements=(BLENDED,)),
        "refresh_recipe": Policy(requirements=(OFFLINE, VALID, BLENDED)),
    }
)
FOUR_EYES = MigrationSettings.model_validate({**RULES.model_dump(), "approval": "second_person"})
HARM = online(estimate=-0.1, low=-0.2, high=-0.05)
PEOPLE = st.sampled_from(["ann", "bob"])
bundles = st.sampled_from(BUNDLES)
once_or_again = st.integers(0, 1).map(str)
REFRESHES = [Target.REFRESH_DATA, Target.REFRESH_RETRAIN, Target.REFRESH_RECIPE]


class Crash(BaseException):
    """The process is gone."""


@dataclass
class Fate:
    """Counts writes down; at zero the process dies."""

    left: int | None = None

    def write(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Crash


class MortalLedger(Ledger):
    """A ledger that may die before it writes, between two rows, before and after its commit, and around current.json."""

    fate: Fate

    def _insert(self, connection: Any, entries: Any, at: str) -> list[Row]:
        written = []
        for entry in entries:
            self.fate.write()
            written.extend(super()._insert(connection, [entry], at))
        self.fate.write()
        return written

    def project(self) -> bool:
        self.fate.write()
        done = super().project()
        self.fate.write()
        return done


@dataclass
class Shelf:
    """A registry in memory that may die at every write."""

    fate: Fate
    shown: dict[str, str] = field(default_factory=dict)
    tags: dict[tuple[str | None, str], str] = field(default_factory=dict)

    def aliases(self) -> dict[str, str]:
        return dict(self.shown)

    def set_alias(self, alias: str, bundle: str) -> None:
        self.fate.write()
        self.shown[alias] = bundle

    def delete_alias(self, alias: str) -> None:
        self.fate.write()
        del self.shown[alias]

    def tag(self, bundle: str | None, key: str, value: str) -> None:
        self.fate.write()
        self.tags[bundle, key] = value


class RandomEvents(RuleBasedStateMachine):
    @initialize(four_eyes=st.booleans(), stage=st.integers(0, 3), facts=st.sampled_from(BUNDLES[:6]))
    def begin(self, four_eyes: bool, stage: int, facts: BundleFacts) -> None:
        """Somewhere on the way: from the cascade alone hardly any sequence would come to full."""
        self.folder = Path(tempfile.mkdtemp())
        self.rules = FOUR_EYES if four_eyes else RULES
        self.fate = Fate()
        self.shelf = Shelf(self.fate)
        self.revoked: set[str] = set()
        self.dead = False
        self.start()
        self.moves.bootstrap(A)
        for target in (Target.PILOT, Target.HYBRID, Target.FULL)[:stage]:
            decision = promote(target, facts, "begin")
            if not self.moves.advance(decision, facts).changed:
                assert self.moves.advance(decision, facts, approver="bob").changed
        project(self.shelf, self.moves)

    def start(self) -> None:
        """A process begins as the step does: verify, catch up."""
        made = ledger(self.folder)
        made.__class__ = MortalLedger
        assert isinstance(made, MortalLedger)
        made.fate = self.fate
        self.fate.left = None
        self.moves = StateMachine(made, self.rules, clock=NOON.isoformat, user="ann")
        made.verify()
        made.project()
        self.dead = False

    def attempt(self, act: Callable[[], Any]) -> None:
        """Whatever is refused changes nothing; whatever dies has either happened or not."""
        self.alive()
        before = self.state()
        try:
            change = act()
        except StateError:
            assert self.state().revisions == before.revisions
            return
        except Crash:
            event("crash")
            self.dead = True
            after = self.state()
            assert after.revisions[: len(before.revisions)] == before.revisions
            assert len(after.revisions) <= len(before.revisions) + 1
            return
        assert change.changed == (self.state().current != before.current)
        unchanged = ("no change", "proposed, and nothing changes yet")
        assert change.changed != change.message.startswith(unchanged)

    def state(self) -> State:
        return self.moves.state

    # -- what may come next

    @rule(left=st.integers(0, 6))
    def will_die(self, left: int) -> None:
        self.alive()
        self.fate.left = left

    @rule()
    def alive(self) -> None:
        """The next start: nothing was lost, and everything that is written from the ledger follows it."""
        if not self.dead:
            return
        event("restart")
        self.moves.ledger.close()
        self.start()
        answered = answer_requests(self.shelf, self.moves, None)
        assert answered == []  # what lags, or was cut short, is nobody's request
        project(self.shelf, self.moves)
        self.caught_up()

    @rule(
        about=st.sampled_from([Target.PILOT, Target.HYBRID, Target.FULL]), facts=bundles, salt=once_or_again
    )
    def advance(self, about: Target, facts: BundleFacts, salt: str) -> None:
        self.attempt(lambda: self.moves.advance(promote(about, facts, salt), facts))

    @rule(facts=st.sampled_from(BUNDLES[:4]), salt=once_or_again)
    def advance_to_the_next_stage(self, facts: BundleFacts, salt: str) -> None:
        """As ``advance``, but always to a stage that can be reached: or full would hardly ever be."""
        stage = self.state().serving.stage
        about = Target(STAGES[min(STAGES.index(stage) + 1, 3)].value)
        self.attempt(lambda: self.moves.advance(promote(about, facts, salt), facts))

    @rule(about=st.sampled_from(REFRESHES), facts=bundles, salt=once_or_again)
    def refresh(self, about: Target, facts: BundleFacts, salt: str) -> None:
        self.attempt(lambda: self.moves.refresh(promote(about, facts, salt), facts))

    @rule(facts=bundles)
    def shadow(self, facts: BundleFacts) -> None:
        self.attempt(lambda: self.moves.shadow(promote(Target.SHADOW, facts), facts))

    @rule(facts=bundles, about=st.sampled_from([Target.CANARY, Target.CANARY_INCUMBENT]))
    def canary(self, facts: BundleFacts, about: Target) -> None:
        self.attempt(lambda: self.moves.canary(promote(about, facts), facts))

    @rule(experiment=st.booleans())
    def rollback(self, experiment: bool) -> None:
        self.attempt(lambda: self.moves.rollback(actor="ann", reason="r", experiment=experiment))

    @rule(to=st.integers(1, 9))
    def rollback_to(self, to: int) -> None:
        self.attempt(lambda: self.moves.rollback(actor="ann", reason="r", to=to))

    @rule()
    def demote(self) -> None:
        self.attempt(lambda: self.moves.demote(actor="ann", reason="r"))

    @rule()
    def abandon(self) -> None:
        self.attempt(lambda: self.moves.abandon(actor="ann", reason="r"))

    @rule(facts=bundles, about=st.sampled_from([Target.PILOT, Target.HYBRID, Target.FULL, *REFRESHES]))
    def override(self, facts: BundleFacts, about: Target) -> None:
        self.attempt(lambda: self.moves.override(facts, about, actor="ann", reason="r"))

    @rule(who=PEOPLE, number=st.integers(0, 2))
    def approve(self, who: str, number: int) -> None:
        waiting = self.state().waiting
        if number >= len(waiting):
            return
        one = waiting[number]

        def act() -> Any:
            if one.override:
                return self.moves.override(
                    one.bundle, one.target, actor=one.actor, reason=one.asked, approver=who
                )
            known = self.state().decisions[one.identity]
            return self._event(known)(known, one.bundle, actor=one.actor, approver=who)

        before = self.state().current
        self.attempt(act)
        if who == one.proposer:
            assert self.state().current == before

    def _event(self, decision: Decision) -> Callable[..., Any]:
        if decision.target in REFRESHES:
            return self.moves.refresh
        if decision.target in (Target.CANARY, Target.CANARY_INCUMBENT):
            return self.moves.canary
        return self.moves.advance

    @rule(facts=bundles, harm=st.booleans())
    def the_step_runs(self, facts: BundleFacts, harm: bool) -> None:
        """What the step ``deployment`` does, with evidence that carries everything, or that broke a guardrail."""
        self.alive()
        before = self.state()
        try:
            running = running_experiment(before)
            told = (HARM if harm else online()).model_copy(update={"recipe_a": facts.recipe})
            if running is not None:
                told = told.model_copy(
                    update={"experiment": running.entry, "gathered_for": running.target.value}
                )
            found = [
                item.model_copy(update={"path_a": path})
                for item in (told, evidence(recipe_a=facts.recipe))
                for path in ("generative", "blended")
            ]
            run = deployer(self.moves, facts, [*found, serving(facts.bundle_id)])
            answer_requests(self.shelf, self.moves, run)
            run.run()
            project(self.shelf, self.moves)
        except StateError:
            return
        except Crash:
            event("crash in the step")
            self.dead = True
            return
        self.caught_up()
        if harm and before.serving.recipe == facts.recipe and before.serving.stage is Stage.PILOT:
            assert self.state().serving.stage is Stage.CASCADE

    @rule(alias=st.sampled_from(["champion", "challenger", "pilot", "hybrid", "full"]), facts=bundles)
    def somebody_moves_an_alias(self, alias: str, facts: BundleFacts) -> None:
        self.alive()
        if self.state().aliases != desired(self.state()):
            return  # what was done by hand since the last run is projected first
        self.shelf.shown[alias] = facts.bundle_id
        failing = deployer(self.moves, facts, [])
        before = self.state().serving
        try:
            answer_requests(self.shelf, self.moves, failing)
            project(self.shelf, self.moves)
        except Crash:
            # A request that was cut short may be asked again: the alias still shows it, or was put back.
            self.dead = True
            self.shelf.shown = dict(self.state().aliases or {})
            return
        now = self.state().serving
        # Without evidence nothing but the way back (an earlier champion) is followed.
        assert now == before or now.restores is not None
        self.caught_up()

    # -- what must hold

    def caught_up(self) -> None:
        state = self.state()
        assert self.shelf.shown == desired(state)
        assert state.aliases == desired(state)
        current = read_current(self.folder / "deployment" / "current.json")
        assert current.deployment == state.current
        assert current.ledger_head in {row.hash for row in self.moves.ledger.rows()}

    @invariant()
    def holds(self) -> None:
        if not hasattr(self, "moves"):
            return
        self.moves.ledger.verify()  # whole, and chained
        state = self.state()
        documents = [revision.deployment for revision in state.revisions]
        assert [document.revision for document in documents] == list(range(1, len(documents) + 1))
        if not self.dead:
            found = read_current(self.folder / "deployment" / "current.json")
            assert found.deployment == documents[-1]  # the document is the ledger's last
        self._arms(documents[-1], state)
        self._decisions(state, documents)
        self._ways_forward(state)
        self._salts(state)
        event(f"stage {state.serving.stage}")
        if self.rules is FOUR_EYES:
            self._approvals(state)

    @staticmethod
    def _arms(current: Deployment, state: State) -> None:
        # One champion; one experiment; one bundle among the arms that are no canary; shares add up to 1.
        assert current.champion in current.arms
        assert sum(arm.name == "canary" for arm in current.arms) <= 1
        assert current.canary is None or current.stage in (Stage.CASCADE, Stage.FULL)
        assert len({arm.bundle for arm in current.arms if arm.name != "canary"}) == 1
        assert set(current.bundles) <= set(state.facts)
        assert abs(sum(arm.share for arm in current.arms) - 1) < 1e-9
        held = current.holdback
        if current.stage is not Stage.CASCADE or current.canary is not None:
            assert held is not None
            assert (held.share, held.path) == (0.1, PathName.CASCADE)

    def _decisions(self, state: State, documents: list[Deployment]) -> None:
        # A decision is applied at most once, and a revoked one never again.
        applied = [document.decision_sha256 for document in documents if document.decision_sha256 is not None]
        assert len(applied) == len(set(applied))
        assert set(applied) <= set(state.decisions)
        for decision, by in state.revoked.items():
            assert state.applied[decision] < by
        assert self.revoked <= set(state.revoked)
        self.revoked = set(state.revoked)

    def _ways_forward(self, state: State) -> None:
        # No stage without its decision, an override that stays visible, or a way back.
        overridden = [row.payload["target"] for row in self.moves.ledger.rows() if row.kind == "override"]
        assert [f"override_{target}" for target in overridden] == [
            revision.event for revision in state.revisions if revision.event.startswith("override_")
        ]
        for before, after in zip(state.revisions, state.revisions[1:], strict=False):
            old, new = before.deployment, after.deployment
            if STAGES.index(new.stage) > STAGES.index(old.stage):
                assert after.event in ("advance", "override_pilot", "override_hybrid", "override_full")
            if after.event == "advance":
                assert new.decision_sha256 is not None
                assert state.decisions[new.decision_sha256].target.value == new.stage.value
                assert STAGES.index(new.stage) == STAGES.index(old.stage) + 1
            if after.event == "rollback":
                assert new.restores is not None
                restored = state.revision(new.restores).deployment
                told = (new.stage, new.scenario, new.blend)
                assert told == (restored.stage, restored.scenario, restored.blend)
                shadowed = None if new.shadow is None else new.shadow.bundle
                if restored.stage is not Stage.CASCADE or old.stage is Stage.CASCADE:
                    assert new.shadow == restored.shadow
                else:  # what is left may go on in shadow
                    assert new.shadow == restored.shadow or shadowed in old.bundles
                assert (new.recipe is None) == (restored.recipe is None)
                if new.recipe is not None:
                    assert new.treatment is not None
                    assert new.recipe == state.facts[new.treatment.bundle].recipe
                assert [arm.name for arm in new.arms] == [arm.name for arm in restored.arms]

    @staticmethod
    def _salts(state: State) -> None:
        documents = [revision.deployment for revision in state.revisions]
        assert len({document.lasting_salt for document in documents}) == 1
        fresh: set[str] = {documents[0].salt}
        for before, after in zip(state.revisions, state.revisions[1:], strict=False):
            old, new = before.deployment, after.deployment
            if new.restores is not None:
                assert new.salt == state.revision(new.restores).deployment.salt
            elif after.event == "canary" or (new.stage is not Stage.CASCADE and old.stage is Stage.CASCADE):
                assert new.salt not in fresh  # an experiment begins
                fresh.add(new.salt)
            elif after.event == "advance" or after.event in {
                f"override_{stage.value}" for stage in STAGES[1:]
            }:
                assert (new.salt == old.salt) == (new.recipe == old.recipe)
                fresh.add(new.salt)
            else:
                assert new.salt == old.salt

    def _approvals(self, state: State) -> None:
        approvals = [row.payload for row in self.moves.ledger.rows() if row.kind == "approval"]
        assert all(row["actor"] not in (row["proposer"], "segue") for row in approvals)
        needing = [
            revision
            for revision in state.revisions
            if revision.event in ("advance", "canary", "refresh_retrain", "refresh_recipe")
            or (revision.event.startswith("override_") and revision.event != "override_refresh_data")
        ]
        assert len(needing) == len(approvals)

    @invariant()
    def rolled_back_bundles_are_welcome(self) -> None:
        """What a rollback restored is never barred by it."""
        if not hasattr(self, "moves"):
            return
        state = self.state()
        if state.serving.restores is not None:
            by = state.serving.revision
            assert not any(state.barred_bundles.get(name) == by for name in state.serving.bundles)

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.moves.ledger.close()
            shutil.rmtree(self.folder)


TestRandomEvents = RandomEvents.TestCase
TestRandomEvents.settings = settings(
    max_examples=60,
    stateful_step_count=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
